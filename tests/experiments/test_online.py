"""A teacher in the training step equals training from its label files, on any mesh; mistakes are named before any work."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from data_pipelines.config import SourceConfig
from data_pipelines.loader import make_loader
from data_pipelines.manifest import read_manifest
from data_pipelines.online import OnlinePictures
from data_pipelines.samples import SampleMaker
from experiments import label, online, phases, plan, startup, train
from experiments.configs import common
from experiments.prepare import prepare_rooms
from experiments.starting import processor_for
from spatialsv_jax import assembly, spec
from spatialsv_jax.planning.chips import parse_topology
from spatialsv_jax.teachers.da3 import preprocess as da3_preprocess
from spatialsv_jax.training import flops, sharding, state, step
from spatialsv_jax.training.checkpoints import Checkpoints

sys.path.append(str(Path(__file__).parents[1] / "data_pipelines"))
import loader_fakes as fakes

WEIGHTS = Path(__file__).parents[1] / "goldens"
WIDTH = 64  # of both goldens' features
# bfloat16 falls alike where the shapes do: labels are made of as many rows and views as a batch has.
DTYPES = {"da3": ("float32", []), "vggt": ("bfloat16", ["--rows", "16", "--views", "3"])}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Rooms of two views, 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("data") / "rooms"
    prepare_rooms(folder, scenes=6, validation=0, test=2, ood=0, views=2, size=32, workers=None, progress=False)
    return folder


@pytest.fixture(scope="module", params=["da3", pytest.param("vggt", marks=pytest.mark.slow)])
def taught(request, rooms, tmp_path_factory):
    """(teacher, folder of its label files of the rooms)."""
    out = tmp_path_factory.mktemp("labels") / request.param
    command = [
        "--teacher",
        request.param,
        "--checkpoint",
        str(WEIGHTS / request.param),
        "--data",
        str(rooms),
        "--out",
        str(out),
    ]
    dtype, shape = DTYPES[request.param]
    label.main(
        [
            *command,
            *shape,
            "--process_res",
            "70",
            "--dtype",
            dtype,
            "--licence",
            "mine",
            "--features",
            "3",
            "--config.mesh.data",
            "1",
        ]
    )
    return request.param, out


def config_of(rooms, teacher="da3", labels="online", rows=8, **changes):
    """Half of the rows measured, half of them with the teacher's labels; three views of room, so one is padding."""
    config = common.get_config()
    config.name = "phase"
    config.vision.update(image_size=32, patch_size=8, width=32, layers=1, heads=2, trainable=False)
    config.language.update(width=32, layers=4, heads=2, kv_heads=1, head_dim=16, mlp_width=64, unroll=1)
    config.lifting.update(width=16, channels=(8, 8, 8, 8), features=8, distill_features=WIDTH)
    config.losses.update(distill=1.0)
    how = dict(labels=labels, confidence_quantile=0.2, confidence_weights=True, text=False)
    config.data.sources = {
        "a_measured": common.source(str(rooms), per_batch=rows),
        "b_taught": common.source(str(rooms), per_batch=rows, **how),
    }
    config.data.update(questions=2, question_tokens=40, answer_tokens=2, views=3, label_size=(24, 20), verify=1)
    config.training.update(steps=3, log_every=1, tensorboard=False)
    config.optimizer.update(name="adamw", projector=1e-3, language=1e-3, lifting=1e-3)
    config.evaluation.scenes = -1
    if labels == "online":
        folder, (dtype, _) = str(WEIGHTS / teacher), DTYPES[teacher]
        config.online.update(teacher=teacher, checkpoint=folder, process_res=70, dtype=dtype, features=3)
    for name, values in changes.items():
        config[name].update(values)
    return config


