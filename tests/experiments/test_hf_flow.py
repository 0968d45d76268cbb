"""Zero inference cost: a checkpoint in, twenty steps with lifting heads, the base model's exact layout out."""

import json
import re
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
# Family: what its config's vision section needs, and a pattern of the tensors that are not trained. Views of LLaVA-NeXT-Video
# are frames here, which have no newline.
FAMILIES = {
    "qwen2_5_vl": ({"image_size": (56, 56)}, r"visual\.(?!merger)"),
    "internvl3": ({}, r"vision_tower\."),
    "llava_next_video": ({}, r"vision_tower\.|image_newline"),
    "llava_onevision1_5": ({"image_size": (56, 56)}, r"visual\.(?!merger)"),
}
PICTURES = [np.full((60, 90, 3), 40, np.uint8), np.full((90, 50, 3), 200, np.uint8)]


# One family in every run of the suite; its encoder and projector are the plainest.
EVERY = [name if name == "internvl3" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


@pytest.fixture(scope="module", params=EVERY)
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


def test_the_encoder_is_frozen_and_everything_else_is_trained(trained):
    """Merger or projector, embeddings, all of the decoder: every tensor changed; of the encoder not a byte."""
    name, base, _, out = trained
    ours, theirs = TensorFolder(out), TensorFolder(base)
    same = {key for key in theirs.tensors if ours.read(key).tobytes() == theirs.read(key).tobytes()}
    frozen = {key for key in theirs.tensors if re.match(FAMILIES[name][1], key)}
    assert frozen and same == frozen, same ^ frozen


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
