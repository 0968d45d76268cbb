"""A teacher's label files hold what the teacher says, are made once, and feed the next phase; `reuse` takes phases over."""

from __future__ import annotations

import dataclasses
import json
import os
import time

import jax
import numpy as np
import pytest

from data_pipelines.labels.files import read_labels, write_labels
from data_pipelines.storage import open_split
from data_pipelines.transforms.decode import decode_image
from experiments import label, label_makers, train
from experiments.configs import rooms_run
from spatialsv_jax import loading
from spatialsv_jax.geometry import solve_camera

SCALE = rooms_run.Scale(
    scenes=8, test=0, other=0, image=32, labels=16, patch=4, spatial_steps=2, teacher_steps=2, rows=8, width=32,
    vision_layers=1, dpt=(8, 8, 8, 8), features_3d=8,
)  # fmt: skip


def _teacher_run():
    phases = {"teacher": rooms_run.teacher_phase(SCALE), "label": rooms_run.label_phase()}
    phases["teacher"].teacher.update(width=32, heads=2, unroll=1)
    return rooms_run.run("labels", SCALE, phases, evaluate=-1)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels") / "run"
    train.train_and_evaluate(_teacher_run(), folder)
    return folder


def test_files_hold_what_the_teacher_predicts(labelled):
    teacher = loading.load(labelled / "teacher")
    records = open_split(labelled / "data" / "rooms", "train")
    manifest = json.loads((labelled / "label" / "labels.json").read_text())
    assert manifest["written"] == len(records) == 8 and manifest["kept"] == 0
    assert manifest["checkpoint"] == label.parameters_hash(teacher.params)
    for index in (0, 7):
        record = records[index]
        pictures = [decode_image(data, record.id) for data in record.images]
        expected = teacher.reconstruct(pictures)
        found = read_labels(
            labelled / "label", record.id, view_ids=record.view_ids, teacher="rooms", checkpoint=manifest["checkpoint"]
        )
        ok = expected.camera_ok
        np.testing.assert_allclose(found.depth[ok], expected.depth[ok], rtol=1e-5)
        np.testing.assert_array_equal(found.valid.all((1, 2)), ok)
        assert (found.depth[~ok] == 0).all()
        np.testing.assert_allclose(found.camera_to_world, expected.camera_to_world, atol=1e-3)
        assert found.features.shape == (4, *teacher.processor.grid_hw, 32)


def test_every_parameter_of_the_teacher_is_trained(labelled):
    """The first of the two steps has learning rate 0; in the second what gets no gradient stays as it was drawn."""
    first, second = (loading.load(labelled / "teacher" / "checkpoints" / str(step)).params for step in (1, 2))
    moved = jax.tree.map(lambda a, b: np.any(np.asarray(a) != np.asarray(b)), first, second)
    still = [
        jax.tree_util.keystr(path) for path, any_moved in jax.tree_util.tree_leaves_with_path(moved) if not any_moved
    ]
    assert not still


def test_a_second_run_writes_what_is_missing_only(labelled, capsys):
    files = sorted((labelled / "label").rglob("*.npz"))
    content = [file.read_bytes() for file in files]
    files[3].write_bytes(content[3][:100])  # stopped while writing
    label.label_rooms(labelled / "teacher", labelled / "data" / "rooms", labelled / "label", ("train",))
    assert "written 1, kept 7" in capsys.readouterr().out
    assert [file.read_bytes() for file in files] == content


def test_a_view_whose_rays_fit_no_lens_has_no_camera(labelled, tmp_path, monkeypatch):
    def without_first(*given):
        fit = solve_camera(*given)
        intrinsics, poses = (
            np.broadcast_to(eye, array.shape).copy()
            for eye, array in zip((np.diag([16, 16, 1]), np.eye(4)), fit[:2], strict=True)
        )
        intrinsics[..., :2, 2] = 8.0
        intrinsics[:, 0, 0, 2] = 80.0
        return fit._replace(intrinsics=intrinsics, camera_to_world=poses, ok=np.ones_like(fit.ok))

    monkeypatch.setattr(label_makers, "solve_camera", without_first)
    data = labelled / "data" / "rooms"
    manifest = label.label_rooms(labelled / "teacher", data, tmp_path, ("train",))
    found = read_labels(tmp_path, open_split(data, "train").ids[0])
    assert found.pose_valid.tolist() == [False, True, True, True] and found.valid.all()
    assert manifest["written"] == manifest["views_without_camera"] == 8


def test_a_model_that_is_no_teacher_is_refused(tiny_run, tmp_path):
    command = ["--model", str(tiny_run), "--data", str(tiny_run / "data" / "rooms"), "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="is a 'mllm', not a teacher"):
        label.main(command)


def test_reuse_takes_over_data_and_finished_phases(labelled, tmp_path):
    for record in open_split(labelled / "data" / "rooms", "train"):  # two steps teach no camera: the true ones
        found = read_labels(labelled / "label", record.id)
        cameras = dict(intrinsics=np.diag([0.5, 0.5, 1.0]) @ record.intrinsics, camera_to_world=record.camera_to_world)
        seen = dataclasses.replace(found, **cameras, pose_valid=np.ones(4, bool))
        write_labels(labelled / "label", record.id, seen)
    config = _teacher_run()
    config.reuse = str(labelled)
    full = rooms_run.spatial_phase(SCALE, "full", init_from="")
    full.data.sources.rooms.labels = "label"
    full.lifting.distill_features = 32
    full.lifting.heads = ("depth",)
    full.losses.update(distill=1.0, ray=0.0, points=0.0)
    full.data.update(questions=4)
    config.phases.full, config.order = full, (*config.order, "full")
    train.train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "data").exists() and not (tmp_path / "teacher").exists()
    saved = json.loads((tmp_path / "full" / "config.json").read_text())
    assert saved["data"]["sources"]["rooms"]["labels"] == str(labelled / "label")
    assert (tmp_path / "full" / "finished.json").exists()
    assert loading.locate(tmp_path).workdir == tmp_path / "full"  # a label phase is no model
    rows = [json.loads(line) for line in (tmp_path / "full" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["distill"] >= 0 and rows[-1]["depth/reg/count"] > 0

    config.phases.teacher.training.steps = 3
    with pytest.raises(ValueError, match="config.reuse.*was made with other settings"):
        train.train_and_evaluate(config, tmp_path / "other")


def test_what_killed_attempts_had_begun_is_removed_after_a_minute(tmp_path):
    for name, age in (("+1+a+b.tmp", 90), ("+2+a+b.tmp", 5), ("record.npz", 90)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    label._remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["+2+a+b.tmp", "record.npz"]
