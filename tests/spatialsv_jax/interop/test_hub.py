"""Folders of checkpoints: tied unembeddings, refusals, bad input; experiments.import_hf's messages."""

import json
import shutil
from pathlib import Path

import family_checks as checks
import family_runs as runs
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from experiments import import_hf
from spatialsv_jax.interop.arrays import write_checkpoint
from spatialsv_jax.interop.hub import is_checkpoint, open_checkpoint
from spatialsv_jax.interop.tensor_files import TensorFolder
from spatialsv_jax.processing import PROCESSORS

GOLDENS = Path(__file__).parents[2] / "goldens"


@pytest.fixture
def folder(tmp_path):
    """A copy of a golden checkpoint (tied embeddings) that a test may break."""
    shutil.copytree(GOLDENS / "qwen2_5_vl", tmp_path / "model", ignore=shutil.ignore_patterns("reference*"))
    return tmp_path / "model"


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def change_json(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_stored_copy_of_a_tied_unembedding_follows_the_embedding(folder, tmp_path):
    change_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}))
    found = runs.imported(folder)
    assert found.model.language.tie_embeddings and found.conversion.mirrored
    (tmp_path / "same").mkdir()
    checks.check_export(folder, tmp_path / "same")
    flat = traverse_util.flatten_dict(found.params, sep="/")
    flat["backbone/language/embedding"] = np.asarray(flat["backbone/language/embedding"]) + 1
    (tmp_path / "trained").mkdir()
    write_checkpoint(found.conversion, found.folder, flat, tmp_path / "trained")
    written = load_file(tmp_path / "trained/model.safetensors")
    np.testing.assert_array_equal(written["lm_head.weight"], written["model.embed_tokens.weight"])


def test_a_stored_unembedding_of_its_own_is_used_whatever_config_json_says(folder):
    change_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}))
    found = runs.imported(folder)
    assert not found.model.language.tie_embeddings and not found.conversion.mirrored


def test_without_one_and_without_a_word_the_embedding_is_used(tmp_path):
    source = GOLDENS / "llava_onevision1_5"
    shutil.copytree(source, tmp_path / "model", ignore=shutil.ignore_patterns("reference*"))
    values = json.loads((source / "config.json").read_text())
    del values["text_config"]["tie_word_embeddings"]
    (tmp_path / "model/config.json").write_text(json.dumps(values))
    assert not open_checkpoint(tmp_path / "model").language.tie_embeddings
    change_tensors(tmp_path / "model", lambda t: t.pop("lm_head.weight"))
    assert open_checkpoint(tmp_path / "model").language.tie_embeddings


def import_error(folder, tmp_path, capsys):
    assert import_hf.main(["--checkpoint", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out" / "config.json").exists()
    return capsys.readouterr().err


def test_everything_that_does_not_fit_in_one_message(folder, tmp_path, capsys):
    def spoil(tensors):
        tensors["visual.surprise"] = np.zeros(3, np.float32)
        del tensors["model.norm.weight"]
        tensors["visual.merger.ln_q.weight"] = np.zeros(5, np.float32)

    change_tensors(folder, spoil)
    message = import_error(folder, tmp_path, capsys)
    for part in ("visual.surprise", "backbone/language/norm/scale", "visual.merger.ln_q.weight [5]", str(folder)):
        assert part in message


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: change_json(f / "config.json", model_type="mistral"), "model_type is 'mistral'. Models that can be read"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "Opening a pickle can run any code"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "truncated"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / "tokenizer.json").write_text("[]"), "is no tokenizer"),
        (lambda f: (f / "processor_config.json").unlink(), "has no preprocessor_config.json"),
        (lambda f: change_json(f / "config.json", image_token_id=3), "config.json says image_token_id 3, but"),
        (lambda f: change_json(f / "config.json", surprise=1), "unknown fields ['surprise']"),
    ],
)  # fmt: skip
def test_bad_folders_are_explained(folder, tmp_path, capsys, spoil, message):
    spoil(folder)
    assert message in import_error(folder, tmp_path, capsys)


