"""Settings of the process on a CPU: added once, never over what the user has set."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from experiments import cpu_settings

RUN = "from experiments import cpu_settings as c; c.apply(); import os; print(os.environ.get('GLIBC_TUNABLES'), os.environ.get('XLA_FLAGS'))"

# Eight threads hold arrays; printed: the heaps of the C library, and bytes of a freed array that were kept until `release`.
HEAPS = """
import ctypes, re, sys, tempfile, threading
from experiments import cpu_settings
cpu_settings.apply()
import numpy as np
resident = lambda: int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
held, ready = [], threading.Barrier(8)
threads = [threading.Thread(target=lambda: (ready.wait(), held.append(np.ones(2**14)))) for _ in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
with tempfile.TemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fdopen(file.fileno(), b"w"))
    libc.malloc_info(0, stream), libc.fflush(stream)
    file.seek(0)
    heaps = file.read().count(b"<heap nr=")
large, after = np.ones(2**25), np.ones(4)
del large
kept = resident()
cpu_settings.release()
print(heaps, kept - resident())
"""


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


def started_with_settings(program):
    """Words that a program prints whose environment has none of the settings."""
    environment = {key: value for key, value in os.environ.items() if key not in ("GLIBC_TUNABLES", "XLA_FLAGS")}
    environment.pop(cpu_settings.APPLIED, None)
    environment["JAX_PLATFORMS"] = "cpu"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_program_is_started_again_with_its_arguments():
    assert started_with_settings(RUN)[0] == cpu_settings.GLIBC_TUNABLES


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_threads_have_heaps_of_their_own_and_freed_memory_is_kept_until_released():
    """Threads that share a heap wait for each other at every allocation (docs/performance.md)."""
    heaps, kept = map(int, started_with_settings(HEAPS))
    assert heaps > 1
    assert 2**27 < kept  # half of the freed array at the least
