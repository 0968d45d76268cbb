"""Which rows are of one scene, which posed scene is theirs, and which changes of files are noticed."""

from __future__ import annotations

import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from raw_layouts import LAYOUTS, made

from data_pipelines.manifest import PrepareError
from data_pipelines.sources import SOURCES

PICTURE = LAYOUTS / "conversations/images/a.jpg"


def said(*images, **fields):
    turns = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Left."}]
    return {"image": list(images), "conversations": turns, **fields}


def folder(tmp_path, rows, pictures=None):
    """Rows and what they name; `pictures` are path -> file, the others all the same."""
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    (raw / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in (path for row in rows for path in row.get("image", ())):
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy((pictures or {}).get(path, PICTURE), raw / path)
    return raw


def scenes_of(raw, **settings):
    """Row (from 1) -> scene."""
    records, _, left = made("llava", raw, **settings)
    assert not left
    found = {row: record.scene for record in records for row in record.metadata["rows"]}
    return [found[place] for place in sorted(found, key=lambda place: int(place.rsplit(" ", 1)[1]))]


@pytest.mark.parametrize("rows, same", [
    ([said(f"room1/{k}.jpg") for k in range(6)], True),  # frames of one folder
    ([said("room1/1.jpg"), said("room2/1.jpg")], False),
    ([said("room1/1.jpg"), said("room2/1.jpg"), said("room1/2.jpg", "room2/2.jpg")], True),  # joined by a later picture
    ([said("scene9000_00/image_color/1.jpg"), said("scene9000_00/video_color/1.jpg")], True),  # SPAR-7M
    ([said("flat/ai_001_001_cam_00_0000.jpg"), said("flat/ai_001_001_cam_01_0007.jpg")], True),  # Hypersim in VSI-590K
    ([said("flat/ai_001_001_cam_00_0000.jpg"), said("flat/ai_001_002_cam_00_0000.jpg")], False),
    ([said("kitchen/images/1.jpg"), said("kitchen/depth.jpg")], True),
    ([said("kitchen/1700000000.jpg"), said("kitchen/1700000001.jpg")], True),  # named by their times
    ([said("kitchen/1700000000.jpg"), said("office/1700000000.jpg")], False),
    ([said("kitchen/0a5c013435.jpg"), said("office/0a5c013435.jpg")], False),  # a picture's name is no scan's
    ([said("kitchen/1700000000/1.jpg"), said("office/1700000000/1.jpg")], False),
    ([said("stills/0a5c013435/1.jpg"), said("more/0a5c013435/dslr/1.jpg")], True),  # ScanNet++
    ([said("data/7831860112/dslr/1.jpg"), said("spp/data/7831860112/iphone/1.jpg")], True),
    ([said("a/1.jpg", scene_name="one"), said("a/2.jpg", scene_name="two")], False),  # stated
    ([said("a/1.jpg", scene_name="one"), said("a/1.jpg", scene_name="two")], True),  # but the picture is the same
    ([said("a/1.jpg"), said("a/1.jpg", scene_name="two")], True),
])  # fmt: skip
def test_rows_that_share_anything_are_of_one_scene(tmp_path, rows, same):
    found = scenes_of(folder(tmp_path, rows))
    assert (len(set(found)) == 1) == same and len(found) == len(rows)
    if not same:
        assert len(set(found)) == len(rows)


def test_no_folder_and_no_picture_is_in_two_splits(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        said(*(f"room{rng.integers(90)}/{rng.integers(3)}.jpg" for _ in range(rng.integers(1, 3)))) for _ in range(40)
    ]
    raw = folder(tmp_path, rows)
    plan = SOURCES["llava"].plan(SOURCES["llava"].settings(raw=str(raw), validation=0.3, test=0.2))
    folders = {
        split: {
            path.split("/")[0]
            for item in items
            for group in item
            for ref in group.rows
            for path in rows[ref.number - 1]["image"]
        }
        for split, items in plan.state.items.items()
    }
    assert set(folders) == {"train", "validation", "test"}
    assert sum(map(len, folders.values())) == len(set.union(*folders.values()))


def test_one_folder_cannot_be_divided_unless_its_pictures_are_strangers(tmp_path):
    raw = folder(tmp_path, [said(f"images/{k}.jpg") for k in range(12)])
    with pytest.raises(PrepareError, match="All rows are of one scene .*'images'.*--scenes picture"):
        made("llava", raw, validation=0.4)
    assert len(set(scenes_of(raw, scenes="picture", validation=0.4))) == 12


def seven(tmp_path, *names):
    """7-Scenes: the miniature under several rooms, each with colours of its own."""
    source = LAYOUTS / "sevenscenes"
    sequence = next(source.rglob("seq-*"))
    for number, name in enumerate(names):
        place = shutil.copytree(sequence, tmp_path / "scans" / name / "seq-01")
        for file in place.glob("*.color.png"):
            Image.fromarray(np.full((48, 64, 3), 40 + 60 * number, np.uint8)).save(file)
    frame = sorted(place.glob("*.color.png"))[0].name
    return tmp_path / "scans", f"seq-01/{frame}"


def shade(record):
    return int(np.asarray(Image.open(io.BytesIO(record.images[0]))).mean())


def test_geometry_is_that_of_the_scene_that_the_path_names(tmp_path):
    scans, frame = seven(tmp_path, "chess", "fire")
    rows = [said(f"7scenes/fire/{frame}"), said(f"chess/{frame}"), said(f"office/{frame}")]
    pictures = {f"{place}{room}/{frame}": scans / room / frame for place, room in (("7scenes/", "fire"), ("", "chess"))}
    raw = folder(tmp_path, [*rows, said("x/3.jpg", scene_name="fire.seq-01")], pictures)
    records, counts, _ = made("llava", raw, geometry=f"sevenscenes:camera=58,58,32,24={scans}")
    shown = {record.metadata["rows"][0].rsplit(" ", 1)[1]: record for record in records}
    assert [shade(shown[k]) for k in "12"] == [100, 40] and counts["pictures/with_geometry"] >= 2
    assert [shown[k].scene for k in "124"] == ["fire.seq-01", "chess.seq-01", "fire.seq-01"]
    raw = folder(tmp_path, [said(f"chess/{frame}"), said(f"chess/{frame}", scene_name="fire.seq-01")])
    left = made("llava", raw, geometry=f"sevenscenes:camera=58,58,32,24={scans}")[2]
    assert list(left.values()) == [f"'scene_name': is fire.seq-01, but 'chess/{frame}' lies in chess.seq-01"]
    assert shown["3"].images[0] == PICTURE.read_bytes() and shown["3"].scene == "office/seq-01"  # nobody else's picture


def test_a_name_of_two_scenes_is_refused(tmp_path):
    for layout in ("one", "two"):
        shutil.copytree(LAYOUTS / "scannet/exported", tmp_path / layout)
    raw = folder(
        tmp_path, [said("scene9000_00/color/1.jpg"), said("other/1.jpg"), said("two/scene9000_00/color/1.jpg")]
    )
    both = ",".join(f"posed_rgbd={tmp_path / name}" for name in ("one", "two"))
    records, counts, left = made("llava", raw, geometry=both)
    assert list(left) == ["rows.jsonl, line 1"] and counts["rows_left_out/ambiguous_scene"] == 1
    assert "names several scenes of --geometry: " in left["rows.jsonl, line 1"] and len(records) == 2


def test_stills_of_arkitscenes_meet_their_frames(tmp_path):
    scans = LAYOUTS / "arkitscenes/raw"
    names = [f"41000001/lowres_wide/41000001_100.{stamp}.png" for stamp in ("017", "217")]
    raw = folder(tmp_path, [said(*names)], {name: next(scans.rglob(name)) for name in names})
    (record,), counts, _ = made("llava", raw, geometry=f"arkitscenes={scans}")
    assert counts["pictures/with_geometry"] == 2 and record.metadata["frames"] == ["100.017", "100.217"]
    assert record.scene == "41000001" and record.depth_unit_m == 0.001 and record.pose_valid.all()
    alone = {one.view_ids[0]: one for one in made("arkitscenes", scans, views=1)[0]}
    for place, name in enumerate(record.metadata["frames"]):
        np.testing.assert_array_equal(record.camera_to_world[place], alone[name].camera_to_world[0])
        assert record.depths[place] == alone[name].depths[0] and record.images[place] == alone[name].images[0]


def test_a_layouts_own_settings_come_along(tmp_path):
    (sequence,) = (path.parent for path in (LAYOUTS / "tum").rglob("rgb.txt"))
    picture = next(line.split()[1] for line in (sequence / "rgb.txt").read_text().splitlines() if line[0] != "#")
    raw = folder(tmp_path, [said(f"{sequence.name}/{picture}")], {f"{sequence.name}/{picture}": sequence / picture})
    with pytest.raises(PrepareError, match="Give --camera"):
        made("llava", raw, geometry=f"tum={sequence.parent}")
    tum = f"tum:camera=58,58,32,24:tolerance=0.05={sequence.parent}"
    (record,), counts, _ = made("llava", raw, geometry=f"posed_rgbd={LAYOUTS / 'scannet/exported'},{tum}")
    np.testing.assert_allclose(record.intrinsics[0], [[58, 0, 32], [0, 58, 24], [0, 0, 1]])
    assert counts["pictures/with_geometry"] == 1 and record.depth_unit_m == 1 / 5000
    for part, reason in (
        ("tum:camra=1,2,3,4", "has no setting 'camra'"),
        ("tum:views=3", "has no setting 'views' here"),
        ("tum:tolerance=wide", "'tolerance' is 'wide', expected float"),
        ("tum:camera=0,0,0,0", "fx and fy above 0"),
        ("nerfstudio:metric=perhaps", "'metric' is 'perhaps', expected bool"),
    ):
        with pytest.raises(PrepareError, match=reason):
            made("llava", raw, geometry=f"{part}={sequence.parent}")
    settings = SOURCES["llava"].settings(raw=str(raw), geometry=tum)
    assert SOURCES["llava"].plan(settings).arguments["geometry"] == ["tum:camera=58,58,32,24:tolerance=0.05"]


def content(raw, **settings):
    plan = SOURCES["llava"].plan(SOURCES["llava"].settings(raw=str(raw), **settings))
    return plan.arguments["content_of_raw"]


def test_changed_cameras_of_joined_scenes_are_noticed(tmp_path):
    scans = shutil.copytree(LAYOUTS / "scannet/exported", tmp_path / "scans")
    raw = folder(tmp_path, [said("scene9000_00/color/1.jpg")])
    settings = dict(geometry=f"posed_rgbd={scans}")
    before = content(raw, **settings)
    assert content(raw, **settings) == before
    for file in (scans / "scene9000_00/intrinsic").glob("intrinsic_*.txt"):
        matrix = np.loadtxt(file)
        matrix[0, 0] += 1
        np.savetxt(file, matrix)
    assert content(raw, **settings) != before


def test_changed_frames_of_a_video_that_is_a_folder_are_noticed(tmp_path):
    row = said()
    del row["image"]
    raw = folder(tmp_path, [{**row, "video": "walk"}])
    (raw / "walk").mkdir()
    for number in range(3):
        shutil.copy(PICTURE, raw / f"walk/{number}.jpg")
    seen = [content(raw), content(raw)]
    os.utime(raw / "walk/1.jpg", ns=(1, 10**15))  # repainted
    seen.append(content(raw))
    (raw / "walk/1.jpg").unlink()
    seen.append(content(raw))
    shutil.copy(PICTURE, raw / "walk/7.jpg")
    seen.append(content(raw))
    assert seen[0] == seen[1] and len(set(seen)) == 4
