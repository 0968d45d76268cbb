"""Weights & Biases gets the metrics, and whatever it does the run neither stops nor waits for long."""

import json
import sys
import threading
import time
import types

import pytest

from spatialsv_jax.training.metric_writer import MetricWriter
from spatialsv_jax.training.wandb_writer import WandbWriter


class _Run:
    def __init__(self, fail_at=()):
        self.rows, self.finished, self._fail_at = [], False, fail_at

    def log(self, scalars, step):
        if step in self._fail_at:
            raise ConnectionError("network is unreachable")
        self.rows.append((step, scalars))

    def finish(self):
        self.finished = True


def _module(monkeypatch, init):
    module = types.ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)


def test_metrics_reach_it_beside_the_file(tmp_path, monkeypatch):
    run, given, said = _Run(), {}, []
    _module(monkeypatch, lambda **settings: given.update(settings) or run)
    for start in (0, 2):  # resumed
        writer = MetricWriter(tmp_path, start, tensorboard=False, wandb="rooms", config={"seed": 3}, say=said.append)
        writer.write(start, {"total": 1.5, "bad": float("nan")})
        writer.close()
        identity = given.pop("id")
        assert given.setdefault("first", identity) == identity
    assert run.rows == [(0, {"total": 1.5}), (2, {"total": 1.5})] and run.finished and not said
    assert given["project"] == "rooms" and given["config"] == {"seed": 3} and given["resume"] == "allow"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def _fails(**settings):
    raise SystemExit("wandb: no API key")


@pytest.mark.parametrize(
    ("init", "why", "failures"),
    [
        (_fails, "SystemExit: wandb: no API key", 6),
        (lambda **settings: _Run(fail_at=(1, 3)), "ConnectionError: network is unreachable", 2),
        (None, r'the package is missing: pip install -e ".\[wandb\]"', 6),
    ],
)
def test_any_failure_is_told_once_and_counted(tmp_path, monkeypatch, init, why, failures):
    if init is None:
        monkeypatch.setitem(sys.modules, "wandb", None)
    else:
        _module(monkeypatch, init)
    said = []
    writer = MetricWriter(tmp_path, 0, tensorboard=False, wandb="rooms", say=said.append)
    for step in range(5):
        writer.write(step, {"total": float(step)})
    writer.close()
    rows = [json.loads(line)["total"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [0, 1, 2, 3, 4]
    assert said[0] == f"Weights & Biases: {why.replace(chr(92), '')}. Training goes on without it."
    assert said[1:] == [f"Weights & Biases failed {failures} times; metrics.jsonl has everything."]


def test_a_service_that_hangs_holds_nothing_up(tmp_path, monkeypatch):
    release = threading.Event()
    _module(monkeypatch, lambda **settings: release.wait(30) and _Run())
    monkeypatch.setattr("spatialsv_jax.training.wandb_writer._WAITING", 3)
    said, began = [], time.monotonic()
    writer = WandbWriter("rooms", tmp_path, {}, said.append, close_s=0.1)
    for step in range(10):
        writer.write(step, {"total": 0.0})
    writer.close()
    assert time.monotonic() - began < 10 and "it takes no more lines" in said[0] and len(said) == 2
    release.set()