def test_a_missing_shard_is_named(folder, tmp_path, capsys):
    tensors = load_file(folder / "model.safetensors")
    index = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(index.values()):
        save_file({name: tensors[name] for name in index if index[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert is_checkpoint(folder) and len(TensorFolder(folder).files) == 2
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in import_error(folder, tmp_path, capsys)


def test_a_tokenizer_without_picture_tokens(folder):
    values = json.loads((folder / "tokenizer.json").read_text())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != "<|image_pad|>"]
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"lacks the tokens \['<\|image_pad\|>'\]"):
        PROCESSORS["qwen2_5_vl"].from_checkpoint(folder)


def test_import_into_a_folder_that_holds_something(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    assert "not empty" in import_error(folder, tmp_path, capsys)
    assert (tmp_path / "out" / "precious").read_text() == "x"


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl3", "llava_next_video", "llava_onevision1_5"])
def test_pictures_and_texts_that_are_refused(name):
    processor = runs.imported(GOLDENS / name).processor
    small = np.zeros((30, 30, 3), np.uint8)
    for pictures, message in (
        ([np.zeros((1, 5000, 3), np.uint8)], "Picture 0 is 1 x 5000"),
        ([small] * 65, "65 pictures were given; one prompt holds at most 64"),
        ([small.astype(np.float32)], r"Picture 0 is float32\[30, 30, 3\]"),
        ([], "No picture"),
    ):
        for method in (processor.native, processor.pixels):
            with pytest.raises(ValueError, match=message):
                method(pictures)
    with pytest.raises(ValueError, match="contains the special tokens"):
        processor.encode_question(f"What is {processor.special['image']}?")
    with pytest.raises(ValueError, match="The question is empty"):
        processor.encode_question("  ")


def test_text_fields_written_on_both_levels_are_read_from_text_config(folder):
    """As versions 4.52 to 4.56 of transformers wrote them."""
    config = json.loads((folder / "config.json").read_text())
    wanted = open_checkpoint(folder).language
    text = config.get("text_config") or {k: v for k, v in config.items() if k not in ("vision_config", "architectures")}
    ids = {name: None for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")}
    top = {k: v for k, v in text.items() if k != "model_type"} | {"sliding_window": 99, "torch_dtype": "float16"}
    both = {**top, **{k: v for k, v in config.items() if k not in text or k in ids}, "model_type": "qwen2_5_vl"}
    text = {k: v for k, v in text.items() if k not in ids}
    both |= {"text_config": {**text, **ids, "model_type": "qwen2_5_vl_text"}, "vision_config": config["vision_config"]}
    (folder / "config.json").write_text(json.dumps(both))
    assert open_checkpoint(folder).language == wanted
    (folder / "config.json").write_text(json.dumps({**both, "made_up": 1}))
    with pytest.raises(ValueError, match="unknown fields \\['made_up'\\]"):
        open_checkpoint(folder)


def test_a_tokenizer_without_the_padding_token_takes_another(tmp_path):
    """Vicuna's has no <pad>; padding is masked, so any token does."""
    shutil.copytree(GOLDENS / "llava_next_video", tmp_path / "model", ignore=shutil.ignore_patterns("reference*"))
    path = tmp_path / "model/tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] != "<pad>"]
    vocabulary = tokenizer["model"]["vocab"]
    if "<pad>" in vocabulary:
        vocabulary["<unused>"] = vocabulary.pop("<pad>")
    path.write_text(json.dumps(tokenizer))
    change_json(tmp_path / "model/tokenizer_config.json", pad_token="</s>")
    found = PROCESSORS["llava_next_video"].from_checkpoint(tmp_path / "model")
    assert found.pad_id == found.end_id


def test_fields_of_published_internvl_folders(tmp_path):
    """What published configs hold beside transformers' own fields; another template or no thumbnail is refused."""
    shutil.copytree(GOLDENS / "internvl3", tmp_path / "model", ignore=shutil.ignore_patterns("reference*"))
    path = tmp_path / "model/config.json"
    config = json.loads(path.read_text())
    config["vision_config"] |= {"dropout": 0.0, "initializer_factor": 0.1}
    config["text_config"] |= {"moe_config": None}
    path.write_text(json.dumps(config))
    open_checkpoint(tmp_path / "model")
