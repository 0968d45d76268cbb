"""posed_rgbd on the miniature scan of posed_scenes.py."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from posed_scenes import FOCAL, HEIGHT, WIDTH, camera, convert, counts, matrix, write_scene

from data_pipelines.manifest import PrepareError, read_manifest


@pytest.fixture
def scene(tmp_path):
    return write_scene(tmp_path / "raw" / "lab")


def depth_of(record, view):
    return np.asarray(Image.open(io.BytesIO(record.depths[view]))) * record.depth_unit_m


def heights_above_plane(record, view):
    """World z of every pixel with depth, by this test's own unprojection."""
    depth = depth_of(record, view)
    rows, columns = np.mgrid[: depth.shape[0], : depth.shape[1]] + 0.5
    pixels = np.stack([columns, rows, np.ones_like(rows)], -1)
    points = (pixels @ np.linalg.inv(record.intrinsics[view]).T) * depth[..., None]
    world = points @ record.camera_to_world[view][:3, :3].T + record.camera_to_world[view][:3, 3]
    return np.abs(world[..., 2][depth > 0])


@pytest.mark.parametrize("max_size", [0, 16])
def test_pixels_lie_on_the_plane(scene, tmp_path, max_size):
    manifest, splits = convert(scene, tmp_path / "out", views=4, max_size=max_size)
    record = splits["train"][1]
    assert record.view_ids == ("4", "5", "6", "7") and record.pose_valid.all() and record.scene == "lab"
    size = (16, 12) if max_size else (WIDTH, HEIGHT)
    for view in range(4):
        assert Image.open(io.BytesIO(record.images[view])).size == size
        # One rounding of 0.5 mm; nearest sampling of a tilted plane is off by less than half a source pixel.
        assert heights_above_plane(record, view).max() < (0.02 if max_size else 6e-4)
    factor = 0.5 if max_size else 1.0
    np.testing.assert_allclose(
        record.intrinsics[0], [[40 * factor, 0, size[0] / 2], [0, 40 * factor, size[1] / 2], [0, 0, 1]], atol=1e-12
    )
    ramp = np.asarray(Image.open(io.BytesIO(record.images[0])).convert("L"), float)
    expected = (np.arange(size[0]) + 0.5) / size[0] * 255
    assert np.abs(ramp[size[1] // 2] - expected).max() < 5  # colour shrunk without a shift
    assert manifest["splits"]["train"]["buckets"][0]["height"] == size[1]


def test_half_pixel_argument_and_colour_intrinsics(scene, tmp_path):
    record = convert(scene, tmp_path / "corner", principal_point="corner")[1]["train"][0]
    np.testing.assert_allclose(record.intrinsics[0][:2, 2], [WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5])
    assert heights_above_plane(record, 0).max() > 6e-3  # the convention matters
    (scene / "intrinsic" / "intrinsic_depth.txt").unlink()
    record = convert(scene, tmp_path / "scaled")[1]["train"][0]
    np.testing.assert_allclose(record.intrinsics[0], matrix(FOCAL, WIDTH, HEIGHT, 0)[:3, :3])


def test_intrinsics_of_another_size_are_refused_or_scaled_on_request(scene, tmp_path):
    np.savetxt(scene / "intrinsic" / "intrinsic_depth.txt", matrix(FOCAL * 20, WIDTH * 20, HEIGHT * 20))
    with pytest.raises(PrepareError, match="intrinsic_depth.txt: cx = 320 does not fit a picture of 32x24.*scaled"):
        convert(scene, tmp_path / "out")
    record = convert(scene, tmp_path / "out", intrinsics_size="640x480")[1]["train"][0]
    np.testing.assert_allclose(record.intrinsics[0], matrix(FOCAL, WIDTH, HEIGHT, 0)[:3, :3])
    assert heights_above_plane(record, 0).max() < 6e-4


def test_untouched_files_keep_their_bytes(tmp_path):
    folder = write_scene(tmp_path / "raw" / "lab", colour_scale=1)
    record = convert(folder, tmp_path / "out")[1]["train"][0]
    assert record.images[2] == (folder / "color" / "2.jpg").read_bytes()
    assert record.depths[2] == (folder / "depth" / "2.png").read_bytes()


BAD_POSES = {
    "not_finite": np.full((4, 4), -np.inf),
    "all_zero": np.zeros((4, 4)),
    "not_a_rigid_motion": np.diag([1.0, 1.0, 2.0, 1.0]),
}


def test_bad_poses_are_masked_and_counted(scene, tmp_path):
    for frame, pose in enumerate(BAD_POSES.values()):
        np.savetxt(scene / "pose" / f"{frame}.txt", pose)
    (scene / "pose" / "3.txt").write_text("1 0 0 banana")
    (scene / "pose" / "4.txt").unlink()
    np.savetxt(scene / "pose" / "5.txt", np.eye(4))
    np.savetxt(scene / "pose" / "6.txt", np.eye(4))
    np.savetxt(scene / "pose" / "7.txt", np.diag([1.0, 1.0, -1.0, 1.0]))  # a mirror
    manifest, splits = convert(scene, tmp_path / "out", views=8)
    record = splits["train"][0]
    assert not record.pose_valid.any() and np.array_equal(record.camera_to_world, np.tile(np.eye(4), (8, 1, 1)))
    found = {name.split("/")[1]: n for name, n in counts(manifest).items() if name.startswith("pose_masked/")}
    assert found == {
        "not_finite": 1, "all_zero": 1, "not_a_rigid_motion": 2, "unreadable": 1, "missing": 1, "repeated_identity": 2,
    }  # fmt: skip
    assert all(record.depths)


def test_one_identity_pose_is_a_pose(scene, tmp_path):
    np.savetxt(scene / "pose" / "0.txt", np.eye(4))
    assert convert(scene, tmp_path / "out")[1]["train"][0].pose_valid.all()


def test_depth_holes_and_missing_depth(scene, tmp_path):
    steps = np.asarray(Image.open(scene / "depth" / "0.png")).copy()
    steps[0, 0], steps[1, 1] = 65535, 0
    Image.fromarray(steps).save(scene / "depth" / "0.png")
    (scene / "depth" / "1.png").unlink()
    (scene / "depth" / "2.png").write_bytes((scene / "depth" / "2.png").read_bytes()[:60])
    Image.fromarray(np.full((HEIGHT, WIDTH), 65535, np.uint16)).save(scene / "depth" / "3.png")
    Image.fromarray(np.ones((6, 8), np.uint16)).save(scene / "depth" / "4.png")
    manifest, splits = convert(scene, tmp_path / "out", views=5)
    record = splits["train"][0]
    depth = depth_of(record, 0)
    assert depth[0, 0] == 0 and depth[1, 1] == 0 and (depth > 0).sum() == depth.size - 2
    assert record.depths[1:] == (b"",) * 4 and record.pose_valid.all()
    assert {name: n for name, n in counts(manifest).items() if "depth" in name} == {
        "depth_missing/no_file": 1, "depth_missing/undecodable": 1, "depth_missing/no_valid_pixel": 1,
        "depth_missing/other_size": 1,
    }  # fmt: skip


def test_unusable_pictures_are_dropped_with_their_reason(scene, tmp_path):
    path = scene / "color" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    (scene / "color" / "2.jpg").write_bytes(b"")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (2 * WIDTH, 2 * HEIGHT)).save(scene / "color" / "3.jpg", exif=exif)
    Image.new("RGB", (8, 6)).save(scene / "color" / "4.jpg")
    manifest, splits = convert(scene, tmp_path / "out", views=2)
    assert [record.view_ids for record in splits["train"]] == [("0", "5"), ("6", "7")]
    assert counts(manifest)["frames_dropped"] == 4 and counts(manifest)["frames_in_no_record"] == 4
    skipped = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [row["id"] for row in skipped] == ["lab/1", "lab/2", "lab/3", "lab/4"]
    reasons = [row["reason"] for row in skipped]
    assert "truncated" in reasons[0] and "cannot be decoded" in reasons[1]
    assert "EXIF orientation 6" in reasons[2] and "is (8, 6)" in reasons[3]


def test_frames_are_ordered_by_number(tmp_path):
    folder = write_scene(tmp_path / "raw" / "lab", frames=4, first=8)  # 8, 9, 10, 11: as text 10 < 8
    assert convert(folder, tmp_path / "out")[1]["train"][0].view_ids == ("8", "9", "10", "11")
    for old in sorted((folder / "color").iterdir()):
        old.rename(old.with_name(f"frame-{int(old.stem):06d}.color.jpg"))
    assert convert(folder, tmp_path / "other")[1]["train"][0].depths[3]
    Image.new("RGB", (64, 48)).save(folder / "color" / "8.png")
    with pytest.raises(PrepareError, match="both have number 8"):
        convert(folder, tmp_path / "third")


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, ["0-1-2", "3-4-5"]),
        ({"stride": 2}, ["0-2-4"]),
        ({"hop": 1}, [f"{k}-{k + 1}-{k + 2}" for k in range(6)]),
        ({"hop": 4}, ["0-1-2", "4-5-6"]),
        ({"sampler": "stride", "stride": 2}, ["0-2-4", "1-3-5"]),
        ({"sampler": "uniform", "records_per_scene": 2}, ["0-2-5", "1-4-6"]),
        ({"sampler": "uniform", "records_per_scene": 1}, ["0-2-5"]),
    ],
)
def test_samplers(scene, tmp_path, settings, expected):
    ids = convert(scene, tmp_path / "out", views=3, **settings)[1]["train"].ids
    assert [name.removeprefix("lab.") for name in ids] == expected


