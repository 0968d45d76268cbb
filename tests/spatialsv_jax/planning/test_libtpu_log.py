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


def test_only_what_is_written_meanwhile_counts(tmp_path, monkeypatch):
    """Of this process's file; another's log and earlier programs say nothing of this one."""
    monkeypatch.setenv("TPU_LOG_DIR", str(tmp_path))
    own = tmp_path / f"tpu_driver.host.root.log.INFO.20261126-191700.{os.getpid()}"
    (tmp_path / f"tpu_driver.host.root.log.INFO.20261126-191700.{os.getpid() + 1}").write_text(LOG)
    with libtpu_log.written() as log:
        pass
    assert log.text == ""
    with libtpu_log.written() as log:
        own.write_text(LOG)
    assert libtpu_log.gaps(log.text) == round(459.80 * 2**20)
    with pytest.raises(KeyError), libtpu_log.written() as log:
        own.write_text(LOG + "refused\n")
        raise KeyError
    assert log.text == "refused\n"


def test_the_environment_s_own_settings_stay(tmp_path, monkeypatch):
    for name in ("TPU_LOG_DIR", "TPU_MIN_LOG_LEVEL", "TPU_STDERR_LOG_LEVEL", "LIBTPU_INIT_ARGS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    libtpu_log.ask()
    assert os.environ["LIBTPU_INIT_ARGS"] == "--logbuflevel=-1" and os.path.isdir(os.environ["TPU_LOG_DIR"])
    monkeypatch.setenv("TPU_LOG_DIR", str(tmp_path))
    monkeypatch.setenv("TPU_STDERR_LOG_LEVEL", "0")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_x=1")
    libtpu_log.ask()
    libtpu_log.ask()
    assert os.environ["LIBTPU_INIT_ARGS"] == "--xla_x=1 --logbuflevel=-1"
    assert (os.environ["TPU_LOG_DIR"], os.environ["TPU_STDERR_LOG_LEVEL"]) == (str(tmp_path), "0")
