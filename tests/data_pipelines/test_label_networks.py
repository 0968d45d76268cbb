"""Label files of Depth Anything 3 and VGGT made here: what the networks predict, on any mesh, once, with their licence."""

from __future__ import annotations

import functools
import json
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import loader_fakes as fakes
import numpy as np
import pytest

from data_pipelines.labels.files import read_labels
from data_pipelines.transforms.decode import decode_image
from experiments import label, label_flags, label_networks
from spatialsv_jax.geometry.cameras import CameraFit
from spatialsv_jax.teachers import networks
from spatialsv_jax.teachers.da3 import hf as da3_files
from spatialsv_jax.teachers.da3 import preprocess as da3_preprocess
from spatialsv_jax.teachers.da3.scale import FOCAL
from spatialsv_jax.training.sharding import MeshConfig

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
        command += [
            "--process_res",
            side,
            "--dtype",
            "float32",
            "--licence",
            "mine",
            "--config.mesh.data",
            "1",
            *arguments,
        ]
        label.main(command)
        return tmp_path / out

    return SimpleNamespace(records=records, run=run, folder=tmp_path)


@pytest.fixture
def plain(monkeypatch):
    """A network in the place of the real one: depth 2 and cameras in a row, without a program worth mentioning."""

    def predict(self, params, pixels, view_valid):
        shape, (height, width) = pixels.shape[:4], pixels.shape[2:4]
        matrix = jnp.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]])
        poses = jnp.tile(jnp.eye(4), (*shape[:2], 1, 1)).at[..., 0, 3].add(jnp.arange(shape[1]))
        found = {"depth": jnp.full(shape, 2.0), "confidence": jnp.ones(shape), "valid": jnp.ones(shape, bool)}
        rays = {"ray": jnp.ones((*shape[:2], 8, 8, 6)), "ray_confidence": 3 * jnp.ones((*shape[:2], 8, 8))}
        cameras = {"camera_to_world": poses, "intrinsics": jnp.tile(matrix, (*shape[:2], 1, 1))}
        return found | cameras | (rays if self.rays else {})

    monkeypatch.setattr(networks.Network, "predict", predict)


def decoded(record):
    return [decode_image(data, record.id) for data in record.images]


def test_files_hold_what_the_network_predicts(rooms, capsys):
    out = rooms.run("labels", "--features", "3")
    said = capsys.readouterr().out
    assert "mine; commercial use not allowed, or not known to be" in said and "scenes/s" in said
    manifest = json.loads((out / "labels.json").read_text())
    assert manifest["written"] == 3 and manifest["licence"] == "mine" and manifest["commercial_use"] is False
    imported = da3_files.load(WEIGHTS / "da3")
    apply = jax.jit(functools.partial(imported.model.apply, features=3))
    for record in rooms.records:
        prepared = da3_preprocess.prepare(decoded(record), process_res=70)
        found = apply({"params": imported.params}, jnp.asarray(prepared.pixel_values[None]))
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


def test_a_second_run_makes_what_is_missing_and_other_settings_all(rooms, plain, capsys):
    out = rooms.run("labels")
    before = {file.name: file.read_bytes() for file in out.glob("*.npz")}
    (out / "r1.npz").write_bytes(before["r1.npz"][:100])
    rooms.run("labels")
    assert "written 1, kept 2" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in out.glob("*.npz")} == before
    rooms.run("labels", "--resize", "upper_bound_crop")
    assert "written 3, kept 0" in capsys.readouterr().out


@pytest.mark.parametrize("teacher", ["da3", pytest.param("vggt", marks=pytest.mark.slow)])
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


