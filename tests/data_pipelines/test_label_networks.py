"""Label files of Depth Anything 3 and VGGT made here: what the networks predict, on any mesh, once, with their licence."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import loader_fakes as fakes
import numpy as np
import pytest

from data_pipelines.labels.cameras import impossible_camera
from data_pipelines.labels.files import read_labels
from data_pipelines.transforms.decode import decode_image
from experiments import label
from spatialsv_jax.teachers import networks
from spatialsv_jax.teachers.da3 import hf as da3_files
from spatialsv_jax.teachers.da3 import preprocess as da3_preprocess
from spatialsv_jax.teachers.da3.ray_decoder import cameras_from_rays
from spatialsv_jax.teachers.da3.scale import FOCAL

WEIGHTS = Path(__file__).parents[1] / "goldens"


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """Records of three, two and three views, 56 x 70 pixels, and the command on them."""
    rng = np.random.default_rng(0)
    pictures = lambda count: tuple(fakes.png(rng.integers(0, 255, (56, 70, 3), np.uint8)) for _ in range(count))
    views = {"r0": 3, "r1": 2, "r2": 3}
    records = fakes.Records(
        fakes.record(index, views=count, size=(56, 70), scene=f"s{index}", images=pictures(count))
        for index, count in enumerate(views.values())
    )
    monkeypatch.setattr(label, "open_split", lambda data, split: records)

    def run(out, *arguments, teacher="da3", folder="da3", side="70"):
        command = [
            "--teacher",
            teacher,
            "--checkpoint",
            str(WEIGHTS / folder),
            "--data",
            "d",
            "--out",
            str(tmp_path / out),
        ]
        command += ["--process_res", side, "--dtype", "float32", "--licence", "mine", *arguments]
        label.main(command)
        return tmp_path / out

    return SimpleNamespace(records=records, run=run)


def decoded(record):
    return [decode_image(data, record.id) for data in record.images]


def test_files_hold_what_the_network_predicts(rooms, capsys):
    out = rooms.run("labels", "--features", "3")
    said = capsys.readouterr().out
    assert "mine; commercial use not allowed, or not known to be" in said and "scenes/s" in said
    manifest = json.loads((out / "labels.json").read_text())
    assert manifest["written"] == 3 and manifest["licence"] == "mine" and manifest["commercial_use"] is False
    imported = da3_files.load(WEIGHTS / "da3")
    for record in rooms.records:
        prepared = da3_preprocess.prepare(decoded(record), process_res=70)
        found = imported.model.apply({"params": imported.params}, jnp.asarray(prepared.pixel_values[None]), features=3)
        known = {"teacher": "da3", "checkpoint": manifest["checkpoint"], "images": record.images}
        labels = read_labels(out, record.id, view_ids=record.view_ids, **known)
        np.testing.assert_allclose(labels.depth, found["depth"][0], rtol=2e-4)
        np.testing.assert_allclose(labels.confidence, found["depth_confidence"][0], rtol=2e-4)
        np.testing.assert_allclose(labels.intrinsics, found["intrinsics"][0], rtol=2e-4)
        poses = np.asarray(found["camera_to_world"][0], np.float64)
        np.testing.assert_allclose(
            labels.camera_to_world, [np.linalg.solve(poses[0], pose) for pose in poses], atol=1e-4
        )
        assert labels.valid.all() and labels.licence == "mine" and not labels.metric
        features = np.asarray(found["features"][0]).reshape(len(record.view_ids), 4, 5, -1)
        np.testing.assert_allclose(labels.features, features, atol=2e-2)
        np.testing.assert_array_equal(labels.label_affine, prepared.label_affine)


def test_a_second_run_makes_what_is_missing_and_other_settings_all(rooms, capsys):
    out = rooms.run("labels")
    before = {file.name: file.read_bytes() for file in out.glob("*.npz")}
    (out / "r1.npz").write_bytes(before["r1.npz"][:100])
    rooms.run("labels")
    assert "written 1, kept 2" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in out.glob("*.npz")} == before
    rooms.run("labels", "--features", "0")
    assert "written 3, kept 0" in capsys.readouterr().out


@pytest.mark.parametrize("teacher", ["da3", "vggt"])
def test_a_mesh_of_scenes_and_views_changes_nothing(rooms, teacher):
    how = {"teacher": teacher, "folder": teacher}
    one = rooms.run("one", **how)
    mesh = ["--config.mesh.fsdp", "2", "--config.mesh.context", "2", "--views", "4"]
    other = rooms.run("mesh", *mesh, **how)
    for record in rooms.records:
        first, second = read_labels(one, record.id), read_labels(other, record.id)
        for name in ("depth", "confidence", "intrinsics", "camera_to_world"):
            wanted = getattr(first, name)
            np.testing.assert_allclose(getattr(second, name), wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=name)


def test_cameras_may_come_from_the_rays(rooms):
    out = rooms.run("labels", "--cameras", "rays")
    imported = da3_files.load(WEIGHTS / "da3")
    record = rooms.records[0]
    pixels = jnp.asarray(da3_preprocess.prepare(decoded(record), process_res=70).pixel_values[None])
    found = imported.model.apply({"params": imported.params}, pixels)
    fit = cameras_from_rays(found["ray"][0], found["ray_confidence"][0], (56, 70))
    labels = read_labels(out, record.id)
    possible = [
        not impossible_camera(*camera, (56, 70)) for camera in zip(fit.intrinsics, fit.camera_to_world, strict=True)
    ]
    np.testing.assert_array_equal(labels.pose_valid, fit.ok & possible)
    np.testing.assert_allclose(labels.intrinsics[fit.ok], fit.intrinsics[fit.ok], rtol=1e-2)
    assert '"cameras": "rays"' in labels.settings


def test_vggt_leaves_padding_out(rooms):
    out = rooms.run("labels", "--resize", "pad", teacher="vggt", folder="vggt")
    labels = read_labels(out, "r0")
    assert labels.depth.shape == (3, 70, 70) and labels.valid[:, 7:63].all() and not labels.valid[:, :7].any()
    x, y = (labels.label_affine[0] @ [35.0, 7.0, 1.0]).tolist()
    assert (x, y) == pytest.approx((35, 0))


def test_the_metric_model_gives_metres(rooms):
    free, metric = rooms.run("free"), rooms.run("metric", "--metric_checkpoint", str(WEIGHTS / "da3_mono"))
    mono = da3_files.load(WEIGHTS / "da3_mono", part="metric")
    for record in rooms.records:
        first, second = read_labels(free, record.id), read_labels(metric, record.id)
        pixels = da3_preprocess.prepare(decoded(record), process_res=70).pixel_values[None]
        seen = jax.tree.map(np.asarray, mono.model.apply({"params": mono.params}, jnp.asarray(pixels)))
        focal = first.intrinsics[:, [0, 1], [0, 1]].mean(1)
        metres, ground = seen["depth"][0] * (focal / FOCAL)[:, None, None], seen["sky"][0] < 0.3
        used = ground & (first.confidence >= np.median(first.confidence[ground]))
        scale = (first.depth[used] * metres[used]).sum() / (first.depth[used] ** 2).sum()
        assert second.metric and not first.metric
        np.testing.assert_array_equal(second.valid, ground)
        np.testing.assert_allclose(second.depth, np.where(ground, first.depth * scale, 0), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(
            second.camera_to_world[:, :3, 3], first.camera_to_world[:, :3, 3] * scale, atol=1e-3 * scale
        )


@pytest.mark.parametrize(
    "arguments, changes, message",
    [
        (["--licence", ""], {}, "state it with --licence"),
        (["--views", "2"], {}, "Record 'r0' has 3 views, --views is 2"),
        (["--config.mesh.fsdp", "2", "--rows", "3"], {}, "--rows 3 is no multiple of data x fsdp = 2"),
        (["--config.mesh.context", "2", "--views", "3"], {}, "must be a multiple of it, not 3"),
        (["--resize", "other"], {}, "resize is 'other'; da3 has upper_bound_resize"),
        ([], {"folder": "da3_mono"}, "gives no cameras: take an any-view checkpoint"),
        (["--metric_checkpoint", str(WEIGHTS / "da3")], {}, "is no mono checkpoint"),
        (["--metric_checkpoint", "x"], {"teacher": "vggt", "folder": "vggt"}, "VGGT has no metric model"),
        (["--cameras", "rays"], {"teacher": "vggt", "folder": "vggt"}, "VGGT has no rays"),
        ([], {"teacher": "vggt"}, "it is no checkpoint of VGGT"),
        ([], {"folder": "nowhere"}, "nowhere"),
    ],
)  # fmt: skip
def test_mistakes_are_named(rooms, arguments, changes, message):
    with pytest.raises(SystemExit) as stopped:
        rooms.run("labels", *arguments, **changes)
    assert message in str(stopped.value)


def test_published_names_state_their_licence(tmp_path):
    for name, family, licence, commercial in (
        ("DA3-SMALL", "da3", "Apache-2.0", True),
        ("DA3-LARGE-1.1", "da3", "CC BY-NC 4.0", False),
        ("VGGT-1B", "vggt", "non-commercial", False),
    ):
        (tmp_path / name).symlink_to(WEIGHTS / family)
        found = networks.load(family, tmp_path / name, process_res=70)
        assert licence in found.licence and found.commercial == commercial and len(found.checkpoint) == 64
