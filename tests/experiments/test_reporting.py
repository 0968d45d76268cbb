"""A command's mistakes are one line and code 2; other errors are not hidden."""

from __future__ import annotations

import argparse

import pytest

from experiments import probe, reporting


def _raise(error: BaseException):
    raise error


def test_a_mistake_is_a_line_and_a_code(capsys, monkeypatch):
    monkeypatch.delenv("SPATIALSV_TRACEBACK", raising=False)
    assert reporting.exit_code(lambda: None) == 0
    assert reporting.exit_code(lambda: _raise(ValueError("no such file")), label=lambda: "[p1/2] ") == reporting.MISTAKE
    assert capsys.readouterr().err == "[p1/2] error: no such file\n"
    with pytest.raises(KeyError):  # a fault of ours
        reporting.exit_code(lambda: _raise(KeyError("x")))
    monkeypatch.setenv("SPATIALSV_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no such file"):
        reporting.exit_code(lambda: _raise(ValueError("no such file")))


def test_counts_that_are_too_small(capsys):
    flags = argparse.Namespace(rows=0, steps=None, cards=0)
    reporting.check_counts(argparse.ArgumentParser(), flags, "steps")
    reporting.check_counts(argparse.ArgumentParser(), flags, "cards", least=0)
    with pytest.raises(SystemExit):
        reporting.check_counts(argparse.ArgumentParser(), flags, "steps", "rows")
    assert "--rows is 0, expected at least 1." in capsys.readouterr().err


def test_numbers_that_are_not_positive(capsys):
    flags = argparse.Namespace(rate=1e-4, other=None)
    reporting.check_positive(argparse.ArgumentParser(), flags, "rate", "other")
    for wrong in ("-1", "0", "nan", "inf"):
        with pytest.raises(SystemExit) as ended:
            probe.main(["--model", "m", "--out", "o", "--rate", wrong])
        assert ended.value.code == reporting.MISTAKE
        assert f"--rate is {float(wrong)}, expected a finite number above 0." in capsys.readouterr().err
