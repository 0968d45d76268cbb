"""Zero inference cost: a checkpoint in, twenty steps with lifting heads, the base model's exact layout out."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import spatialsv_jax
from experiments import export_hf, import_hf
from experiments.configs import finetune
from experiments.train import train_and_evaluate
from spatialsv_jax.generation import decoding
from spatialsv_jax.interop.tensor_files import TensorFolder

GOLDENS = Path(__file__).parents[1] / "goldens"
# Family: what its config's vision section needs, and what the names of its encoder's and its projector's tensors begin with.
FAMILIES = {
    "qwen2_5_vl": ({"image_size": (56, 56)}, "visual.blocks.", "visual.merger."),
    "internvl3": ({}, "vision_tower.", "multi_modal_projector."),
    "llava_next_video": ({}, "vision_tower.", "multi_modal_projector."),
    "llava_onevision1_5": ({"image_size": (56, 56)}, "visual.blocks.", "visual.merger."),
}
PICTURES = [np.full((60, 90, 3), 40, np.uint8), np.full((90, 50, 3), 200, np.uint8)]


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tiny_run, tmp_path_factory):
    """(family, folder A, run, folder B)."""
    name, root = request.param, tmp_path_factory.mktemp(request.param)
    checkpoint = root / "A"
    shutil.copytree(GOLDENS / name, checkpoint, ignore=shutil.ignore_patterns("reference*"))
    config = finetune.get_config("tiny")
    config.init_from = str(checkpoint)
    config.vision.update(FAMILIES[name][0])
    config.data.sources.train.path = str(tiny_run / "data" / "rooms")
    config.training.steps = 20
    train_and_evaluate(config, root / "run")
    shutil.move(checkpoint, root / "moved")  # an export does not need the folder any more
    assert export_hf.main(["--model", str(root / "run"), "--out", str(root / "B")]) == 0
    return name, root / "moved", root / "run", root / "B"


def test_layout_is_the_base_models(trained):
    name, base, _, out = trained
    ours, theirs = TensorFolder(out), TensorFolder(base)
    assert ours.tensors == theirs.tensors and ours.metadata == theirs.metadata
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            assert (out / path.name).read_bytes() == path.read_bytes(), path.name


def test_what_is_trained_and_what_is_frozen(trained):
    name, base, _, out = trained
    ours, theirs = TensorFolder(out), TensorFolder(base)
    changed = {key for key in theirs.tensors if not np.array_equal(ours.read(key), theirs.read(key))}
    assert any("layers.0.self_attn" in key for key in changed)
    encoder = {key for key in theirs.tensors if key.startswith(FAMILIES[name][1])}
    projector = {key for key in theirs.tensors if key.startswith(FAMILIES[name][2])}
    assert encoder and not changed & encoder
    assert projector and projector <= changed


def test_heads_lie_apart(trained):
    *_, run, out = trained
    folder = out / "spatialsv_lifting"
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "lifting.safetensors"}
    assert json.loads((folder / "config.json").read_text())["taps"] == list(spatialsv_jax.load(run).model.taps)


def test_generation_is_the_same_program(trained):
    _, base, run, out = trained

    def program(model, params):
        batch = model.inputs(PICTURES, ["Where is it?"], native=True)
        make = jax.jit(lambda p, b: decoding.greedy(model.model, p, b, 4, model.processor.end_id))
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, batch))
        return make.lower(*shapes).as_text()

    before, after = (spatialsv_jax.load(path) for path in (base, out))
    assert program(before, before.params) == program(after, after.params)
    own = spatialsv_jax.load(run)
    without = {"backbone": own.params["backbone"]}
    assert program(own, without) == program(before, before.params)
    assert own.answer(PICTURES, ["Where is it?"], 8) == after.answer(PICTURES, ["Where is it?"], 8)


def test_reconstructs(trained):
    found = spatialsv_jax.load(trained[2]).reconstruct(PICTURES)
    assert found.depth.shape == (2, 16, 16) and np.isfinite(found.points).all()


def test_imported_and_exported_again_every_file_is_the_same(trained, tmp_path):
    base = trained[1]
    assert import_hf.main(["--checkpoint", str(base), "--out", str(tmp_path / "in")]) == 0
    assert export_hf.main(["--model", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in base.iterdir()} == {path.name for path in (tmp_path / "out").iterdir()}
    for path in base.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name
    report = (tmp_path / "in" / "import.txt").read_text()
    assert "backbone/language/embedding" in report and "model.safetensors" in report
