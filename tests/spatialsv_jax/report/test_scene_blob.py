"""The viewer's files: what is quantised comes back within half a step, what is not comes back as it was."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from spatialsv_jax.report import figure as figure_lib
from spatialsv_jax.report import scene_blob, viewer_data


def test_shown_points_are_the_pixels_with_a_point_in_any_cloud(room):
    shown = figure_lib.shown_points(room)
    assert list(shown.clouds) == ["true", "points head"] and len(shown.pixel) == 3 * 24 * 32
    true, guess = shown.clouds.values()
    np.testing.assert_array_equal(true.present, room.true.points_valid.reshape(-1))
    assert np.isnan(true.points[~true.present]).all() and guess.present.all()
    np.testing.assert_array_equal(shown.view, np.repeat([0, 1, 2], 24 * 32))
    target = room.true.points["true"].reshape(-1, 3)
    gap = np.linalg.norm(room.predicted.points["points head"].reshape(-1, 3) - target, axis=-1)
    np.testing.assert_allclose(guess.error[true.present], gap[true.present], rtol=1e-5)
    assert np.isnan(guess.error[~true.present]).all() and true.error is None
    thin = figure_lib.shown_points(room, limit=100)
    assert len(thin.pixel) == 100 and set(np.diff(thin.pixel)) <= {23, 24} and thin.pixel[0] == 0
    broken = dataclasses.replace(room, instances=np.zeros((3, 24, 30), np.int16))
    with pytest.raises(ValueError, match=r"room <7>.*\(3, 24, 30\)"):
        figure_lib.shown_points(broken)


def test_a_blob_comes_back_within_half_a_step(room):
    rng = np.random.default_rng(0)
    instances = rng.integers(-1, 300, (3, 24, 32)).astype(np.int16)
    shown = figure_lib.shown_points(dataclasses.replace(room, instances=instances), limit=900)
    blob = scene_blob.encode(shown, {"start": 1})
    assert blob == scene_blob.encode(shown, {"start": 1})
    header, arrays = scene_blob.decode(blob)
    assert header["shape"] == [3, 24, 32] and header["cameras"] == {"start": 1}
    for name in ("pixel", "colours", "instances"):
        np.testing.assert_array_equal(arrays[name], getattr(shown, name))
    for entry in header["clouds"]:
        cloud = shown.clouds[entry["name"]]
        np.testing.assert_array_equal(arrays[f"{entry['name']}/present"], cloud.present)
        off = np.abs(arrays[f"{entry['name']}/points"] - cloud.points)[cloud.present]
        spans = np.ptp(cloud.points[cloud.present], axis=0)
        assert (off <= 0.501 * spans / 65535 + 1e-7).all() and entry["left_out"] == 0
    confidence = shown.clouds["points head"].confidence
    steps = np.abs(np.log(arrays["points head/confidence"] / confidence)) / np.ptp(np.log(confidence))
    assert steps.max() <= 0.501 / 255
    assert "true/confidence" not in arrays


def test_points_far_outside_are_left_out_and_counted(room):
    points = np.array(room.predicted.points["points head"])
    points[0, 0, :3] = 1e4
    far = dataclasses.replace(room, predicted=dataclasses.replace(room.predicted, points={"points head": points}))
    header, arrays = scene_blob.decode(scene_blob.encode(figure_lib.shown_points(far), {}))
    assert header["clouds"][1]["left_out"] == 3 and max(header["clouds"][1]["step"]) < 1e-3
    assert not arrays["points head/present"][:3].any() and arrays["points head/present"][3:].all()


def test_other_formats_and_torn_files_are_refused(room):
    import gzip

    data = gzip.decompress(scene_blob.encode(figure_lib.shown_points(room), {}))
    with pytest.raises(ValueError, match="bytes of points, expected 24 x 2304"):
        scene_blob.decode(gzip.compress(data[:-1]))
    with pytest.raises(ValueError, match="has format 7, expected 1"):
        scene_blob.decode(gzip.compress(data.replace(b'"format":1', b'"format":7')))


def test_text_of_the_data_cannot_leave_its_element(room, tmp_path):
    evil = dataclasses.replace(
        room, title="</script><script>alert(1)</script><!--", objects=("<img src=x onerror=a()>",)
    )
    entry = viewer_data.write_scene(evil, figure_lib.shown_points(evil), tmp_path, "scene1")
    html = viewer_data.write_runs(tmp_path, [{"name": "a & <b>", "scenes": [entry]}])
    (held,) = re.findall(r'id="viewer-data">(.*?)</script>', html, re.S)
    assert "<" not in held and html.count("<script") == 2
    (run,) = json.loads(held)["runs"]
    assert run["name"] == "a & <b>" and run["scenes"][0]["id"] == evil.title
    assert run["scenes"][0]["objects"] == list(evil.objects)
    script = (tmp_path / "scenes" / "scene1.js").read_text("ascii")
    assert re.fullmatch(r'spatialsvScene\("[A-Za-z0-9+/=]+"\);\n', script)
    assert viewer_data.write_runs(tmp_path, [{"name": "empty", "scenes": []}]) == ""
