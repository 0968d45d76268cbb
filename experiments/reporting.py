"""How a command tells of a mistake: one line instead of a traceback, and an exit code. Needs no jax."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable

MISTAKE = 2  # exit code


def exit_code(
    work: Callable[[], object],
    kinds: tuple[type[BaseException], ...] = (OSError, ValueError),
    label: Callable[[], str] = lambda: "",
) -> int:
    """Does `work`: 0, or `MISTAKE` and a line for an error that the user can mend.

    With SPATIALSV_TRACEBACK in the environment such an error is raised like any other.

    Args:
      work: the command.
      kinds: of those errors.
      label: what the line begins with.
    """
    try:
        work()
    except kinds as error:
        if os.environ.get("SPATIALSV_TRACEBACK"):
            raise
        print(f"{label()}error: {error}", file=sys.stderr)
        return MISTAKE
    return 0


def check_counts(parser: argparse.ArgumentParser, flags: argparse.Namespace, *names: str, least: int = 1) -> None:
    """Ends a command where one of these flags is given and too small."""
    for name in names:
        if getattr(flags, name) is not None and getattr(flags, name) < least:
            parser.error(f"--{name} is {getattr(flags, name)}, expected at least {least}.")


def check_positive(parser: argparse.ArgumentParser, flags: argparse.Namespace, *names: str) -> None:
    """Ends a command where one of these flags is given and not a finite number above 0."""
    for name in names:
        value = getattr(flags, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            parser.error(f"--{name} is {value}, expected a finite number above 0.")
