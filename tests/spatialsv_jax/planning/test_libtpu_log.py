"""The gaps between a program's temporaries are read from libtpu's log and counted once."""

import os
from types import SimpleNamespace

import pytest

from spatialsv_jax.planning import libtpu_log, memory

# As libtpu 0.0.42.1 writes it, of InternVL3-1B's step on v5e:4x4.
LOG = """\
I1126 19:17:00.988712    3471 deepsea_compiler_backend.cc:2171] Total hbm usage >= 2.28G:
    reserved        258.01M
    program           1.50G
    arguments       538.69M
I1126 19:17:00.988720    3471 deepsea_compiler_backend.cc:2175] Program sflag requirement 380B:
    HLO temp           112B (100.0% utilization: Unpadded (112B) Padded (112B), 9.0% fragmentation (24B))
Program hbm requirement 1.50G:
    global            1.28M
    HLO temp          1.43G (87.4% utilization: Unpadded (880.65M) Padded (1007.45M), 31.3% fragmentation (459.80M))
    overlays         63.77M
Program vmem requirement 127.60M:
    HLO temp        112.00M (0.0% utilization: Unpadded (0B) Padded (0B), 100.0% fragmentation (112.00M))
"""
# What `memory_analysis()` said of the same program.
STATS = SimpleNamespace(
    argument_size_in_bytes=564860416, output_size_in_bytes=553832960, alias_size_in_bytes=553821696,
    temp_size_in_bytes=2020656128, generated_code_size_in_bytes=68216320,
)  # fmt: skip


def test_peak_is_what_the_compiler_s_own_total_says():
    """2.28 GiB in all, less the reserved part, which is not in a chip's available memory either."""
    found = memory.compiled((0, 0, 0), STATS, libtpu_log.gaps(LOG))
    assert found.peak / 2**20 == pytest.approx(2.28 * 1024 - 258.01, abs=0.01 * 1024)
    assert found.temporaries / 2**20 == pytest.approx(1007.45 + 459.80, abs=0.05)
    assert memory.compiled((0, 0, 0), STATS).temporaries == STATS.temp_size_in_bytes


def test_a_log_that_does_not_say():
    assert libtpu_log.gaps("") is None
    assert libtpu_log.gaps(LOG.replace("fragmentation", "?")) is None
    without = "\n".join(line for line in LOG.splitlines() if "1.43G" not in line)
    assert libtpu_log.gaps(without) is None  # the vector memory's gaps are others
    assert libtpu_log.gaps(LOG + LOG.replace("459.80M", "1.50G")) == 3 * 2**29


def test_standard_error_is_kept_and_comes_back(capfd):
    with pytest.raises(KeyError), libtpu_log.captured() as log:
        os.write(2, b"from a library\n")
        raise KeyError
    assert log.text == "from a library\n"
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"


def test_the_environment_s_own_settings_stay(monkeypatch):
    monkeypatch.setenv("TPU_STDERR_LOG_LEVEL", "3")
    monkeypatch.setenv("TPU_MIN_LOG_LEVEL", "3")
    libtpu_log.ask()
    assert os.environ["TPU_STDERR_LOG_LEVEL"] == "3"
