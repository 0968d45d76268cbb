"""Label files: exact round trip, atomic, resumable, and errors that name file and field."""

import dataclasses

import numpy as np
import pytest
from loader_fakes import pose

from data_pipelines.labels import files
from data_pipelines.labels.files import (
    LabelError,
    LabelFile,
    images_hash,
    label_path,
    read_labels,
    write_labels,
)


def labels(views=3, height=4, width=6, **changes):
    rng = np.random.default_rng(views)
    valid = rng.random((views, height, width)) > 0.3
    made = LabelFile(
        depth=np.where(valid, rng.uniform(1, 3, valid.shape), 0).astype(np.float32),
        confidence=rng.uniform(1, 9, valid.shape).astype(np.float32),
        intrinsics=np.array([[[5.0 + view, 0.1, width / 2], [0, 6.0, height / 2], [0, 0, 1]] for view in range(views)]),
        camera_to_world=np.stack([pose(0.3 * view, rng.standard_normal(3)) for view in range(views)]),
        valid=valid,
        label_affine=rng.standard_normal((views, 2, 3)),
        view_ids=tuple(f"b/{view}" for view in range(views)),
        teacher="rooms teacher",
        checkpoint="0af3",
        images_hash=images_hash([b"a", b"b", b"c"][:views]),
        features=rng.standard_normal((views, 2, 3, 5)).astype(np.float16),
    )
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize("features", [True, False])
def test_round_trip(tmp_path, features):
    made = labels() if features else labels(features=None)
    write_labels(tmp_path, "rooms/17 é", made)
    found = read_labels(tmp_path, "rooms/17 é", view_ids=made.view_ids, teacher=made.teacher, checkpoint="0af3")
    for field in dataclasses.fields(LabelFile):
        a, b = getattr(made, field.name), getattr(found, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, field.name
    with np.load(label_path(tmp_path, "rooms/17 é"), allow_pickle=False) as archive:
        assert archive["depth"].dtype == np.float32 and ("features" in archive.files) == features


def test_any_record_id_has_its_own_file_and_is_found_again(tmp_path):
    ids = ["a/b", "a%2Fb", "..", "A" * 500, "A" * 501, "ü+", "", "x y"]
    for name in ids:
        write_labels(tmp_path, name, labels())
    assert len(list(tmp_path.iterdir())) == len(ids)
    for name in ids:
        read_labels(tmp_path, name)


def test_key_tells_order_subset_resolution_and_weights_apart():
    keys = {
        labels().key,
        labels(view_ids=("b/1", "b/0", "b/2")).key,
        labels(views=2).key,
        labels(width=8).key,
        labels(checkpoint="0af4").key,
        labels(teacher="other").key,
        labels(images_hash=images_hash([b"a", b"c", b"b"])).key,
    }
    assert len(keys) == 7
    assert images_hash([b"ab", b"c"]) != images_hash([b"a", b"bc"])


def test_labels_of_other_views_or_weights_are_refused(tmp_path):
    write_labels(tmp_path, "r", labels())
    for asked, message in (
        ({"view_ids": ("b/1", "b/0", "b/2")}, "view_ids is"),
        ({"view_ids": ("b/0", "b/1")}, "view_ids is"),
        ({"images": [b"a", b"b", b"other"]}, "images_hash is"),
        ({"teacher": "vggt"}, "teacher is 'rooms teacher', expected 'vggt'"),
        ({"checkpoint": "ff"}, "checkpoint is '0af3', expected 'ff'"),
    ):
        with pytest.raises(LabelError, match=f"r.npz: {message}"):
            read_labels(tmp_path, "r", **asked)
    label_path(tmp_path, "r").rename(label_path(tmp_path, "s"))
    with pytest.raises(LabelError, match="record_id is 'r', expected 's'"):
        read_labels(tmp_path, "s")


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("depth", np.full((3, 4, 6), np.nan), "'depth' has NaN"),
        ("depth", np.full((3, 4, 6), -1.0), "'depth' has NaN, inf or values <= 0"),
        ("depth", np.ones((3, 4)), r"'depth' has shape \(3, 4\)"),
        ("confidence", np.ones((3, 4, 5)), r"'confidence' has shape \(3, 4, 5\), expected \(3, 4, 6\)"),
        ("valid", np.ones((3, 4, 6)), "'valid' has type float64, expected bool"),
        ("intrinsics", np.ones((2, 3, 3)), "'intrinsics' has shape"),
        ("camera_to_world", np.full((3, 4, 4), np.inf), "'camera_to_world' has NaN"),
        ("features", np.full((3, 2, 3, 5), 1e6), "'features' has NaN, inf or values too large for float16"),
        ("teacher", "", "'teacher', 'checkpoint' and 'images_hash'"),
        ("images_hash", "", "'teacher', 'checkpoint' and 'images_hash'"),
    ],
)
def test_wrong_fields_are_named_and_nothing_is_written(tmp_path, field, value, message):
    with pytest.raises(LabelError, match=f"record 'r': .*{message}|record 'r'.*{message}"):
        write_labels(tmp_path, "r", labels(**{field: value}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field, value, message", [
    ("intrinsics", [[-3, 0, 3], [0, 6, 2], [0, 0, 1]], "fx = -3 is no focal length of a picture of 6 x 4"),
    ("intrinsics", [[6, 0, 3], [0, 0.001, 2], [0, 0, 1]], "fy = 0.001 is no focal length"),
    ("intrinsics", [[24, 0, 12], [0, 24, 8], [0, 0, 1]], "cx = 12 does not fit a picture of 6 x 4: a camera for another size?"),
    ("camera_to_world", np.diag([7.0, 7, -7, 0]), ".* is not a rigid motion"),
    ("camera_to_world", np.diag([1.0, 1, -1, 1]), ".* is not a rigid motion"),
    ("camera_to_world", np.zeros((4, 4)), ".* is all zero"),
])  # fmt: skip
def test_cameras_that_cannot_be_are_neither_written_nor_read(tmp_path, field, value, message):
    made = labels()
    wrong = getattr(made, field).copy()
    wrong[1] = value
    with pytest.raises(LabelError, match=f"record 'r': view 'b/1', field '{field}': {message}"):
        write_labels(tmp_path, "r", dataclasses.replace(made, **{field: wrong}))
    path = write_labels(tmp_path, "r", made)
    np.savez(path, **{**dict(np.load(path)), field: wrong})
    with pytest.raises(LabelError, match=f"r.npz: view 'b/1', field '{field}': {message}"):
        read_labels(tmp_path, "r")
    ok = np.array([True, False, True])  # a view without a camera may say anything
    write_labels(tmp_path, "r", dataclasses.replace(made, **{field: wrong}, pose_valid=ok))
    assert read_labels(tmp_path, "r").pose_valid.tolist() == ok.tolist()


