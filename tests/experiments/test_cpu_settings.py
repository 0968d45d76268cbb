"""Settings of the process on a CPU: added once, never over what the user has set."""

from __future__ import annotations

import os
import subprocess
import sys

from experiments import cpu_settings

RUN = "from experiments import cpu_settings as c; c.apply(); import os; print(os.environ.get('GLIBC_TUNABLES'), os.environ.get('XLA_FLAGS'))"


def test_added_on_a_cpu_only():
    new = cpu_settings.missing_settings({}, "0.10.2", accelerator=False)
    assert set(new) == {cpu_settings.APPLIED, "GLIBC_TUNABLES", "XLA_FLAGS"}
    assert cpu_settings.missing_settings(new, "0.10.2", accelerator=False) == {}
    assert cpu_settings.missing_settings({}, "0.10.2", accelerator=True) == {}
    assert cpu_settings.missing_settings({"JAX_PLATFORMS": "cpu"}, "0.10.2", accelerator=True)
    assert cpu_settings.missing_settings({"JAX_PLATFORMS": "cuda"}, "0.10.2", accelerator=False) == {}


def test_the_users_own_settings_stay():
    own = {"GLIBC_TUNABLES": "glibc.malloc.check=1", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    new = cpu_settings.missing_settings(own, "0.10.2", accelerator=False)
    assert "GLIBC_TUNABLES" not in new
    assert new["XLA_FLAGS"].split() == [own["XLA_FLAGS"], cpu_settings.XLA_FLAG]
    assert "XLA_FLAGS" not in cpu_settings.missing_settings({}, "0.99.0", accelerator=False)


def test_program_is_started_again_with_its_arguments():
    environment = {key: value for key, value in os.environ.items() if key not in ("GLIBC_TUNABLES", "XLA_FLAGS")}
    environment.pop(cpu_settings.APPLIED, None)
    environment["JAX_PLATFORMS"] = "cpu"
    done = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == cpu_settings.GLIBC_TUNABLES