def test_uniform_replaces_a_broken_frame(scene, tmp_path):
    (scene / "color" / "2.jpg").write_bytes(b"")
    ids = convert(scene, tmp_path / "out", views=2, sampler="uniform", records_per_scene=1)[1]["train"].ids
    assert ids == ("lab.0-4",)
    (scene / "color" / "0.jpg").write_bytes(b"")
    ids = convert(scene, tmp_path / "other", views=2, sampler="uniform", records_per_scene=1)[1]["train"].ids
    assert ids == ("lab.1-4",)


def test_splits_are_by_scene_where_scenes_suffice(tmp_path):
    for name in "abcde":
        write_scene(tmp_path / "raw" / name, frames=4)
    (tmp_path / "raw" / "notes").mkdir()
    manifest, splits = convert(tmp_path / "raw", tmp_path / "out", validation=1, test=2)
    scenes = {name: {row["scene"] for row in source.rows} for name, source in splits.items()}
    assert {name: len(found) for name, found in scenes.items()} == {"train": 2, "validation": 1, "test": 2}
    assert set.union(*scenes.values()) == set("abcde")
    assert manifest["origin"]["split_by"] == "scenes" and not manifest["scenes_shared_between_splits"]
    other = convert(tmp_path / "raw", tmp_path / "other", validation=1, test=2, seed=1)[1]
    assert {row["scene"] for row in other["test"].rows} != scenes["test"]
    assert '"id": "notes", "reason": "no folder color/' in (tmp_path / "out" / "skipped.jsonl").read_text()


