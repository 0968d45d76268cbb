"""The start-up table: counts, bytes and splits against hand computations, and both verdicts on memory."""

import jax
import numpy as np
import pytest
from step_cases import tiny_batch, tiny_config

from data_pipelines.config import DataConfig
from experiments import startup
from experiments.train import model_functions
from spatialsv_jax import assembly
from spatialsv_jax.processing.tiny import TinyProcessor, build_tokenizer
from spatialsv_jax.training import optimizer, sharding, state


class FakeLoader:
    """Says what a loader says of its sources."""

    def __init__(self, shares=(1.0,)):
        self.shares, self.config = shares, DataConfig(buckets=4)

    def describe(self):
        source = dict(
            path="rooms",
            split="train",
            records=10,
            records_in_use=8,
            per_batch=8,
            steps_per_pass=1.0,
            shows="no text",
            scenes=4,
            scenes_with_text=3,
            records_without_labels=3,
        )
        shares = {f"{what}_padding_share": 0.25 for what in ("prefix", "question", "view")}
        lacking = {f"rows_without_{what}": count for what, count in (("text", 1), ("geometry", 2), ("features", 64))}
        sampled = {"rows": 64, "labelled_pixel_share": 0.5, **shares, **lacking}
        bucket = dict(share=1.0, grid_hw=[2, 2], views=2, records=8, sampled=sampled)
        several = [{**bucket, "share": share} for share in self.shares]
        wasted = dict(wasted_share=0.1, wasted_share_in_one_bucket=0.5, skew=[1.25]) if len(several) > 1 else {}
        empty = dict(wasted_share=None, wasted_share_in_one_bucket=None)
        return {"sources": [source], "sampled": sampled, "buckets": several, **empty, **wasted}


def make_table(sizes, shares=(1.0,), recomputed=0.0):
    config, batch = tiny_config(), tiny_batch()
    config.vision.trainable = False
    settings = assembly.read_settings(config)
    model = assembly.build_model(settings, TinyProcessor(build_tokenizer(["chair"]), 32, 8, 2))
    init, _, axes = model_functions(model, settings, batch, seed=0)
    mesh = sharding.make_mesh(sharding.MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    tx = optimizer.make_optimizer(settings.optimizer, 10)
    shapes, report = state.state_shapes(init, tx, settings.frozen_groups, axes, mesh)
    counted = [{"vision": 1e9, "language": 3e9 / part} for part in range(1, 3)]
    steps = [startup.CompiledStep(None, 1.5, 2**20, flops, recomputed) for flops in counted]
    steps, batches = steps[: len(shares)], [batch] * len(shares)
    table = startup.Table("spatial", settings, shapes, report, FakeLoader(shares), steps, mesh, batches)
    return table, shapes, batch


@pytest.fixture(scope="module")
def single():
    return make_table((1, 1, 1))


def rows_of(table) -> dict[str, str]:
    return {line[2:].split("  ")[0]: line[2:].split("  ", 1)[1].strip() for line in table.text().splitlines()}


def test_rows_say_what_will_run(single):
    table, shapes, batch = single
    rows = rows_of(table)
    assert "objective 'tasks'" in rows["phase"] and rows["terms"].startswith("text x 1.0, depth x 1.0")
    vision = sum(leaf.size for leaf in jax.tree.leaves(shapes.params["backbone"]["vision"]))
    everything = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    assert f"{startup.number(everything - vision)} trained, {startup.number(vision)} frozen" in rows["parameters"]
    own = 4 * everything
    assert f"parameters {startup.size(own)}" in rows["bytes per device"]
    assert f"batch {startup.size(sum(v.nbytes for v in batch.values()))}" in rows["bytes per device"]
    assert "temporaries 1.00 MiB" in rows["bytes per device"]
    assert rows["FLOPs per step"] == "4.00 G (vision 25%, language 75%), compiled in 1.5 s"
    source = "rooms (train): 8 of 10 records, 3 of 4 scenes with text, 8 rows a batch, 1.0 steps a pass; no text; 3 records have no label file"
    assert rows["source"] == source
    assert rows["tokens"].startswith(f"{int(batch['prefix_mask'].sum() + batch['question_mask'].sum())} a batch")
    assert (
        rows["labels"] == "of 64 sampled rows lack text: 1, geometry: 2, features: 64; depth covers 50% of the pixels"
    )
    assert rows["sharding"] == "one device"


def test_recomputed_products_are_shown_and_no_part_of_the_rate():
    table, _, _ = make_table((1, 1, 1), recomputed=5e8)
    assert rows_of(table)["FLOPs per step"].startswith("4.00 G (vision 25%, language 75%; 12% of them recomputed)")
    assert table.flops == [3.5e9]


def test_it_says_whether_it_fits(single, monkeypatch):
    table = single[0]
    monkeypatch.setattr(startup, "device_memory_bytes", lambda mesh: 2**40)
    assert rows_of(table)["memory"].startswith("fits: ")
    monkeypatch.setattr(startup, "device_memory_bytes", lambda mesh: 2**20)
    assert rows_of(table)["memory"].startswith("DOES NOT FIT: ")
    monkeypatch.setattr(startup, "device_memory_bytes", lambda mesh: None)
    assert "does not say" in rows_of(table)["memory"]


def test_splits_are_named_and_bytes_are_those_of_one_device():
    table, shapes, _ = make_table((2, 2, 2))
    text = table.text()
    assert "data=2 fsdp=2 context=1 tensor=2" in text and "('fsdp'" in text
    whole = sum(4 * leaf.size for leaf in jax.tree.leaves(shapes.params))
    assert sharding.bytes_per_device(shapes.params) < whole
    assert f"parameters {startup.size(sharding.bytes_per_device(shapes.params))}" in text


def test_several_buckets_have_a_line_each_and_their_mean():
    table, _, batch = make_table((1, 1, 1), shares=(0.75, 0.25))
    rows = rows_of(table)
    # 0.75 * 4 G + 0.25 * 2.5 G, of which vision is 1 G.
    assert rows["FLOPs per step"].startswith("3.62 G (vision 28%, language 72%), compiled in 3.0 s (2 programs")
    lines = [line for line in table.text().splitlines() if line.startswith("  bucket ")]
    assert ["75% of the steps" in lines[0], "25% of the steps" in lines[1]] == [True, True]
    assert rows["buckets"].startswith("2 of at most 4: 10% of the tokens carry nothing")
    assert "50% if all" in rows["buckets"] and "at most 1.25 times" in rows["buckets"]
    real = int(batch["prefix_mask"].sum() + batch["question_mask"].sum())
    assert table.tokens == [real, real] and table.flops == [4e9, 2.5e9]
