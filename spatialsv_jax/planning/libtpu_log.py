"""What libtpu's log says of a compiled program's memory and `memory_analysis()` does not.

The temporaries of a program are one region: its arrays, padded, and the gaps that their assignment leaves. In libtpu 0.0.42
`temp_size_in_bytes` counts the gaps twice, 0.4 to 0.6 GiB too much for the programs of docs/scaling.md. The log states
them under "Program hbm requirement", in the figures by which a program is refused.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_FOLDER, _ARGUMENTS, _UNBUFFERED = "TPU_LOG_DIR", "LIBTPU_INIT_ARGS", "--logbuflevel=-1"
_HBM = re.compile(r"^Program hbm requirement.*\n((?: +.*\n)*)", re.MULTILINE)
_GAPS = re.compile(r"HLO temp .*% fragmentation \(([\d.]+)([KMGT]?)B?\)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Log:
    """What libtpu logged during a `written()` that has ended."""

    text = ""


def ask() -> None:
    """Has libtpu write its log at once, to a folder of this process; call it before libtpu is loaded.

    What the environment says already stays. Without other settings its errors stand in that log alone, and what is fatal
    on standard error too: a refusal's report is thousands of lines.
    """
    if _FOLDER not in os.environ:
        os.environ[_FOLDER] = tempfile.mkdtemp(prefix="libtpu_log_")
        atexit.register(shutil.rmtree, os.environ[_FOLDER], ignore_errors=True)
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "0")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    given = os.environ.get(_ARGUMENTS, "")
    if "--logbuflevel" not in given:
        os.environ[_ARGUMENTS] = f"{given} {_UNBUFFERED}".strip()


@contextlib.contextmanager
def written() -> Iterator[Log]:
    """Gives what libtpu logs meanwhile; "" where it keeps no log for this process."""
    log, before = Log(), {path: path.stat().st_size for path in _files()}
    try:
        yield log
    finally:
        for path in _files():
            with path.open("rb") as file:
                file.seek(before.get(path, 0))
                log.text += file.read().decode(errors="replace")


def _files() -> list[Path]:
    folder = os.environ.get(_FOLDER)
    return sorted(Path(folder).glob(f"*.INFO.*.{os.getpid()}")) if folder else []


def gaps(text: str) -> int | None:
    """Bytes between the temporaries in HBM of a log's last program; None where the log does not say."""
    blocks = _HBM.findall(text)
    found = _GAPS.search(blocks[-1]) if blocks else None
    return round(float(found[1]) * _UNITS[found[2]]) if found else None
