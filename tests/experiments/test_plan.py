"""Plans of small steps, compared with counts by hand; batch shapes with those of the loader."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines.loader import make_loader
from experiments import plan, plan_step
from experiments.configs import quickstart, qwen2_5_vl_3b
from experiments.phases import data_settings
from experiments.plan_changes import Change, changes, mesh_sizes, on_slices
from spatialsv_jax import assembly
from spatialsv_jax.planning import memory
from spatialsv_jax.planning.chips import parse_topology
from spatialsv_jax.processing import load_processor
from spatialsv_jax.training import flops, step

CPU = parse_topology("cpu:4")


def small(**language) -> ConfigDict:
    """A phase that compiles in seconds: one head, few layers."""
    config = quickstart.get_config("tiny").phases.spatial.copy_and_resolve_references()
    config.vision.update(width=32, heads=2, layers=1)
    config.language.update(width=32, layers=4, heads=2, kv_heads=1, head_dim=16, mlp_width=64, **language)
    config.lifting.update(heads=("depth",), width=16, channels=(8, 8, 8, 8), features=8)
    config.losses.update(ray=0.0, points=0.0)
    config.optimizer.name = "adamw"
    config.data.update(questions=2, question_tokens=16, label_size=(16, 16))
    config.data.sources = {"rooms": config.data.sources.rooms}
    config.data.sources.rooms.per_batch = 4
    config.mesh.update(data=2, fsdp=2, tensor=1)
    return config


@pytest.fixture(scope="module")
def compiler_said():
    """The compiler's figures of the step that `found` compiles."""
    return []


@pytest.fixture(scope="module")
def found(compiler_said):
    compiled = memory.compiled

    def heard(known, stats, gaps):
        compiler_said.append(stats)
        return compiled(known, stats, gaps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "compiled", heard)
        return plan.plan(small(), CPU)


