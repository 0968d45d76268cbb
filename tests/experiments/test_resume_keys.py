"""What may change when a run goes on: keys that came later, how it is computed, and where its data lies."""

import copy
import json

import jax.numpy as jnp
import pytest

from experiments import resume
from experiments.configs import common
from experiments.resume import _with_later_keys
from spatialsv_jax.processing.tiny import TinyProcessor, build_tokenizer
from spatialsv_jax.training.checkpoints import Checkpoints
from spatialsv_jax.training.state import TrainState

PROCESSOR = TinyProcessor(build_tokenizer(["chair"]), 32, 8, 2)


def test_keys_that_came_later_count_as_their_defaults():
    new = json.loads(common.get_config().to_json_best_effort())
    kept = copy.deepcopy(new)
    for section, key in (("lifting", "refine"), ("losses", "remat"), ("optimizer", "moments")):
        del kept[section][key]
    assert _with_later_keys(kept, new) == new
    changed = copy.deepcopy(new)
    changed["lifting"]["refine"] = "folded"
    assert _with_later_keys(kept, changed)["lifting"] != changed["lifting"]


@pytest.mark.parametrize(("model", "same"), [("mllm", True), ("teacher", False)])
def test_an_earlier_teacher_matters_to_teachers_alone(model, same):
    new = json.loads(common.get_config().to_json_best_effort()) | {"model": model}
    kept = {**new, "teacher": dict(image_size=64, stem="conv", layers=4, tasks=["depth"])}
    assert (_with_later_keys(kept, new) == new) == same


def _config(folder="/a/rooms", **training):
    config = common.get_config()
    config.data.sources = {
        "first": common.source(f"{folder}/first", labels=f"{folder}/labels"),
        "second": common.source(f"{folder}/second"),
    }
    config.training.update(steps=1875, **training)
    return config


DATA = {"first": {"path": "hash 1", "labels": "teacher"}, "second": {"path": "hash 2"}}
BY_FOLDER = {"/a/rooms/first": "hash 1", "/a/rooms/second": "hash 2", "/a/rooms/labels": "teacher"}  # as before


@pytest.fixture(params=[DATA, BY_FOLDER], ids=["by source", "by folder"])
def workdir(request, tmp_path):
    """A run of `_config()` with a checkpoint of step 1800."""
    (tmp_path / "config.json").write_text(_config().to_json_best_effort())
    PROCESSOR.save(tmp_path / "processor")
    state = TrainState(jnp.int32(1800), {"x": jnp.zeros(1)}, {}, jnp.int32(-1), {}, {}, jnp.int32(0), jnp.zeros(1))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(state, {"data": request.param})
    checkpoints.close()
    return tmp_path


def _check(workdir, config, data=DATA):
    resume.check_unchanged(config, workdir, PROCESSOR, data)


def test_how_it_is_computed_may_change_and_what_may_not(workdir, capsys):
    config = _config(log_every=7, microbatches=2, skip_budget=3, log_records=True)
    config.mesh.fsdp, config.data.threads = 2, 5
    _check(workdir, config)
    assert "WARNING" not in capsys.readouterr().out
    config.data.sources.first.per_batch = 8
    with pytest.raises(ValueError, match=r"settings of \['data'\]: data.sources.first.per_batch is 8, was 16. Use"):
        _check(workdir, config)
    config = _config()
    config.data.sources.first.labels = "measured"
    with pytest.raises(ValueError, match="first.labels is 'measured', was 'a folder'"):
        _check(workdir, config)
    config = _config()
    with config.training.unlocked():
        config.training.invented = 1  # a key that nobody has thought about
    with pytest.raises(ValueError, match=r"training.invented is 1, was None"):
        _check(workdir, config)


def test_another_number_of_steps_is_said_with_what_it_does_to_the_rate(workdir, capsys):
    config = _config()
    config.training.steps = 3000
    _check(workdir, config)
    said = capsys.readouterr().out
    # Cosines of (1800 - 56) / (1875 - 56) and (1800 - 90) / (3000 - 90) of their half circles.
    assert "config.training.steps is 3000, was 1875" in said and "at step 1800" in said
    assert "from 0.4% to 36.4% of its peak" in said
    config.training.steps = 1799
    with pytest.raises(ValueError, match="steps is 1799, but .* a checkpoint of step 1800. Set it to 1800 or more"):
        _check(workdir, config)


def test_data_may_lie_elsewhere_when_its_hashes_are_equal(workdir):
    _check(workdir, _config("/b"))
    changed = {**DATA, "second": {"path": "hash 3"}}
    for folder in ("/a/rooms", "/b"):
        with pytest.raises(ValueError, match="has changed .*second.path is 'hash 3', was 'hash 2'"):
            _check(workdir, _config(folder), changed)
    with pytest.raises(ValueError, match="has changed .*first.labels is 'other', was 'teacher'"):
        _check(workdir, _config("/b"), {**DATA, "first": {"path": "hash 1", "labels": "other"}})
    swapped = {"first": {**DATA["first"], "path": "hash 2"}, "second": {"path": "hash 1"}}
    with pytest.raises(ValueError, match="has changed"):
        _check(workdir, _config("/b"), swapped)


def test_a_move_is_accepted_again_when_the_run_was_killed_before_it_saved(workdir):
    (workdir / "config.json").write_text(_config("/b").to_json_best_effort())
    _check(workdir, _config("/b"))
    with pytest.raises(ValueError, match="has changed"):
        _check(workdir, _config("/b"), {**DATA, "second": {"path": "hash 3"}})


def test_hashes_are_those_of_manifests_and_teachers(tmp_path):
    (tmp_path / "labels").mkdir()
    config = _config(str(tmp_path))
    manifests = {str(tmp_path / name): {"data_sha256": f"hash of {name}"} for name in ("first", "second")}
    expected = {
        "first": {"path": "hash of first", "labels": str(tmp_path / "labels")},
        "second": {"path": "hash of second"},
    }
    assert resume.data_used(config, manifests) == expected
    (tmp_path / "labels" / "labels.json").write_text(json.dumps({"checkpoint": "weights"}))
    expected["first"]["labels"] = "weights"
    assert resume.data_used(config, manifests) == expected