def test_one_scene_is_split_by_frames(scene, tmp_path):
    manifest, splits = convert(scene, tmp_path / "out", views=2, validation=1, test=1)
    assert splits["train"].ids == ("lab.0-1", "lab.2-3")
    assert (splits["validation"].ids, splits["test"].ids) == (("lab.4-5",), ("lab.6-7",))
    assert manifest["origin"]["split_by"] == "frames of each scene" and manifest["scenes_shared_between_splits"]
    with pytest.raises(PrepareError, match="'lab' with 8 frames cannot give 4"):
        convert(scene, tmp_path / "other", views=2, validation=2, test=2)


def test_y_up_cameras_are_turned_over(scene, tmp_path):
    """fy < 0 (y up) with poses in a mirrored world describes the same pictures."""
    up = matrix(FOCAL, WIDTH, HEIGHT)
    up[1, 1] *= -1
    np.savetxt(scene / "intrinsic" / "intrinsic_depth.txt", up)
    mirror = np.diag([1.0, -1.0, 1.0, 1.0])
    for frame in range(8):
        np.savetxt(scene / "pose" / f"{frame}.txt", mirror @ camera(frame) @ mirror)
    record = convert(scene, tmp_path / "out")[1]["train"][0]
    assert record.intrinsics[0, 1, 1] == FOCAL and record.metadata["mirrored"] is True
    np.testing.assert_allclose(record.camera_to_world, [camera(frame) for frame in range(4)], atol=1e-12)
    assert heights_above_plane(record, 2).max() < 6e-4


