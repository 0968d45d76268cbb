"""Labels from other programs: exports of Depth Anything 3 and VGGT, and checks on arrival."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from loader_fakes import processor

from data_pipelines.labels.arrival import agreement, check_arrival
from data_pipelines.labels.exports import read_export
from data_pipelines.labels.files import LabelError, label_path, read_labels
from data_pipelines.labels.pictures import picture_places
from data_pipelines.loader import DataConfig, SourceConfig, make_loader
from data_pipelines.storage import open_split
from experiments import label

ROOT = Path(__file__).parents[2]
LAYOUTS = ROOT / "tests/layouts"
FILES = {
    "da3": ("da3_results.npz", "exports/mini_npz/results.npz"),
    "vggt": ("vggt_predictions.npz", "predictions.npz"),
}


@pytest.fixture(scope="module")
def data(four_views):
    return four_views


@pytest.fixture(params=FILES)
def exported(request, data, tmp_path):
    """(teacher, folder of exports, record)."""
    record = open_split(data, "train")[0]
    file, name = FILES[request.param]
    place = tmp_path / "exports" / label_path("", record.id).name.removesuffix(".npz") / name
    place.parent.mkdir(parents=True)
    shutil.copy(LAYOUTS / "teachers" / file, place)
    return request.param, tmp_path / "exports", record, place


def test_exports_become_labels_in_the_first_views_frame(exported, data, tmp_path):
    teacher, exports, record, _ = exported
    manifest = label.label_exports(
        teacher, exports, data, tmp_path / "out", ["train"], "weights-1", "", licence="CC BY-NC 4.0"
    )
    assert (manifest["written"], manifest["without_export"], manifest["masked_for_disagreement"]) == (1, 0, 0)
    found = read_labels(tmp_path / "out", record.id, view_ids=record.view_ids, images=record.images, teacher=teacher)
    wanted = np.load(LAYOUTS / "expected/teachers.npz")
    np.testing.assert_allclose(found.camera_to_world, wanted[f"{teacher}_camera_to_view0"], atol=2e-5)
    np.testing.assert_allclose(found.intrinsics, wanted[f"{teacher}_intrinsics"], atol=1e-4)
    np.testing.assert_allclose(found.depth[found.valid], wanted[f"depth_{teacher}"][found.valid], rtol=1e-6)
    assert found.licence == "CC BY-NC 4.0" and not found.metric and found.checkpoint == "weights-1"
    assert manifest["agreement_5_50_95_percent"][1] > 0.9  # one room, four true views
    again = label.label_exports(
        teacher, exports, data, tmp_path / "out", ["train"], "weights-1", licence="CC BY-NC 4.0"
    )
    assert (again["written"], again["kept"]) == (0, 1)


def test_a_loader_trains_on_them(exported, data, tmp_path):
    teacher, exports, record, _ = exported
    out = tmp_path / "out"
    label.label_exports(teacher, exports, data, out, ["train"], "weights-1", metric=teacher == "da3")
    source = SourceConfig(path=str(data), per_batch=1, text=False, labels=str(out), features="none")
    config = DataConfig(sources=(source,), questions=1, views=4, label_size=(24, 32), threads=0)
    batch = make_loader(config, processor()).batch(0)
    assert batch["has_geometry"].all() and batch["depth_valid"].all()
    assert (batch["scene_scale_m"][0] > 0) == (teacher == "da3")  # metric scale is kept where the teacher has it


def test_features_beside_an_export_are_averaged_and_trained_on(exported, data, tmp_path):
    teacher, exports, record, place = exported
    features = np.random.default_rng(0).standard_normal((4, 48, 72, 5)).astype(np.float32)
    np.savez(place, **dict(np.load(place)), features=features)
    out = tmp_path / "out"
    label.label_exports(teacher, exports, data, out, ["train"], "w")
    found = read_labels(out, record.id)
    blocks = features.astype(np.float64).reshape(4, 24, 2, 24, 3, 5).mean((2, 4))
    np.testing.assert_allclose(found.features, blocks, atol=2e-3)
    # The cells' corners are those of the depth map.
    corner = np.array([24.0, 24.0, 1.0]), np.array([*found.depth.shape[:0:-1], 1.0])
    np.testing.assert_allclose(found.feature_affine @ corner[0], found.label_affine @ corner[1], rtol=1e-9)
    source = SourceConfig(path=str(data), per_batch=1, text=False, labels=str(out))
    config = DataConfig(sources=(source,), questions=1, views=4, label_size=(24, 32), threads=0)
    batch = make_loader(config, processor()).batch(0)
    assert batch["has_features"].all() and batch["teacher_features"].shape == (1, 4, 4, 5)
    for wrong in (features[:3], features[0], features.astype(np.int32)):
        np.savez(place, **{**dict(np.load(place)), "features": wrong})
        with pytest.raises(LabelError, match="field 'features' is"):
            label.label_exports(teacher, exports, data, tmp_path / "other", ["train"], "w")


def test_scenes_whose_views_disagree_are_masked_and_counted(exported, data, tmp_path):
    teacher, exports, record, place = exported
    values = dict(np.load(place))
    name = "extrinsics" if teacher == "da3" else "extrinsic"
    values[name] = values[name].copy()
    values[name][1:, :, 3] += [0.9, -0.7, 0.8]
    values.pop("world_points_from_depth", None)
    np.savez(place, **values)
    manifest = label.label_exports(teacher, exports, data, tmp_path / "out", ["train"], "w", least=0.7)
    assert manifest["masked_for_disagreement"] == 1
    assert not read_labels(tmp_path / "out", record.id).valid.any()
    lines = [json.loads(line) for line in (tmp_path / "out/agreement.jsonl").read_text().splitlines()]
    assert lines[0]["id"] == record.id and lines[0]["agreement"] < 0.7


def test_intrinsics_of_the_original_pictures_are_refused(exported, data, tmp_path):
    teacher, exports, record, place = exported
    values = dict(np.load(place))
    name = "intrinsics" if teacher == "da3" else "intrinsic"
    values[name] = values[name] * np.array([[4.0], [4.0], [1.0]], np.float32)
    values.pop("world_points_from_depth", None)
    np.savez(place, **values)
    with pytest.raises(LabelError, match="view '.*', field 'intrinsics': cx = .* does not fit .* another size"):
        label.label_exports(teacher, exports, data, tmp_path / "out", ["train"], "w")
    assert not list((tmp_path / "out").glob("*.npz"))


def test_a_view_without_a_camera_has_no_part_in_the_agreement():
    texts = dict(view_ids=tuple("abcd"), checkpoint="w", images_hash="i")
    whole = read_export(
        LAYOUTS / "teachers/da3_results.npz", "da3", [(70, 56)] * 4, "upper_bound_resize", process_res=70, **texts
    )
    cameras = {name: getattr(whole, name).copy() for name in ("intrinsics", "camera_to_world")}
    cameras["intrinsics"][1], cameras["camera_to_world"][1, :3, 3] = 0, [0.9, -0.7, 0.8]
    labels = dataclasses.replace(whole, **cameras, pose_valid=np.array([True, False, True, True]))
    others = {name: getattr(whole, name)[[0, 2, 3]] for name in (*cameras, "depth", "confidence", "valid", "label_affine", "pose_valid")}  # fmt: skip
    assert agreement(labels) == agreement(dataclasses.replace(whole, **others, view_ids=tuple("acd"))) > 0.9


@pytest.mark.parametrize("field", ["world_points_from_depth", "world_points"])
def test_points_that_do_not_follow_from_depth_and_cameras_are_refused(tmp_path, field):
    values = dict(np.load(LAYOUTS / "teachers/vggt_predictions.npz"))
    points = values.pop("world_points_from_depth")
    values[field] = points * [1, -1, 1]
    np.savez(tmp_path / "predictions.npz", **values)
    texts = dict(view_ids=tuple("abcd"), checkpoint="w", images_hash="i")
    with pytest.raises(ValueError, match=f"'{field}': the stated points lie .* Depth and cameras do not belong"):
        read_export(tmp_path / "predictions.npz", "vggt", [(70, 56)] * 4, "crop", **texts)
    values[field] = points * 1.1  # within what a point head of its own may differ by, too far for unprojected depth
    np.savez(tmp_path / "predictions.npz", **values)
    if field == "world_points":
        read_export(tmp_path / "predictions.npz", "vggt", [(70, 56)] * 4, "crop", **texts)
    else:
        with pytest.raises(ValueError, match="lie"):
            read_export(tmp_path / "predictions.npz", "vggt", [(70, 56)] * 4, "crop", **texts)


@pytest.mark.parametrize("change, message", [
    (lambda v: v.pop("conf"), "fields \\['conf'\\] are missing"),
    (lambda v: v.update(depth=v["depth"][:3]), "depth is \\(3, 56, 70\\), the record has 4 views"),
    (lambda v: v.update(conf=v["conf"][:, :5]), "arrays of unexpected shapes {'conf': \\(4, 5, 70\\)}"),
    (lambda v: v.update(extrinsics=v["extrinsics"] * 2), "'extrinsics' holds no rigid motions"),
])  # fmt: skip
def test_broken_exports_are_named(change, message, tmp_path):
    values = dict(np.load(LAYOUTS / "teachers/da3_results.npz"))
    change(values)
    np.savez(tmp_path / "results.npz", **values)
    with pytest.raises(LabelError, match=message):
        read_export(
            tmp_path / "results.npz",
            "da3",
            [(70, 56)] * 4,
            "resize",
            view_ids=tuple("abcd"),
            checkpoint="w",
            images_hash="i",
        )
    (tmp_path / "results.npz").write_bytes(b"PK broken")
    with pytest.raises(LabelError, match="cannot be read"):
        read_export(
            tmp_path / "results.npz",
            "da3",
            [(70, 56)] * 4,
            "resize",
            view_ids=tuple("abcd"),
            checkpoint="w",
            images_hash="i",
        )


def corners(place, width, height):
    """Original pixels of the corners (x0, y0) and (x1, y1) of a width x height map."""
    return place.affine @ [0, 0, 1], place.affine @ [width, height, 1]


@pytest.mark.parametrize("teacher, sizes, processed, resize, side, wanted", [
    # (picture's number, original pixels of the map's first and last corner, share of the map that shows the picture)
    ("da3", [(640, 480)] * 2, (378, 504), "resize", 0, [(0, (0, 0), (640, 480), 1)]),
    ("da3", [(640, 360)], (280, 504), "resize", 0, [(0, (0, 0), (640, 360), 1)]),
    # 504 x 378 and 378 x 504, both cut to 378 x 378
    ("da3", [(640, 480), (480, 640)], (378, 378), "resize", 0,
     [(0, (80, 0), (560, 480), 1), (1, (0, 80), (480, 560), 1)]),
    # 720 x 504, of which 714 are whole patches
    ("da3", [(1000, 700)], (504, 714), "crop", 0, [(0, (3 / 0.72, 0), (717 / 0.72, 700), 1)]),
    ("da3", [(1000, 700)], (504, 714), "lower_bound_crop", 504, [(0, (3 / 0.72, 0), (717 / 0.72, 700), 1)]),
    ("da3", [(640, 360)], (280, 504), "upper_bound_crop", 0, [(0, (0, 2 * 360 / 284), (640, 282 * 360 / 284), 1)]),
    ("vggt", [(480, 640)], (518, 518), "crop", 0, [(0, (0, 84 * 640 / 686), (480, 602 * 640 / 686), 1)]),
    # 294 rows within the 392 of the other
    ("vggt", [(640, 360), (640, 480)], (392, 518), "crop", 0,
     [(0, (0, -60), (640, 420), 0.75), (1, (0, 0), (640, 480), 1)]),
    # one is cut to 518 rows, the other padded to them
    ("vggt", [(480, 640), (640, 480)], (518, 518), "crop", 518,
     [(0, (0, 84 * 640 / 686), (480, 602 * 640 / 686), 1), (1, (0, -63 * 480 / 392), (640, 455 * 480 / 392), 392 / 518)]),
    ("vggt", [(480, 640), (640, 480)], (518, 518), "pad", 0,
     [(0, (-63 * 480 / 392, 0), (455 * 480 / 392, 640), 392 / 518), (1, (0, -63 * 480 / 392), (640, 455 * 480 / 392), 392 / 518)]),
])  # fmt: skip
def test_where_pictures_lie_in_what_the_teacher_saw(teacher, sizes, processed, resize, side, wanted):
    places = picture_places(teacher, sizes, processed, resize, side)
    assert len(places) == len(sizes)
    for number, first, last, share in wanted:
        found = corners(places[number], *processed[::-1])
        np.testing.assert_allclose(found, [first, last], atol=1e-9)
        assert abs(places[number].inside.mean() - share) < 1e-9


@pytest.mark.parametrize("teacher, sizes, processed, resize, side", [
    ("da3", [(480, 640)], (378, 504), "resize", 0),  # portrait pictures, landscape depth
    ("da3", [(640, 480)], (378, 504), "crop", 518),
    ("da3", [(640, 480), (480, 640)], (378, 504), "resize", 0),
    ("vggt", [(640, 360)], (392, 518), "crop", 0),
    ("vggt", [(640, 480)], (392, 518), "pad", 0),
])  # fmt: skip
def test_maps_that_the_teacher_does_not_make_of_such_pictures_are_refused(teacher, sizes, processed, resize, side):
    with pytest.raises(LabelError, match="x.npz: the maps are .* but of pictures of"):
        picture_places(teacher, sizes, processed, resize, side, "x.npz")


def test_views_that_see_nothing_of_each_other_are_not_judged(exported, data, tmp_path):
    teacher, exports, record, place = exported
    texts = dict(view_ids=record.view_ids, checkpoint="w", images_hash="i")
    labels = read_export(place, teacher, [(64, 48)] * 4, "resize" if teacher == "da3" else "crop", **texts)
    labels.camera_to_world[1:, :3, 3] += 100.0 * np.arange(1, 4)[:, None]
    assert agreement(labels) is None
    kept = check_arrival(labels, 0.9)
    assert np.isnan(kept.agreement) and kept.masked_depth is None and kept.valid.all()
