"""Reconstruction of any pictures: every file comes back with what the model said, mistakes are named."""

from __future__ import annotations

import json
import re
import types
from html.parser import HTMLParser

import numpy as np
import pytest
import trimesh
from PIL import Image

from experiments import reconstruct
from spatialsv_jax import geometry


def _found(views=2, height=12, width=16):
    intrinsics = np.tile(np.array([[14.0, 0, 8], [0, 14, 6], [0, 0, 1]]), (views, 1, 1))
    poses = np.tile(np.eye(4), (views, 1, 1))
    poses[:, 0, 3] = 0.2 * np.arange(views)
    depth = np.random.default_rng(0).uniform(0.5, 2, (views, height, width)).astype(np.float32)
    ray = geometry.rays_from_camera(intrinsics, poses, height, width).astype(np.float32)
    arrays = {
        "images": np.zeros((views, 8, 8, 3), np.uint8),
        "depth": depth,
        "depth_confidence": 1 + depth,
        "ray": ray,
        "ray_confidence": 1 + depth,
        "points": geometry.points_from_rays(ray, depth) + np.float32(0.01),
        "points_confidence": 1 + depth,
        "intrinsics": intrinsics,
        "camera_to_world": poses,
        "camera_ok": np.arange(views) == 0,
    }
    return types.SimpleNamespace(**arrays, __dataclass_fields__=dict.fromkeys(arrays))


def _loaded(found):
    return types.SimpleNamespace(
        config={"data": {"views": 3}},
        path="runs/<x>",
        step=7,
        settings=types.SimpleNamespace(objective_name="tasks"),
        answer=lambda images, questions: [f"answer to {question}" for question in questions],
        reconstruct=lambda images: found,
    )


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]


def test_every_file_holds_what_the_model_said(tmp_path):
    found = _found()
    pictures = [np.full((20, 30, 3), 90, np.uint8)] * 2
    reconstruct.reconstruct(_loaded(found), pictures, ["a.png", "<b>.png"], tmp_path, ["what is <script> ?"])
    with np.load(tmp_path / "reconstruction.npz", allow_pickle=False) as arrays:
        for name in found.__dataclass_fields__:
            np.testing.assert_array_equal(arrays[name], getattr(found, name))
    for view in range(2):
        steps = np.asarray(Image.open(tmp_path / f"depth_{view + 1}.png"))
        assert steps.dtype == np.uint16
        np.testing.assert_allclose(steps * reconstruct.DEPTH_STEP, found.depth[view], atol=0.00051)
        assert Image.open(tmp_path / f"depth_{view + 1}_colour.png").size == (16, 12)
    cameras = json.loads((tmp_path / "cameras.json").read_text())
    np.testing.assert_array_equal(cameras["views"][0]["intrinsics"], found.intrinsics[0])
    assert cameras["views"][1] == {
        "image": "<b>.png",
        "camera_fits": False,
        "intrinsics": None,
        "camera_to_world": None,
    }
    cloud = trimesh.load(tmp_path / "cloud_points_head.ply")
    np.testing.assert_array_equal(np.asarray(cloud.vertices, np.float32), found.points.reshape(-1, 3))
    page = _Page()
    text = (tmp_path / "index.html").read_text()
    page.feed(text)
    assert page.tags.count("script") == 2 and "b" in page.tags  # the viewer and its data
    assert not re.search(r"(src|href)=.?https?:", text)
    for link in page.links:
        assert link.startswith("data:image/") or (tmp_path / link).exists(), link
    assert "answer to what is &lt;script&gt; ?" in text


def test_too_many_pictures_is_an_error():
    pictures = [np.zeros((4, 4, 3), np.uint8)] * 4
    with pytest.raises(reconstruct.UsageError, match="4 pictures were given, but the model was trained with at most 3"):
        reconstruct.reconstruct(_loaded(_found()), pictures, ["x"] * 4, None)


def test_bad_paths_are_all_named_and_exit_with_2(tmp_path, capsys):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n rest is missing")
    Image.new("L", (3, 3)).save(tmp_path / "grey.png")
    arguments = ["--model", str(tmp_path), "--out", str(tmp_path / "out"), "--images"]
    assert reconstruct.main([*arguments, str(tmp_path / "none.png"), str(tmp_path / "torn.png")]) == 2
    message = capsys.readouterr().err
    assert "none.png: no such file" in message and "torn.png: no readable picture" in message
    assert reconstruct.main([*arguments, str(tmp_path / "grey.png")]) == 2
    assert "No model at" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pictures_are_turned_upright_and_made_rgb(tmp_path):
    picture = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    tag = Image.Exif()
    tag[0x0112] = 6  # turn 90 degrees clockwise
    picture.save(tmp_path / "turned.png", exif=tag)
    read = reconstruct.read_images([str(tmp_path / "turned.png")])[0]
    np.testing.assert_array_equal(read, np.rot90(np.asarray(picture), -1))
