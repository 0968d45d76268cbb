"""Programs up to their kernels: what libtpu writes down, and what becomes of the process that compiles."""

import collections
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from spatialsv_jax.planning import memory, scheduled

# As libtpu 0.0.42 writes it, shortened: an input whose place an output takes, another input, an output of its own, the
# region of all other arrays, a constant, and places on the chip.
PLACES = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <2 add.1 @0> (size=512,offset=0): f32[]{:T(128)}
allocation 1: size 4000, parameter 1, shape |f32[1000]| at ShapeIndex {}, maybe-live-out:
 value: <45 fusion @0> (size=4000,offset=0): f32[1000]{0}
allocation 2: size 800, parameter 0, shape |f32[200]| at ShapeIndex {}:
allocation 3: size 64, output shape is |f32[16]|, maybe-live-out:
allocation 4: size 999, constant:
allocation 6: size 12288, preallocated-temp:
 value: <38 copy-start{} @0> (size=512,offset=11000): f32[128]{0}
allocation 7: size 24, color 2, preallocated-temp:
allocation 8: size 6324224, color 1, preallocated-temp:
"""
MODULE = """HloModule step

%inner (p: f32[4]) -> f32[4] {
  ROOT %p = f32[4]{0} parameter(0)
}

ENTRY %main (a: f32[200], b: f32[1000]) -> f32[1000] {
  %a = f32[200]{0} parameter(0)
  %b = f32[1000]{0} parameter(1)
}
"""


@pytest.mark.parametrize("places", [PLACES, re.sub(r"(size \d+(, color \d)?), ", r"\1, page 0, ", PLACES)])
def test_a_buffer_assignment_by_hand(places):
    """libtpu 0.0.48 puts a page before what an allocation is."""
    found = scheduled.read(places, MODULE)
    assert (found.kept, found.temporaries, found.text) == (4864, 12288, MODULE)
    peak = memory.scheduled((4000, 700, 100), found)
    assert peak.peak == 4864 + 12288 + memory.CODE and peak.temporaries == 12288 and peak.source == "scheduled"


@pytest.mark.parametrize("places, text, said", [
    (PLACES.replace("parameter 0, shape", "input 0, shape"), MODULE, "2 inputs and libtpu's list of places 1 of them"),
    (PLACES.replace("size", "bytes"), MODULE, "places 0 of them"),
    (PLACES, "HloModule step\n", "0 inputs"),
])  # fmt: skip
def test_another_form_of_the_files_is_no_small_program(places, text, said):
    with pytest.raises(RuntimeError, match=said):
        scheduled.read(places, text)


@pytest.mark.parametrize("available, fits", [(10, True), (9, None), (8, None), (7, False)])
def test_where_the_code_decides_it_is_not_known(available, fits):
    need = memory.Memory(1, 1, 1, 5, code=2, peak=10, source="scheduled")
    assert memory.fits(need, available) is fits


class Slow:
    """Stands for a lowered program: writes what libtpu would, then goes on for long."""

    def __init__(self, whole: bool):
        self.whole = whole

    def compile(self, compiler_options):
        folder = Path(compiler_options["xla_dump_to"])
        (folder.parent / "process").write_text(str(os.getpid()))
        (folder / "m.after_optimizations-buffer-assignment.txt").write_text(PLACES)
        (folder / "m.after_optimizations_after_buffer_assignment.txt").write_text(MODULE * self.whole)
        time.sleep(60 if self.whole else 0)


class Refusing:
    def compile(self, compiler_options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 20.0G of 15.75G hbm.")


def broken():
    raise ValueError("no such mesh")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def waiting(note: str):
    Path(note).write_text(str(os.getpid()))
    time.sleep(60)


def _gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "Z"  # ended, and nobody has waited for it yet


def test_the_process_is_ended_when_all_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    began = time.monotonic()
    found = scheduled.schedule(Slow, True)
    assert found.temporaries == 12288 and found.text.startswith("HloModule") and time.monotonic() - began < 50
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "process").read_text()), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["process"]


def test_a_refusal_and_failures_are_told():
    with pytest.raises(scheduled.Refused, match="Used 20.0G"):
        scheduled.schedule(Refusing)
    with pytest.raises(RuntimeError, match="no such mesh"):
        scheduled.schedule(broken)
    with pytest.raises(RuntimeError, match="Take --whole"):
        scheduled.schedule(Slow, False)
    with pytest.raises(RuntimeError, match="memory was full"):
        scheduled.schedule(killed)


def test_a_full_disk_ends_it(tmp_path, monkeypatch):
    """libtpu would go on without its files, and make the kernels."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: collections.namedtuple("usage", "free")(4096))
    with pytest.raises(OSError) as caught:
        scheduled.schedule(waiting, str(tmp_path / "process"))
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.glob("scheduled_*"))


def test_nothing_compiles_on_when_the_plan_is_killed(tmp_path):
    note = tmp_path / "process"
    code = (
        "import sys; from spatialsv_jax.planning import scheduled; from tests.spatialsv_jax.planning import test_scheduled\n"
        f"scheduled.schedule(test_scheduled.waiting, {str(note)!r})"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    plan = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=Path(__file__).parents[3])
    until = time.monotonic() + 60
    while not (note.exists() and note.read_text()) and time.monotonic() < until:
        time.sleep(0.1)
    plan.kill()
    plan.wait()
    child, until = int(note.read_text()), time.monotonic() + 20
    while not _gone(child) and time.monotonic() < until:
        time.sleep(0.1)
    assert _gone(child) and not list(tmp_path.glob("scheduled_*"))


def _lowered():
    return jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((4, 4), jnp.float32))


def test_a_compiler_that_writes_nothing_of_the_kind_is_named():
    """XLA for CPUs, whose files have other names."""
    with pytest.raises(RuntimeError, match="before libtpu wrote its program down"):
        scheduled.schedule(_lowered)
