"""Probes of a very small run: nothing but the new head changes, and what comes out is what was measured."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import spatialsv_jax
from experiments import probe
from experiments.configs import probe_depth
from experiments.starting import Start
from spatialsv_jax import assembly
from spatialsv_jax.report import probe_page


@pytest.fixture(scope="module")
def probed(tiny_run, tmp_path_factory):
    """Folder of two probes of two steps."""
    out = tmp_path_factory.mktemp("probe")
    command = ["--model", str(tiny_run), "--layers", "spread", "last", "--steps", "2", "--rows", "2", "--out", str(out)]
    assert probe.main(command) == 0
    return out


def _leaves(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_the_model_stays_as_it_was(tiny_run, probed):
    model, own = spatialsv_jax.load(tiny_run), spatialsv_jax.load(probed / "tiny-last")
    before, after = _leaves(model.params["backbone"]), _leaves(own.params["backbone"])
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)
    assert own.settings.lifting.heads == ("depth",) and own.model.taps == (4, 4, 4, 4)
    assert set(own.params["lifting"]) == {"depth", *(f"projector_{level}" for level in range(4))}
    assert own.settings.frozen_groups == ("vision", "projector", "language", "adapters")


def test_the_table_says_what_was_measured(tiny_run, probed):
    found = json.loads((probed / "probe.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert [(row["layers"], row["taps"]) for row in found["rows"]] == [("spread", [1, 2, 3, 4]), ("last", [4] * 4)]
    evaluation = json.loads((tiny_run / "evaluation.json").read_text("utf-8"))
    none = {"n": 0, "ids": []}
    assert found["records"] == {"common": 3, "left_out": none, "other_pixels": none}
    for row in found["rows"]:  # the frozen model's own answers, and the same constant map
        assert row["accuracy"]["value"] == evaluation["questions"]["micro"]["value"]
        assert row["constant_rmse"]["value"] == pytest.approx(evaluation["depth"]["constant"]["none"]["rmse"])
        assert row["rmse_over_constant"] == pytest.approx(row["rmse"]["value"] / row["constant_rmse"]["value"])
    first, second = found["rows"]
    assert first["against_first"]["value"] == 0
    assert second["against_first"]["value"] == pytest.approx(second["rmse"]["value"] - first["rmse"]["value"])
    page = (probed / "index.html").read_text("utf-8")
    assert (probed / "probe.png").exists() and "<script" not in page and "last (4, 4, 4, 4)" in page


def test_started_again_nothing_is_trained_anew(tiny_run, probed, capsys):
    again = probe.probe_models([str(tiny_run)], str(probed), ("spread", "last"), steps=2, rows=2, answers=False)
    assert capsys.readouterr().out.count("already trained to step 2") == 2
    assert again["rows"][0]["accuracy"] is None
    assert again["rows"][0]["rmse"] == json.loads((probed / "probe.json").read_text("utf-8"))["rows"][0]["rmse"]


def test_fresh_heads_are_not_those_of_the_model(tiny_run):
    loaded = spatialsv_jax.load(tiny_run)
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), loaded.params)
    assert set(Start(str(tiny_run)).parameters(shapes)) == {"backbone", "lifting"}
    assert set(Start(str(tiny_run), fresh_lifting=True).parameters(shapes)) == {"backbone"}


def test_only_a_probe_freezes_the_trunk():
    from experiments.configs import heads_stopgrad

    control = heads_stopgrad.get_config("tiny").phases.heads_stopgrad  # it still learns from text
    assert assembly.read_settings(control).frozen_groups == ("vision",)
    config = probe_depth.get_config("tiny").phases.probe_depth
    settings = assembly.read_settings(config)
    assert "language" in settings.frozen_groups and settings.objective_name == "depth"
    probe_depth.paper_scale(config)
    assert assembly.read_settings(config).optimizer.name == "adamw"


def test_layers_by_name():
    assert probe.taps_of("spread", 12) == () and probe.taps_of("spread", 12, (1, 2, 3, 5)) == (1, 2, 3, 5)
    assert probe.taps_of("last", 12) == (12,) * 4 and probe.taps_of("0", 12) == (0,) * 4
    assert probe.taps_of("1,4,4,9", 12) == (1, 4, 4, 9)
    for wrong in ("13", "-1", "1,2", "first", "1,2,3,x"):
        with pytest.raises(ValueError, match="an index from 0 to 12"):
            probe.taps_of(wrong, 12)


def test_mistakes_end_with_2_and_one_message(tiny_run, tmp_path, capsys):
    model, out = ["--model", str(tiny_run)], ["--out", str(tmp_path / "out")]
    for arguments, message in [
        (["--model", str(tmp_path), *out], "No model at"),
        ([*model, *out, "--layers", "9"], "an index from 0 to 4"),
        ([*model, str(tiny_run), *out], "called alike"),
        ([*model, *out, "--layers", "last", "last"], "two probes called 'tiny-last'"),
        ([*model, *out, "--split", "holdout"], "has no split 'holdout'"),
    ]:
        assert probe.main(arguments) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        probe.main([*model, *out, "--steps", "0"])


def test_several_models_are_drawn_against_accuracy_and_texts_are_escaped(tmp_path):
    evil = "<script>$x"
    mean = lambda value: {"value": value, "interval_95": [value - 0.1, value + 0.1], "n": 3, "scenes": 3}
    rows = [
        {"model": f"{evil}{place}", "layers": evil, "taps": [1, 2, 3, 4], "rmse": mean(0.5), "abs_rel": mean(0.2),
         "constant_rmse": mean(0.6), "rmse_over_constant": 0.8, "accuracy": mean(0.1 * place),
         "against_first": {"value": 0.1, "interval_95": None, "verdict": "unknown"}}
        for place in range(2)
    ]  # fmt: skip
    result = {
        "rows": rows,
        "records": {"common": 3, "left_out": {"n": 2, "ids": [evil] * 2}, "other_pixels": {"n": 1, "ids": [evil]}},
        "data": {"path": evil, "split": evil},
        "method": {evil: evil},
        "provenance": {"command": evil},
    }
    page = probe_page.write_page(tmp_path, result).read_text("utf-8")
    assert "<script" not in page and "against the accuracy" in page
    assert "2 records left out" in page and "1 record of 3 measured at other pixels" in page
