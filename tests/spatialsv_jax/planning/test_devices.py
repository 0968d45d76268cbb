"""Where a plan is made: on this machine's CPUs, whatever accelerator JAX would take."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("topology, devices", [("v5e:2x2", 1), ("h100:3", 3), ("cpu:2", 2)])
def test_no_accelerator_is_started(topology, devices):
    """JAX_PLATFORMS names one that is not here, so that starting it would fail."""
    code = (
        "from spatialsv_jax.planning import chips, devices; import jax\n"
        f"devices.simulate(chips.parse_topology({topology!r})); print(jax.default_backend(), jax.device_count())"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True
    )
    assert done.stdout.split() == ["cpu", str(devices)], done.stderr
