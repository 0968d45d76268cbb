"""What libtpu's log says of a compiled program's memory and `memory_analysis()` does not.

The temporaries of a program are one region: its arrays, padded, and the gaps that their assignment leaves. In libtpu 0.0.42
`temp_size_in_bytes` counts the gaps twice, 0.4 to 0.6 GiB too much for the programs of docs/scaling.md. The log states
them under "Program hbm requirement", in the figures by which a program is refused.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_SETTINGS = {"TPU_STDERR_LOG_LEVEL": "0", "TPU_MIN_LOG_LEVEL": "0"}
_HBM = re.compile(r"^Program hbm requirement.*\n((?: +.*\n)*)", re.MULTILINE)
_GAPS = re.compile(r"HLO temp .*% fragmentation \(([\d.]+)([KMGT]?)B?\)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Log:
    """What was written to standard error in a `captured()` that has ended."""

    text = ""


def ask() -> None:
    """Has libtpu write its log to standard error, unless the environment says otherwise; call it before libtpu is loaded."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def captured() -> Iterator[Log]:
    """Keeps what this process writes to standard error, libtpu included, instead of showing it."""
    log = Log()
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield log
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)
            file.seek(0)
            log.text = file.read().decode(errors="replace")


def gaps(text: str) -> int | None:
    """Bytes between the temporaries in HBM of a log's last program; None where the log does not say."""
    blocks = _HBM.findall(text)
    found = _GAPS.search(blocks[-1]) if blocks else None
    return round(float(found[1]) * _UNITS[found[2]]) if found else None
