"""A job of two processes trains like one, and the first alone writes; mistakes in starting it are named."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import hosts

ROOT = Path(__file__).parents[2]


def _losses(run: Path) -> dict[int, dict[str, float]]:
    rows = [json.loads(line) for line in (run / "spatial" / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: {name: row[name] for name in ("total", "text", "depth", "ray", "points")} for row in rows}


def test_two_hosts_train_like_one(tiny_run, tmp_path):
    config = (tiny_run.parent / "config.py").read_text()
    (tmp_path / "config.py").write_text(config.replace("gradient_norm_every=1", "gradient_norm_every=0"))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "experiments.train"]
    command += ["--config", str(tmp_path / "config.py"), "--workdir", str(tmp_path / "run")]
    processes = []
    for index in range(2):
        job = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index)}
        with open(tmp_path / f"{index}.log", "w") as log:
            processes.append(
                subprocess.Popen(command, cwd=ROOT, env={**os.environ, **job}, stdout=log, stderr=subprocess.STDOUT)
            )
    try:
        codes = [process.wait(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
    first, second = ((tmp_path / f"{index}.log").read_text() for index in range(2))
    assert codes == [0, 0], first[-3000:] + second[-3000:]
    expected = _losses(tiny_run)
    for step, row in _losses(tmp_path / "run").items():
        assert row == pytest.approx(expected.pop(step), rel=1e-4, abs=1e-4)
    assert not expected
    assert "== spatial ==" in first and "== spatial ==" not in second
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["trained"]
    assert (tmp_path / "run" / "report" / "index.html").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"JAX_PROCESS_ID": "0"}, "JAX_PROCESS_ID without JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES"),
        (dict(zip(hosts._VARIABLES, ("localhost:1", "2", "2"), strict=True)), "expected 0 <= id < number"),
        (dict(zip(hosts._VARIABLES, ("localhost:1", "two", "0"), strict=True)), "JAX_NUM_PROCESSES=two"),
    ],
)
def test_wrong_variables_are_named(given, message, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        hosts.join()