def reports(config, tmp_path, devices=1, steps=2):
    """The metrics of some steps, made by the functions of `train.train_phase`."""
    settings, data = assembly.read_settings(config), phases.data_settings(config)
    manifests = {source["path"]: read_manifest(source["path"]) for source in data.sources}
    processor = processor_for(config, settings, manifests)
    mesh = sharding.make_mesh(settings.mesh, jax.devices()[:devices])
    teacher = online.open_teacher(settings, data, mesh)
    with_teacher = {"teacher": teacher.network, "teacher_size": teacher.size} if teacher else {}
    loader = make_loader(data, processor, **with_teacher)
    model = assembly.build_model(settings, processor)
    init, apply, axes = train.model_functions(model, settings, loader.batch(0), 0)
    parts = step.make_parts(settings, apply, 0, teacher and teacher.teach)
    shapes, report = state.state_shapes(init, parts.tx, settings.frozen_groups, axes, mesh)
    own = state.create_state(init, parts.tx, settings.frozen_groups, shapes)
    compiled = startup.CompiledSteps(parts, shapes, [loader.batch(0)], mesh, teacher)
    found = []
    for number in range(steps):
        own, metrics = compiled(own, sharding.put_batch(loader.batch(number), mesh))
        found.append({name: float(value) for name, value in metrics.items()})
    table = startup.Table("t", settings, shapes, report, loader, compiled.steps, mesh, [loader.batch(0)], teacher)
    return found, table.text(), teacher


@pytest.fixture(scope="module")
def alone(taught, rooms, tmp_path_factory):
    """`reports` of the teacher in the step on one device."""
    return reports(config_of(rooms, taught[0]), tmp_path_factory.mktemp("alone"))


def assert_equal(found, wanted):
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert abs(one[name] - value) <= 1e-4 * max(1, abs(value)), (number, name, one[name], value)


def test_losses_are_those_of_training_from_label_files(taught, alone, rooms, tmp_path):
    teacher, labels = taught
    wanted, _, _ = reports(config_of(rooms, teacher, str(labels)), tmp_path)
    assert wanted[0]["depth/reg/count"] > 2000 and wanted[0]["distill"] > 0 and wanted[0]["seen/with_geometry"] == 16
    assert_equal(alone[0], wanted)


@pytest.mark.slow
@pytest.mark.parametrize("taught", ["da3"], indirect=True)  # one teacher is enough
def test_a_mesh_and_microbatches_change_nothing(taught, alone, rooms, tmp_path):
    split = config_of(rooms, taught[0], mesh=dict(data=2, fsdp=4), training=dict(microbatches=2))
    found, _, teacher = reports(split, tmp_path, devices=8)
    assert_equal(found, alone[0])
    sizes = [leaf.addressable_shards[0].data.size / leaf.size for leaf in jax.tree.leaves(teacher.params)]
    assert min(sizes) == 0.25


def test_the_table_says_what_the_teacher_costs(alone):
    _, table, teacher = alone
    row = next(line for line in table.splitlines() if line.strip().startswith("teacher "))
    count = sum(leaf.size for leaf in jax.tree.leaves(teacher.params))
    assert startup.number(count) + " parameters" in row and startup.size(4 * count) in row
    assert "pictures [16, 3, 70, 70, 3]" in row and teacher.network.checkpoint[:12] in row and "% of the FLOPs" in row
    assert "are labelled in the step" in table and "3D of the teacher in the step" in table


def test_a_plan_counts_the_teacher(rooms):
    """Its FLOPs are those of its forward pass, its bytes a quarter on each device; no weights are read."""
    config = config_of("/nowhere", mesh=dict(data=2, fsdp=4), training=dict(microbatches=2))
    config.online.update(height=70, width=70)
    found = plan.plan(config, parse_topology("cpu:8"), compile=False)
    outlined = online.outline(assembly.read_settings(config).online)
    pixels = jax.ShapeDtypeStruct((16, 3, 70, 70, 3), np.float32)
    forward = sum(flops.count(outlined.predict, outlined.params, pixels, np.ones((16, 3), bool)).values())
    assert (
        forward < found.costs["teacher"].matrix < 1.01 * forward
    )  # cameras and features are brought to the labels' frame
    whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(outlined.params))
    assert (
        whole / 4 < found.memory.teacher < 0.4 * whole and found.costs["teacher"].whole > 2 * whole
    )  # read in each pass
    assert "teacher" in found.text() and "teacher" not in found.text_only
    assert found.to_json()["bytes_by_kind"]["teacher"] == found.memory.teacher
    alone = plan.plan(plan.text_only(config), parse_topology("cpu:8"), compile=False)
    assert "teacher" not in alone.costs and alone.memory.teacher == 0
    config.online.update(checkpoint="DA3-LARGE-1.1", height=0, width=0)
    settings = assembly.read_settings(config).online
    published = online.outline(settings)
    assert sum(leaf.size for leaf in jax.tree.leaves(published.params)) == pytest.approx(
        410.9e6, rel=0.02
    )  # unread ray branches are not among them