def test_bytes_are_those_of_arrays_on_a_device(found, compiler_said):
    """Beside arrays that are really there: split over fsdp=2 but for norms, two moments of what is trained, one row."""
    planned = plan_step.plan_step(small(), jax.devices()[:4])
    place = lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)
    held = lambda tree: sum(
        jax.tree.leaves(jax.tree.map(lambda leaf: place(leaf).addressable_shards[0].data.nbytes, tree))
    )
    params, kinds = planned.shapes.params, found.to_json()["bytes_by_kind"]
    decoder, width, kernels = params["backbone"]["language"], 32, 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    assert held(decoder) == 4 * (len(decoder["embedding"]) * width // 2 + 4 * (kernels // 2 + 2 * width) + width)
    assert kinds["parameters"] == held(params)
    counts = [leaf for leaf in jax.tree.leaves(planned.shapes.opt_state) if not leaf.shape]
    assert kinds["optimizer"] == 2 * (held(params) - held(params["backbone"]["vision"])) + 4 * len(counts)
    row = sum(math.prod(value.shape[1:]) * value.dtype.itemsize for value in planned.batch.values())
    assert kinds["batch"] == row and found.rows == 4

    (stats,) = compiler_said
    kept = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    assert found.memory.source == "compiler" and kinds["generated_code"] == stats.generated_code_size_in_bytes
    assert kinds["gradients_and_temporaries"] == stats.temp_size_in_bytes > kinds["parameters"]
    peak = found.to_json()["peak_bytes_per_device"]
    assert peak == kept + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
    # Beside the inputs only metrics and counters, less fields of the batch that nothing reads; the state is reused.
    assert kept == pytest.approx(sum(kinds[name] for name in ("parameters", "optimizer", "batch")), abs=4096)


def test_work_is_that_of_the_step(found):
    """By parts; without lifting it is that of a step with text alone."""
    values = found.to_json()
    assert values["flops"] == sum(cost["matrix"] for cost in values["costs"].values())
    alone = plan_step.plan_step(plan.text_only(small()), jax.devices()[:4])
    without = flops.count(lambda s, b: step.train_step(alone.parts, s, b), alone.shapes, alone.batch)
    assert sum(without.values()) == values["text_only_flops"]
    extra = values["flops"] - values["text_only_flops"]
    lifting = sum(
        cost["matrix"] for part, cost in values["costs"].items() if part.startswith(("lifting", "losses/depth"))
    )
    assert extra == pytest.approx(lifting) and 0 < values["lifting_flops_share"] < 1


@pytest.mark.parametrize("tensor", [1, 2])
def test_weights_are_read_whole_in_each_pass(found, tensor):
    """The decoder's kernels by every device: forward, inputs' gradients, own gradients; of them half over tensor=2."""
    config = small()
    config.mesh.update(data=2 // tensor, tensor=tensor)
    cost = (found if tensor == 1 else plan.plan(config, CPU, compile=False)).costs["language"]
    width, inner, heads, kv_heads = 32, 64, 32, 16
    kernels = 4 * (2 * width * heads + 2 * width * kv_heads + 3 * width * inner)
    assert cost.whole == 3 * 4 * kernels / tensor


def test_collectives_of_the_compiled_step(found):
    """Gradients are summed over data=2: at least the bytes of what is trained; fsdp=2 gathers parameters."""
    assert found.collectives["all-reduce"].bytes > 0 and found.collectives["all-gather"].bytes > 0
    text = found.text()
    assert "what a device has is not known" in text and "all-gather" in text
    refused = dataclasses.replace(found.memory, source="compiler refused")
    assert "not known: the compiler refused" in dataclasses.replace(found, collectives=None, memory=refused).text()


def test_batches_are_those_of_the_loader(tiny_run):
    """Fields, shapes and types, of a run's own config and processor."""
    config = ConfigDict(json.loads((tiny_run / "spatial" / "config.json").read_text()))
    config.data.sources.rooms.path = str(tiny_run / "data" / "rooms")
    settings, data = assembly.read_settings(config), data_settings(config)
    processor = load_processor(tiny_run / "spatial" / "processor")
    loader = make_loader(data, processor)
    real = loader.batch(0)
    loader.close()
    planned = plan_step.batch_shapes(settings, data, processor, len(real["depth"]))
    assert {n: (v.shape, str(v.dtype)) for n, v in planned.items()} == {
        n: (v.shape, str(v.dtype)) for n, v in real.items()
    }


def test_slices_are_those_of_the_mesh():
    one, two = parse_topology("v5e:2x2"), dataclasses.replace(parse_topology("v5e:2x2"), slices=2)
    config = small()
    config.data.sources.rooms.per_batch = 8
    sizes = {"data": 2, "fsdp": 4, "tensor": 1, "slices": 2}
    found, topology = on_slices(config, "data=2,fsdp=4,slices=2", one)
    assert topology == two and dict(found.mesh).items() >= sizes.items() and config.mesh.slices == 1
    config.mesh.update({"slices": 2, "data": -1, "fsdp": 8})  # data of 1 cannot go over two slices
    found, topology = on_slices(config, "", one)
    assert topology == two and dict(found.mesh).items() >= sizes.items()
    with pytest.raises(ValueError, match="slices is 2: several slices are planned for TPUs alone, not h100:8"):
        on_slices(config, "", parse_topology("h100:8"))


def test_changes_and_meshes():
    config = small()
    config.language.remat = "none"
    assert mesh_sizes(config, 4)[0] == {**config.mesh, "data": 1, "fsdp": 4, "tensor": 1}
    assert {"fsdp": 4, "context": 2, "tensor": 1}.items() <= mesh_sizes(config, 8)[0].items()
    assert {"fsdp": 4, "context": 1, "tensor": 2}.items() <= mesh_sizes(config, 8)[1].items()
    assert [sizes["fsdp"] for sizes in mesh_sizes(config, 16, hosts=4)] == [4] * 2  # not 2 or 1: four hosts feed rows
    with pytest.raises(ValueError, match="4 rows cannot be split over 32 devices of 8 hosts"):
        mesh_sizes(config, 32, hosts=8)
    config.mesh.slices = 2  # data goes over them, fsdp over the devices of one
    assert mesh_sizes(config, 4, hosts=2)[0].items() >= {"data": 2, "fsdp": 2, "slices": 2}.items()
    config.mesh.slices = 1
    offered = changes(config, 4)
    assert str(offered[0]) == "--config.language.remat=full" and offered[0].same_result
    assert offered[0].apply(config).language.remat == "full" and config.language.remat == "none"
    assert any("lora_rank=16" in str(change) and not change.same_result for change in offered)
    assert "training computes something else" in str(Change((("language.lora_rank", 16),), False))


def test_no_change_is_offered_twice_or_changes_nothing():
    """Of a mesh with a -1 too, which one device or more stand for."""
    for devices, mesh in ((1, {"data": -1, "fsdp": 1}), (4, {"data": 1, "fsdp": -1}), (4, {"data": 2, "fsdp": 2})):
        config = qwen2_5_vl_3b.get_config()
        config.mesh.update(tensor=1, **mesh)
        offered = [str(change) for change in changes(config, devices)]
        assert len(set(offered)) == len(offered) and "" not in offered
        plain = "--mesh fsdp=4" if devices > 1 else ""
        assert (plain in offered) == (mesh["fsdp"] == 2)


def test_the_command_writes_json_and_ranks_changes(found, tmp_path, capsys, monkeypatch):
    """A step that does not fit: what fits stands first, and before it what leaves the training's result as it is."""
    chip = dataclasses.replace(CPU.chip, memory_bytes=1000, flops=1e12, memory_bandwidth=1e11, link_bandwidth=1e10)
    topology, compiled = dataclasses.replace(CPU, chip=chip), []

    def planned(config, topology, compile=True, **_):
        peak = 2000 - 300 * (config.language.remat == "full") - 1600 * (config.language.lora_rank > 0)
        compiled.append(compile)
        known = dataclasses.replace(found.memory, peak=peak, source="compiler" if compile else "estimate")
        return dataclasses.replace(found, topology=topology, memory=known, available=1000, mesh=dict(config.mesh))

    remat, lora = Change((("language.remat", "full"),)), Change((("language.lora_rank", 8),), same_result=False)
    monkeypatch.setattr(plan, "parse_topology", lambda text: topology)
    monkeypatch.setattr(plan, "read_config", lambda file, overrides: small())
    monkeypatch.setattr(plan, "changes", lambda config, devices, hosts: [lora, remat, remat + lora])
    monkeypatch.setattr(plan, "plan", planned)
    plan.main(["--config=x", "--topology=cpu:4", "--mesh=data=1,fsdp=4", "--tries=1", f"--out={tmp_path}/p.json"])
    values = json.loads((tmp_path / "p.json").read_text())
    assert values["fits"] is False and values["mesh"]["fsdp"] == 4 and values["bytes_free_per_device"] == -1000
    assert compiled == [True, False, False, False, True]  # the step, three guesses, the best of them
    peaks = [change["peak_bytes_per_device"] for change in values["changes"]]
    assert peaks == [100, 400, 1700] and [change["fits"] for change in values["changes"]] == [True, True, False]
    assert values["changes"][2]["same_result"] and "language.remat=full" in values["changes"][2]["change"]
    assert "It does not fit" in capsys.readouterr().out


@pytest.mark.parametrize("real, compiled_in_turn, verdicts", [
    # Twice the estimates, as of the step itself: 400 is the quickest that then fits, and does.
    (2.0, ["400"], {"400": True, "300": True, "450": True, "600": None, "1500": None, "1700": False}),
    # Three times: 400 does not fit after all, so that 300 is the next; both tries are used up.
    (3.4, ["400", "300"], {"400": False, "300": False, "450": True, "600": None, "1500": None, "1700": False}),
])  # fmt: skip
def test_advice_compiles_what_most_likely_fits_until_it_does(found, monkeypatch, real, compiled_in_turn, verdicts):
    """Changes named by their estimates, of 1000 bytes that there are; the larger ones are quicker, 450 trains another thing.

    Estimates say no above 1.6 times the memory only.
    """
    topology = dataclasses.replace(CPU, chip=dataclasses.replace(CPU.chip, memory_bytes=1000))
    compiled = []

    def planned(config, topology, compile=True, **_):
        guess = config.training.steps
        compiled.extend([str(guess)] * compile)
        times = dataclasses.replace(found.times, seconds=1.0 / guess)
        known = dataclasses.replace(
            found.memory, peak=guess * (real if compile else 1), source=["estimate", "compiler"][compile]
        )
        return dataclasses.replace(found, memory=known, available=1000, times=times, estimate=guess)

    options = [Change((("training.steps", n),), same_result=n != 450) for n in (300, 400, 450, 600, 1500, 1700)]
    monkeypatch.setattr(plan, "changes", lambda config, devices, hosts: options)
    monkeypatch.setattr(plan, "plan", planned)
    memory = dataclasses.replace(found.memory, peak=2000, source="compiler")
    advice = plan.advise(
        small(), topology, dataclasses.replace(found, memory=memory, estimate=1000), say=lambda _: None
    )
    name = lambda change: str(change.values[0][1])
    assert compiled == compiled_in_turn
    assert {name(change): one.fits for change, one in advice} == verdicts
    assert [one.fits for _, one in advice] == sorted(verdicts.values(), key=[True, None, False].index)
    if real == 2.0:
        assert name(advice[0][0]) == "400"


@pytest.mark.parametrize("message, shown", [("The process that compiles was killed\nand more", "The process that compiles was killed"), ("", "RuntimeError")])  # fmt: skip
def test_a_compiler_that_fails_on_a_change_costs_neither_the_plan_nor_the_others(found, monkeypatch, message, shown):
    """The first of two that are compiled fails; it is listed with its estimate."""
    topology = dataclasses.replace(CPU, chip=dataclasses.replace(CPU.chip, memory_bytes=1000))
    said = []

    def planned(config, topology, compile=True, **_):
        if compile and config.training.steps == 500:
            raise RuntimeError(message)
        known = dataclasses.replace(
            found.memory, peak=config.training.steps, source="compiler" if compile else "estimate"
        )
        return dataclasses.replace(found, memory=known, available=1000, estimate=known.peak)

    options = [Change((("training.steps", n),)) for n in (500, 600)]
    monkeypatch.setattr(plan, "changes", lambda config, devices, hosts: options)
    monkeypatch.setattr(plan, "plan", planned)
    refused = dataclasses.replace(found, memory=dataclasses.replace(found.memory, peak=2000), estimate=2000)
    advice = plan.advise(small(), topology, refused, say=said.append)
    assert [(one.memory.peak, one.fits) for _, one in advice] == [(600, True), (500, None)]
    assert f"  not compiled: --config.training.steps=500: {shown}" in said


@pytest.mark.parametrize(
    "words, message",
    [
        (["--topology=v9:2"], "chip of v5e"),
        (["--topology=cpu:4", "--mesh=rows=4"], "no axis=size"),
        (["--topology=cpu:4", "--mesh=fsdp=--4"], "no axis=size"),
        (["--topology=cpu:4", "--mesh=data=3"], "does not cover 4"),
        (["--topology=cpu:4", "--phase=nothing"], "the config trains"),
        (["--topology=cpu:4", "--config.nothing=1"], "names no key"),
    ],
)
def test_mistakes_are_told(words, message):
    with pytest.raises(SystemExit, match=message):
        plan.main(["--config=experiments/configs/qwen2_5_vl_3b.py:tiny", *words])


def test_a_published_model_needs_no_tokenizer(tmp_path):
    """The vocabulary is the preset's, whatever tokenizer stands in."""
    config = qwen2_5_vl_3b.get_config()
    settings = assembly.read_settings(config)
    processor = plan_step.planning_processor(config, settings, tmp_path)
    assert processor.vocab_size == 151936
    batch = plan_step.batch_shapes(settings, data_settings(config), processor, 16)
    assert batch["pixel_values"].shape == (16, 4, 448, 448, 3) and batch["image_token_index"].shape == (16, 4, 256)
    assert np.prod(batch["depth"].shape) == 16 * 4 * 224 * 224


@pytest.mark.parity
def test_a_step_compiles_for_a_tpu():
    """python -m pip install -e ".[test,tpu_programs]"; splash attention, collectives and the memory of the chip, the same
    with kernels and without.
    """
    pytest.importorskip("libtpu")
    config = small(dtype="bfloat16")
    config.mesh.update(data=1, fsdp=4)
    found = plan.plan(config, parse_topology("v5e:2x2"))
    assert found.fits and found.memory.source == "scheduled" and found.collectives["all-gather"].count > 0
    assert found.times.seconds > 0 and 0 < found.times.mfu < 1
    whole = plan.plan(config, parse_topology("v5e:2x2"), whole=True)
    assert whole.memory.source == "compiler" and whole.collectives == found.collectives
    assert abs(whole.memory.temporaries - found.memory.temporaries) < 2**16 and 0 < whole.memory.code < memory.CODE
    without_code = lambda one: one.memory.peak - one.memory.code
    assert abs(without_code(whole) - without_code(found)) < 2**16
