"""One very small trained run that the tests of the commands share."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
from experiments.configs import rooms_run

def get_config():
    scale = rooms_run.Scale(
        scenes=4, test=3, other=3, image=32, labels=16, patch=4, spatial_steps=3, rows=2, width=32, layers=4, vision_layers=1,
        dpt=(8, 8, 8, 8), features_3d=8,
    )
    phase = rooms_run.spatial_phase(scale, init_from="")
    phase.training.update(log_every=1, gradient_norm_every=1, cards_every=2)
    return rooms_run.run("tiny", scale, {"spatial": phase})
"""


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """Folder of a run of one phase `spatial`: rooms, three steps of the objective `tasks`, evaluation, report.

    Made by the train command in a process of its own, on one device, once for all workers of the suite.
    """
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "tiny_run"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other worker waits here until the run is there
        if not (folder / "tiny" / "evaluation.json").exists():
            _make(folder)
    return folder / "tiny"


def _make(folder: Path) -> None:
    (folder / "config.py").write_text(CONFIG)
    command = [
        sys.executable,
        "-m",
        "experiments.train",
        "--config",
        str(folder / "config.py"),
        "--workdir",
        str(folder / "tiny"),
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env={**os.environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