def test_cameras_may_come_from_the_rays(rooms, plain, monkeypatch):
    """Of the first record view 0 is no number and view 2 no fit: neither reaches view 1, in whose frame the file stands."""
    seen, pose = [], np.eye(4)
    pose[:3] = [[0, 0, 1, 3], [0, 1, 0, 4], [-1, 0, 0, 5]]
    matrix = np.array([[60.0, 0, 35], [0, 60, 28], [0, 0, 1]])

    def cameras_from_rays(ray, confidence, size):
        seen.append((ray.shape, confidence.max(), size))
        poses = np.stack([np.full((4, 4), np.nan), pose, pose @ pose][: len(ray)])
        return CameraFit(np.stack([matrix] * len(ray)), poses, np.arange(len(ray)) < 2)

    monkeypatch.setattr(label_networks, "cameras_from_rays", cameras_from_rays)
    labels = read_labels(rooms.run("labels", "--cameras", "rays"), "r0")
    assert labels.pose_valid.tolist() == [False, True, False] and labels.valid.all()
    np.testing.assert_allclose(labels.camera_to_world, np.tile(np.eye(4), (3, 1, 1)), atol=1e-12)
    np.testing.assert_array_equal(labels.intrinsics[1], matrix)
    assert '"cameras": "rays"' in labels.settings
    assert sorted(seen) == [((2, 8, 8, 6), 3, (56, 70)), *[((3, 8, 8, 6), 3, (56, 70))] * 2]


def test_vggt_leaves_padding_out(rooms, plain):
    out = rooms.run("labels", "--resize", "pad", teacher="vggt", folder="vggt")
    labels = read_labels(out, "r0")
    assert labels.depth.shape == (3, 70, 70) and labels.valid[:, 7:63].all() and not labels.valid[:, :7].any()
    x, y = (labels.label_affine[0] @ [35.0, 7.0, 1.0]).tolist()
    assert (x, y) == pytest.approx((35, 0))


def test_the_metric_model_gives_metres(rooms):
    free, metric = rooms.run("free"), rooms.run("metric", "--metric_checkpoint", str(WEIGHTS / "da3_mono"))
    mono = da3_files.load(WEIGHTS / "da3_mono", part="metric")
    apply = jax.jit(mono.model.apply)
    for record in rooms.records:
        first, second = read_labels(free, record.id), read_labels(metric, record.id)
        pixels = da3_preprocess.prepare(decoded(record), process_res=70).pixel_values[None]
        seen = jax.tree.map(np.asarray, apply({"params": mono.params}, jnp.asarray(pixels)))
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
        (["--rows", "-1"], {}, "--rows -1 is no multiple"),
        (["--views", "-1"], {}, "--views is -1"),
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


def test_pictures_of_any_shape(rooms, plain):
    """Portrait, of different sizes, narrower than a patch once scaled; records of which one view is all."""
    sizes = {"r0": ((70, 56),) * 3, "r1": ((56, 70), (70, 56)), "r2": ((8, 400),), "r3": ((5, 9),)}
    rooms.records[:] = [
        fakes.record(
            number, views=len(own), size=own[0], scene=name, images=tuple(fakes.png(noise(*size)) for size in own)
        )
        for number, (name, own) in enumerate(sizes.items())
    ]
    seen = {"r0": (70, 56), "r1": (56, 56), "r2": (14, 70), "r3": (42, 70)}
    out = rooms.run("labels")
    for record in rooms.records:
        labels = read_labels(out, record.id, images=record.images)
        assert labels.depth.shape[1:] == seen[record.id] and labels.valid.all()
        for (height, width), affine in zip(sizes[record.id], labels.label_affine, strict=True):
            middle = affine @ [labels.depth.shape[2] / 2, labels.depth.shape[1] / 2, 1]
            np.testing.assert_allclose(middle, (width / 2, height / 2), atol=1e-9)


