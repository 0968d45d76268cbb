"""Settings of the suite: strict rank promotion, 8 simulated devices, one compilation cache, the same random examples at
every run; the run that tests share.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The suite compiles much and runs little: less compile time for slower programs.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
os.environ["SPATIALSV_CPU_SETTINGS"] = "off"  # commands compute as the tests do
# Tests and the commands they start compile the same programs.
_own_cache = "" if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="spatialsv-jax-cache-")
if _own_cache:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _own_cache
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import hypothesis
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# A run tells of the change that was made, not of luck; others are drawn by --hypothesis-profile=default (CONTRIBUTING.md).
hypothesis.settings.register_profile("suite", derandomize=True)
hypothesis.settings.load_profile("suite")


def pytest_unconfigure():
    """Removes the cache that this run made."""
    if _own_cache:
        shutil.rmtree(_own_cache, ignore_errors=True)


TINY_RUN = """
from experiments.configs import rooms_run

def get_config():
    scale = rooms_run.Scale(
        scenes=4, test=3, other=3, image=32, labels=16, patch=4, spatial_steps=3, rows=2, width=32, layers=4, vision_layers=1,
        dpt=(8, 8, 8, 8), features_3d=8,
    )
    phase = rooms_run.spatial_phase(scale, init_from="")
    phase.training.update(log_every=1, gradient_norm_every=1, cards_every=2, log_records=True)
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
    (folder / "config.py").write_text(TINY_RUN)
    command = [
        sys.executable,
        "-m",
        "experiments.train",
        "--config",
        str(folder / "config.py"),
        "--workdir",
        str(folder / "tiny"),
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], env={**os.environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
