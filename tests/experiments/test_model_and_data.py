"""What commands ask alike of their models: whose they are, what they are called, which data they were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from experiments import model_and_data


def test_the_training_data_is_the_first_source_by_name(tmp_path):
    config = {"data": {"sources": {"rooms": {"path": "b"}, "own": {"path": "a"}}}}
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_and_data.training_data(model_and_data.config_of(str(tmp_path))) == "a"
    assert model_and_data.is_ours(SimpleNamespace(path=tmp_path))
    assert not model_and_data.is_ours(SimpleNamespace(path=tmp_path / "checkpoints"))
    with pytest.raises(FileNotFoundError, match="No model at"):
        model_and_data.config_of(str(tmp_path / "none"))


def test_a_checkpoint_of_others_needs_its_flags():
    model_and_data.need_of_others("base", data="d", out="o")
    with pytest.raises(ValueError, match="base is a checkpoint of others.*give --data and --out"):
        model_and_data.need_of_others("base", data="d", out=None)
    with pytest.raises(ValueError, match="give --data\\."):
        model_and_data.need_of_others("base", data=None)


def test_names_of_models():
    assert model_and_data.distinct_names(["runs/a", "runs/b/"], []) == ["a", "b"]
    assert model_and_data.distinct_names(["a", "b"], ["x", "y"]) == ["x", "y"]
    with pytest.raises(ValueError, match="called alike \\(a, a\\)"):
        model_and_data.distinct_names(["one/a", "two/a"], [])
    with pytest.raises(ValueError, match="--names has 1 names, expected one for each of the 2 models"):
        model_and_data.distinct_names(["a", "b"], ["x"])
    taken: list[str] = []
    for _ in range(4):
        taken.append(model_and_data.unused_name("run", 3, taken))
    assert taken == ["run", "run, step 3", "run, step 3 (2)", "run, step 3 (3)"]


def test_a_compile_cache_that_jax_was_told_stays():
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        model_and_data.use_compile_cache(Path("first"))
        model_and_data.use_compile_cache(Path("second"))
        assert jax.config.jax_compilation_cache_dir == str(Path("first/.jax_cache"))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