def test_wrong_input_is_explained(scene, tmp_path):
    (tmp_path / "empty").mkdir()
    for raw, settings, message in (
        (tmp_path / "nowhere", {}, "is not a folder"),
        (tmp_path / "empty", {}, "holds no scene"),
        (scene, {"views": 0, "sampler": "best"}, "--views must be at least 1; --sampler must be one of"),
        (scene, {"intrinsics_size": "big"}, "--intrinsics_size must read like"),
    ):
        with pytest.raises(PrepareError, match=message):
            convert(raw, tmp_path / "out", **settings)
    with pytest.raises(PrepareError, match="Split 'train' has no record.*fewer than 9 usable frames"):
        convert(scene, tmp_path / "out", views=9)
    np.savetxt(scene / "intrinsic" / "intrinsic_depth.txt", np.zeros((4, 4)))
    with pytest.raises(PrepareError, match="not a camera matrix"):
        convert(scene, tmp_path / "other")
    for path in (scene / "intrinsic").iterdir():
        path.unlink()
    with pytest.raises(PrepareError, match="has no intrinsic_depth.txt or intrinsic_color.txt"):
        convert(scene, tmp_path / "other")


def test_long_scenes_are_cut_for_many_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipelines.sources.posed.source.GROUPS_PER_ITEM", 2)
    folder = write_scene(tmp_path / "raw" / "lab", frames=10)
    manifest, splits = convert(folder, tmp_path / "out", views=2)
    assert len(manifest["splits"]["train"]["shards"]) == 3  # 10 frames in stretches of 4
    assert splits["train"].ids == tuple(f"lab.{k}-{k + 1}" for k in range(0, 10, 2))
    assert counts(read_manifest(tmp_path / "out"))["frames_listed"] == 10


def test_records_without_geometry_are_counted(scene, tmp_path):
    for frame in range(4):
        (scene / "depth" / f"{frame}.png").unlink()
    (scene / "pose" / "4.txt").unlink()  # frames 4 to 7 still have poses and depth
    manifest, _ = convert(scene, tmp_path / "out", views=4)
    assert counts(manifest)["records_without_geometry"] == 1 and manifest["splits"]["train"]["records"] == 2


def test_a_scene_edited_in_place_is_not_taken_for_the_old_one(scene, tmp_path):
    convert(scene, tmp_path / "out")
    convert(scene, tmp_path / "out")  # nothing changed: at once
    pose = (scene / "pose" / "3.txt").read_text()
    (scene / "pose" / "3.txt").write_text(pose.replace("3", "4", 1))  # of the same length
    with pytest.raises(PrepareError, match="content_of_raw"):
        convert(scene, tmp_path / "out")
    (scene / "pose" / "3.txt").write_text(pose)
    convert(scene, tmp_path / "out")
    (scene / "depth" / "2.png").write_bytes((scene / "depth" / "3.png").read_bytes())
    with pytest.raises(PrepareError, match="content_of_raw"):
        convert(scene, tmp_path / "out")
