"""The harness that kills: a command that writes whole files passes, one that writes in place is caught."""

import os
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the package

from benchmarks import chaos, chaos_commands

FILES, LINES = 12, 40
# Writes files of 40 lines that are not there yet, whole or in place.
PROGRAM = """
import os, sys, time
from pathlib import Path
out, whole = Path(sys.argv[1]), sys.argv[2] == "whole"
for number in range(12):
    path = out / str(number)
    if path.exists():
        continue
    target = out / f".{number}.tmp" if whole else path
    with open(target, "w") as file:
        for line in range(40):
            print(number * line, file=file, flush=True)
            time.sleep(0.0005)
    if whole:
        os.replace(target, path)
"""


def _scenario(program: Path, how: str) -> chaos_commands.Scenario:
    expected = {str(n): "".join(f"{n * line}\n" for line in range(LINES)).encode() for n in range(FILES)}

    def loadable(folder):
        found = {name: data for name, data in chaos_commands.files_of(folder).items() if not name.startswith(".")}
        return [f"{name} is partial" for name, data in found.items() if data != expected[name]]

    begun = lambda folder: chaos_commands.marks(folder, "*")
    compare = lambda folder: chaos_commands.differing(expected, chaos_commands.files_of(folder))
    command = lambda folder: [str(program), str(folder), how]
    return chaos_commands.Scenario(how, command, begun, begun, loadable, compare)


@pytest.mark.parametrize(("how", "passes"), [("whole", True), ("in place", False)])
def test_partial_results_are_caught(tmp_path, how, passes):
    (tmp_path / "program.py").write_text(PROGRAM)
    scenario = _scenario(tmp_path / "program.py", how)
    row = chaos.run_scenario(scenario, tmp_path, tmp_path / "log.txt", 8, 4, random.Random(1))
    assert row["kills"] == 8 == row["during_work"] + row["during_start_up"] and row["comparisons"] >= 2
    assert (not row["partial_results"]) == (not row["differences"]) == passes


def test_a_command_that_fails_ends_the_measurement(tmp_path):
    (tmp_path / "program.py").write_text("raise SystemExit('broken')")
    with pytest.raises(RuntimeError, match="failed: broken"):
        chaos.run_scenario(
            _scenario(tmp_path / "program.py", "whole"), tmp_path, tmp_path / "log.txt", 1, 1, random.Random(1)
        )


@pytest.mark.parametrize(
    ("changed", "passes"),
    [
        ({}, True),
        ({"topologies": {"same_records": True, "largest_difference": 9e-5}}, True),
        ({"topologies": {"same_records": False, "largest_difference": 0.0}}, False),
        ({"topologies": {"same_records": True, "largest_difference": 2e-4}}, False),
        ({"topologies": {"same_records": True, "largest_difference": float("nan")}}, False),
        ({"scenarios": {"a": {"partial_results": [], "differences": ["x"]}}}, False),
    ],
)
def test_a_result_that_differs_fails(changed, passes):
    assert chaos.passed({"scenarios": {"a": {"partial_results": [], "differences": []}}} | changed) == passes


def test_other_devices_with_other_records_end_with_1(tmp_path, monkeypatch):
    monkeypatch.setattr(chaos_commands.Commands, "prepare", lambda self: None)
    monkeypatch.setattr(chaos_commands.Commands, "scenarios", lambda self: [])
    monkeypatch.setattr(chaos.os, "environ", dict(os.environ))
    moved = {"parts": [], "largest_difference": 0.0, "same_records": True}
    for same, code in ((True, 0), (False, 1)):
        monkeypatch.setattr(chaos, "run_topologies", lambda *_, same=same: {**moved, "same_records": same})
        assert chaos.main(["--kills", "0", "--topologies", "--work", str(tmp_path)]) == code


def test_kills_are_shared_out():
    assert chaos.shares(50, list("abcde")) == dict.fromkeys("abcde", 10)
    assert chaos.shares(7, list("abc")) == {"a": 3, "b": 2, "c": 2}
