"""Process settings that make training on a CPU faster; they must be in the environment before the program starts.

glibc hands freed memory back to the kernel, so every step's arrays are page faults again: a quarter
of a small model's step. And XLA's fusions into its "ynn" library run on one thread each.
Measured on two cores, see docs/performance.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import sys
from collections.abc import Mapping
from pathlib import Path

# Freed memory is kept, but for blocks above 64 MiB of other threads than the first; its heap grows in steps of 256 MiB. As
# many heaps as glibc makes: threads that share one wait for each other (a step took 3 to 5 times as long). No huge pages
# (hugetlb=1): the kernel fills those that are partly in use up again, slowly, to all that compiling had taken.
GLIBC_TUNABLES = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456"
XLA_FLAG = "--xla_cpu_experimental_ynn_fusion_type="
XLA_FLAG_JAXLIB = ("0.10.",)  # versions that know the flag; XLA stops at unknown ones
APPLIED = "SPATIALSV_CPU_SETTINGS"  # "off" leaves everything as it is
ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel[0-9]*", "vfio/[0-9]*")  # in /dev


def missing_settings(environment: Mapping[str, str], jaxlib: str, accelerator: bool) -> dict[str, str]:
    """The variables to add to `environment`; {} when nothing is to be changed.

    What the user has set stays: own GLIBC_TUNABLES are kept, XLA_FLAGS are added to.

    Args:
      environment: of the process.
      jaxlib: version of jaxlib.
      accelerator: whether the machine has a GPU or TPU (then only JAX_PLATFORMS=cpu means CPU).
    """
    on_cpu = environment.get("JAX_PLATFORMS", "" if accelerator else "cpu") == "cpu"
    if environment.get(APPLIED) or not on_cpu:
        return {}
    new = {APPLIED: "on"}
    if "GLIBC_TUNABLES" not in environment:
        new["GLIBC_TUNABLES"] = GLIBC_TUNABLES
    flags = environment.get("XLA_FLAGS", "")
    if "ynn_fusion_type" not in flags and jaxlib.startswith(XLA_FLAG_JAXLIB):
        new["XLA_FLAGS"] = f"{flags} {XLA_FLAG}".strip()
    return new


def apply() -> None:
    """Starts the program again with the settings, once, where JAX will compute on a Linux CPU."""
    if not sys.platform.startswith("linux"):
        return
    accelerator = any(any(Path("/dev").glob(pattern)) for pattern in ACCELERATORS)
    new = missing_settings(os.environ, importlib.metadata.version("jaxlib"), accelerator)
    if new:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **new})


def release() -> None:
    """Gives the memory that is free now back to the kernel, where the C library is glibc.

    For the moment between compiling and the steps, and for the end of a save, whose threads are new ones with heaps of
    their own: with the settings above glibc would keep what they needed.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