def test_depth_is_zero_where_not_valid(tmp_path):
    made = labels()
    depth = np.where(made.valid, made.depth, np.nan)
    write_labels(tmp_path, "r", dataclasses.replace(made, depth=depth))
    np.testing.assert_array_equal(read_labels(tmp_path, "r").depth, made.depth)


def test_damaged_and_missing_files_are_named(tmp_path):
    path = write_labels(tmp_path, "r", labels())
    data = path.read_bytes()
    with pytest.raises(LabelError, match="s.npz does not exist"):
        read_labels(tmp_path, "s")
    path.write_bytes(data[:-200])
    with pytest.raises(LabelError, match="r.npz: the archive cannot be read"):
        read_labels(tmp_path, "r")
    start = data.index(b"confidence.npy") + 300
    path.write_bytes(data[:start] + b"\xff" + data[start + 1 :])
    with pytest.raises(LabelError, match="r.npz: field 'confidence' cannot be read"):
        read_labels(tmp_path, "r")
    np.savez(path, version=files.LABEL_VERSION, depth=np.ones(3))
    with pytest.raises(LabelError, match="field 'confidence' is missing"):
        read_labels(tmp_path, "r")
    np.savez(path, version=files.LABEL_VERSION, depth=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(LabelError, match="field 'depth' cannot be read"):
        read_labels(tmp_path, "r")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_labels(tmp_path, "r", labels())

    def stop(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", stop)
    for name in ("r", "s"):
        with pytest.raises(KeyboardInterrupt):
            write_labels(tmp_path, name, labels(teacher="new"))
    assert read_labels(tmp_path, "r").teacher == "rooms teacher"
    assert len(list(tmp_path.iterdir())) == 1