def noise(height, width):
    return np.random.default_rng(height).integers(0, 255, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("picture", "arguments", "message"), [
    ((2, 500), [], r"Record 'r1': Picture 0 is 2 x 500 .*differ by more than 200 times"),
    ((8, 400), ["--resize", "upper_bound_crop"], "Record 'r1': A picture of 8 x 400 becomes 1 x 70, less than a patch"),
])  # fmt: skip
def test_pictures_that_the_teacher_does_not_take_name_their_record(rooms, picture, arguments, message):
    rooms.records[1] = fakes.record(1, views=1, size=picture, images=(fakes.png(noise(*picture)),))
    with pytest.raises(SystemExit, match=message):
        rooms.run("labels", *arguments)


def test_hosts_share_the_records(rooms, plain, monkeypatch):
    """Each labels records of its own, on its own devices: those of other hosts it cannot address."""
    monkeypatch.setattr(jax, "devices", lambda *_: pytest.fail("asked for the devices of all hosts"))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(label.hosts, "wait", lambda: None)
    gather = lambda value: jax.tree.map(lambda one: np.array([one, 0]), value)
    monkeypatch.setattr(label.multihost_utils, "process_allgather", gather)
    shares = []
    for host in range(2):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        maker = label_networks.Networks(
            "da3", str(WEIGHTS / "da3"), process_res=70, licence="mine", rows=2, mesh=MeshConfig(data=2, fsdp=1)
        )
        monkeypatch.setattr(label, "_finish", lambda maker, folder, *given: {path.name for path in folder.iterdir()})
        shares.append(label.label_data(maker, "d", rooms.folder / str(host), ["train"]))
        assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(maker.network.params))
    assert shares == [{"r0.npz", "r2.npz"}, {"r1.npz"}]


def test_reading_goes_on_beside_the_devices(rooms, plain, monkeypatch):
    """The second group is read while the first is on the devices."""
    second, turns = threading.Event(), []
    run, prepared = label_networks.Networks._pass, label_networks.Networks._prepared

    def waiting(self, pixels, view_valid):
        turns.append(pixels.shape[1])
        assert second.wait(20) or len(turns) > 1, "nothing was read beside the first pass"
        return run(self, pixels, view_valid)

    def seen(self, record):
        if record.id != "r0":
            second.set()
        return prepared(self, record)

    monkeypatch.setattr(label_networks.Networks, "_pass", waiting)
    monkeypatch.setattr(label_networks.Networks, "_prepared", seen)
    rooms.run("labels")
    assert sorted(turns) == [2, 3, 3]


@pytest.mark.parametrize(("flags", "mesh"), [
    ([], (8, 1)),
    (["--config.mesh.data", "1"], (1, 1)),
    (["--config.mesh.fsdp", "2"], (1, 2)),
])  # fmt: skip
def test_without_a_mesh_all_devices_of_the_host_take_scenes(flags, mesh):
    command = ["--teacher", "da3", "--checkpoint", "x", "--data", "d", "--out", "o", *flags]
    maker = label_flags.maker_of(label_flags.parser().parse_args(command))
    assert (maker.mesh.data, maker.mesh.fsdp, maker.mesh.context, maker.mesh.tensor) == (*mesh, 1, 1)
    assert maker.rows == mesh[0] * mesh[1]


@pytest.mark.parametrize(("flags", "message"), [
    (["--teacher", "da3", "--checkpoint", "x", "--metric"], "--metric has no effect on what is labelled here"),
    (["--teacher", "vggt", "--checkpoint", "x", "--made_of", "x"], "--made_of has no effect on what is labelled here"),
    (["--teacher", "da3", "--checkpoint", "x", "--from", "y", "--metric_checkpoint", "z"], "--metric_checkpoint has no effect on exports"),
    (["--model", "x", "--views", "4", "--licence", "l"], "--licence, --views have no effect on the rooms teacher"),
    (["--teacher", "da3", "--checkpoint", "x", "--model", "y"], "--model has no effect"),
    (["--check", "--config.mesh.data", "2"], "--config.mesh.data has no effect on --check"),
])  # fmt: skip
def test_flags_without_effect_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        label_flags.maker_of(label_flags.parser().parse_args(["--data", "d", "--out", "o", *flags]))