def test_a_run_with_other_weights_or_settings_is_refused(rooms, tmp_path):
    config = config_of(rooms, rows=1, training=dict(steps=1))
    del config.data.sources.a_measured  # one row: on one device
    config.losses.update(distill=0.0, ray=0.0, points=0.0)
    config.lifting.update(heads=("depth",), distill_features=0)
    config.online.features = -1
    folder = tmp_path / "weights"
    shutil.copytree(WEIGHTS / "da3", folder)
    config.online.checkpoint = str(folder)
    train.train_and_evaluate(config, tmp_path / "run")
    step_folder = next((tmp_path / "run/checkpoints").glob("[0-9]*"))
    meta = Checkpoints(tmp_path / "run/checkpoints", create=False).read_meta(1)
    assert meta["teacher"]["teacher"] == "da3" and meta["teacher"]["dtype"] == "float32"
    assert meta["data"]["b_taught"]["teacher"] == meta["teacher"]["checkpoint"] and step_folder.name == "1"
    shapes = Checkpoints(tmp_path / "run/checkpoints", create=False).saved_shapes(1)[1]
    assert not any(
        "camera" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)
    )  # no part of the state
    config.training.steps = 2
    moved = tmp_path / "moved"
    folder.rename(moved)
    config.online.checkpoint = str(moved)
    other = config.copy_and_resolve_references()
    other.online.process_res = 84
    with pytest.raises(ValueError, match="online.process_res is 84, was 70"):
        train.train_and_evaluate(other, tmp_path / "run")
    weights = moved / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-2] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(ValueError, match="teacher in the step, has changed.*b_taught.teacher is"):
        train.train_and_evaluate(config, tmp_path / "run")
    changed[-2] ^= 1
    weights.write_bytes(changed)
    train.train_and_evaluate(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1] and rows[1]["depth/reg/count"] > 0


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(online=dict(teacher="")), "online.teacher is '', but"),
        (dict(online=dict(teacher="other")), "online.teacher is 'other'; choose"),
        (dict(online=dict(checkpoint="")), "online.checkpoint is ''"),
        (dict(online=dict(checkpoint="/nowhere")), "online.checkpoint is '/nowhere', which is no folder"),
        (dict(online=dict(checkpoint=str(WEIGHTS / "vggt"))), "config.online: .* it is no checkpoint of Depth Anything 3"),
        (dict(online=dict(metric_checkpoint=str(WEIGHTS / "da3"))), "is no mono checkpoint"),
        (dict(online=dict(resize="crop")), "config.online: resize is 'crop'; da3 has"),
        (dict(online=dict(features=4)), "online.features is 4"),
        (dict(online=dict(dtype="int8")), "online.dtype is 'int8'"),
        (dict(online=dict(height=70)), r"height and width are \(70, 0\)"),
        (dict(online=dict(height=70, width=75)), "multiples of 14"),
        (dict(lifting=dict(distill_features=32)), "distill_features is 32, but features of da3 are 64 wide"),
        (dict(source=dict(labels="measured", features="none", confidence_quantile=0.0, confidence_weights=False)), "but no source takes"),
        (dict(source=dict(multi_view="agrees")), "with labels = 'online' set it to 'off'"),
        (dict(source=dict(shuffle3d=True)), "shuffle3d gives a sample the labels of another"),
        (dict(source=dict(augment=True)), "augment changes"),
        (dict(online=dict(features=-1)), "losses.distill needs features, but config.online.features is -1"),
        (dict(source=dict(features="online"), online=dict(features=-1)), "features is 'online', but .* -1"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_any_work(rooms, change, message):
    config = config_of(rooms)
    config.data.sources.b_taught.update(change.pop("source", {}))
    for name, values in change.items():
        config[name].update(values)
    with pytest.raises(ValueError, match=message):
        phases.check_phase(config, "config")


def test_records_of_another_size_are_named():
    network = online.outline(assembly.read_settings(config_of("/nowhere")).online)
    records = fakes.Records(fakes.record(index, views=2, size=(56, 70 + 30 * (index == 2))) for index in range(4))
    source = SourceConfig(path="a", per_batch=2, labels="online", text=False)
    data = dataclasses.replace(fakes.settings(), sources=(source,))
    with pytest.raises(
        ValueError, match=r"Record 'r2': pictures of 56 x 100 come to 42 x 70 .* 56 x 70 \(of record 'r0'\)"
    ):
        make_loader(data, fakes.PROCESSOR, records=[records], teacher=network)
    with pytest.raises(
        ValueError, match=r"3 records, e.g. 'r0': pictures of 56 x 70 come to 56 x 70 .* reads 42 x 70: a"
    ):
        make_loader(data, fakes.PROCESSOR, records=[records], teacher=network, teacher_size=(42, 70))
    with pytest.raises(ValueError, match="there is no teacher"):
        make_loader(data, fakes.PROCESSOR, records=[records])
    mixed = fakes.record(0, views=2, size=(56, 70))
    mixed = dataclasses.replace(
        mixed, images=(mixed.images[0], fakes.record(1, size=(56, 100)).images[0]), depths=(b"", b"")
    )
    with pytest.raises(ValueError, match="Record 'r0': pictures of 56 x 70, 56 x 100 come to 42 x 70"):
        make_loader(data, fakes.PROCESSOR, records=[fakes.Records([mixed])], teacher=network)
    settings = assembly.read_settings(config_of("/nowhere", "vggt", online=dict(resize="pad"))).online
    loader = make_loader(
        data, fakes.PROCESSOR, records=[records], teacher=online.outline(settings)
    )  # a square fits all
    batch = loader.batch(0)
    assert batch["teacher_pixels"].shape == (2, 3, 70, 70, 3) and batch["teacher_pixels"].dtype == np.uint8
    assert batch["teacher_inside"][0, 0].tolist() in ([7, 63, 0, 70], [14, 56, 0, 70])
    spec.check(batch)


def test_cached_encoder_features_and_records_without_pictures(rooms):
    """The teacher's pictures are decoded where the encoder's are not; a record of text alone has none."""
    network = online.outline(assembly.read_settings(config_of("/nowhere")).online)
    source = SourceConfig(path="a", per_batch=2, labels="online")
    pictures = OnlinePictures(network, (56, 70))
    record, settings = fakes.record(0, views=2, size=(56, 70)), fakes.settings().sample_settings
    cache = SimpleNamespace(none=np.zeros((0, 1, 1)), read=lambda image, name: np.zeros((1, 1, 1)))
    made = [
        SampleMaker(source, settings, fakes.PROCESSOR, vision=vision, online=pictures).prepare(record, (1, 0)).teacher
        for vision in (None, cache)
    ]
    for name, value in vars(made[0]).items():
        np.testing.assert_array_equal(getattr(made[1], name), value, err_msg=name)
    assert made[0].pixels.shape == (2, 56, 70, 3) and made[0].pool_rows is None
    same = da3_preprocess.prepare(fakes.decoded(record)[::-1], process_res=70).pictures
    np.testing.assert_array_equal(made[0].pixels, same)
    none = {name: getattr(record, name)[:0] for name in ("intrinsics", "camera_to_world", "pose_valid")}
    asked = dataclasses.replace(record.questions[0], text="what is red", views=())
    bare = dataclasses.replace(record, view_ids=(), images=(), depths=(), questions=(asked,), **none)
    made = SampleMaker(source, settings, fakes.PROCESSOR, online=pictures).prepare(bare, ())
    assert made.teacher.pixels.shape == (0, 56, 70, 3) and made.has_text
