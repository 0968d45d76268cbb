"""Scales that transforms.json states, and poses of a lost tracker in layouts that turn the world."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from raw_layouts import LAYOUTS, made

from data_pipelines.manifest import PrepareError
from data_pipelines.sources import SOURCES


def captured(tmp_path, poses=None, rename=False, **change):
    """The nerfstudio miniature (depth in millimetres) with other values at the top, or other poses of its first frames."""
    raw = shutil.copytree(LAYOUTS / "nerfstudio", tmp_path / "raw", dirs_exist_ok=True)
    values = json.loads((LAYOUTS / "nerfstudio/transforms.json").read_text()) | change
    for frame, pose in zip(values["frames"], poses or [], strict=False):
        frame["transform_matrix"] = np.asarray(pose).tolist()
    for frame in values["frames"] if rename else ():
        frame["depth_path"] = frame.pop("depth_file_path")
    (raw / "transforms.json").write_text(json.dumps(values))
    return raw


def depth_of(record):
    return np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in record.depths]) * 0.001


@pytest.mark.parametrize("rename", [False, True])
def test_the_stated_step_of_depth_is_used(tmp_path, rename):
    """A step of 1/5 mm makes the miniature's room five times as small."""
    truth = np.load(LAYOUTS / "expected/nerfstudio.npz")["depth"]
    raw = captured(tmp_path, rename=rename, integer_depth_scale=0.0002)
    for metric in (True, False):
        (record,), _, _ = made("nerfstudio", raw, views=4, metric=metric)
        assert record.depth_unit_m == (0.001 if metric else 0.0) and record.metadata["integer_depth_scale"] == 0.0002
        np.testing.assert_allclose(depth_of(record), truth / 5, atol=7e-4)  # two roundings
    (record,), _, _ = made("nerfstudio", raw, views=4, metric=True, depth_step=0.0002)  # both, and they agree
    assert record.depth_unit_m == 0.0002
    np.testing.assert_allclose(depth_of(record) / 5, truth / 5, atol=2e-4)


def test_scales_that_contradict_or_cannot_be_undone_are_refused(tmp_path):
    for change, settings, message in (
        ({"integer_depth_scale": 0.0002}, {"depth_step": 0.0005}, r"transforms.json: integer_depth_scale is 0.0002, --depth_step 0.0005"),
        ({"integer_depth_scale": "fine"}, {}, "integer_depth_scale is 'fine', expected a number above 0"),
        ({"integer_depth_scale": -1}, {}, "integer_depth_scale is -1, expected a number above 0"),
        ({"applied_scale": 0.5}, {}, r"transforms.json: applied_scale is 0.5"),
    ):  # fmt: skip
        with pytest.raises(PrepareError, match=message):
            made("nerfstudio", captured(tmp_path, **change), metric=True, **settings)
    assert made("nerfstudio", captured(tmp_path, applied_scale=1.0), metric=True)[0]


def test_identities_as_the_file_states_them_are_lost_poses(tmp_path):
    """Turned axes and an applied transform make other matrices of them."""
    raw = captured(tmp_path, [np.eye(4), np.eye(4)])
    (record,), counts, _ = made("nerfstudio", raw, views=4)
    assert record.pose_valid.tolist() == [False, False, True, True] and counts["pose_masked/repeated_identity"] == 2
    (record,), _, _ = made("nerfstudio", captured(tmp_path, [np.eye(4)]), views=4)
    assert record.pose_valid.all()  # one camera is the world's origin


@pytest.mark.parametrize("align", [False, True])
def test_identities_of_an_aligned_scan_are_lost_poses(tmp_path, align):
    raw = shutil.copytree(LAYOUTS / "scannet", tmp_path / "raw")
    (file,) = raw.rglob("*.sens")
    source = SOURCES["scannet"]
    scene = source.layout.open(file.parent, source.settings(raw=str(raw)))
    data = bytearray(file.read_bytes())
    for view in scene.views[:2]:
        data[view.key[0] : view.key[0] + 64] = np.eye(4, dtype="<f4").tobytes()
    file.write_bytes(data)
    (record,), counts, _ = made("scannet", raw, views=4, align=align)
    assert record.pose_valid.tolist() == [False, False, False, True]  # the third is -inf
    assert counts["pose_masked/repeated_identity"] == 2
