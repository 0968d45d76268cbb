"""Real weights: SmolLM2 reads a paragraph well, and worse when its rotary pairs are in the wrong order."""

import json

import pytest
import smollm2

pytestmark = pytest.mark.parity


def test_real_weights_in_the_right_order(tmp_path):
    found, golden = smollm2.measure(smollm2.fetch(tmp_path)), json.loads(smollm2.GOLDEN.read_text())
    assert found["tokens"] >= 200
    nats = found["nats_per_token"]
    assert nats["interleaved"] <= nats["half_split"] - 0.3
    for order in nats:
        assert abs(nats[order] - golden["nats_per_token"][order]) < 0.01
    assert found["greedy"] == golden["greedy"]
