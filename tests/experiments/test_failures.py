"""Short memory, numbers that are not finite, a missing plug-in, a full disk: a few words that say what to do."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import diagnose, evaluate, failures, probe
from spatialsv_jax.training import sharding
from spatialsv_jax.training.loop import NonFiniteError
from spatialsv_jax.training.state import TrainState

ROOT = Path(__file__).parents[2]


def test_an_out_of_memory_error_of_the_device_names_the_largest_parts():
    parts = {"language parameters": 12 * 2**30, "optimizer": 24 * 2**30, "batch": 5 * 2**20, "nothing": 0}
    with pytest.raises(failures.OutOfMemoryError) as caught, failures.named_memory(lambda: parts):
        jax.jit(lambda: jnp.ones((2**25, 2**20)) * 2)().block_until_ready()  # 128 TiB
    text = str(caught.value)
    assert "Out of memory" in text and "optimizer 24.0 GiB, language parameters 12.0 GiB, batch 5 MiB;" in text
    assert "nothing" not in text and len(text) < 1200
    for what in ("per_batch", "remat", "fsdp", "microbatches"):
        assert what in text


def test_other_errors_pass_unchanged():
    with pytest.raises(ValueError, match="^x$"), failures.named_memory(dict):
        raise ValueError("x")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), failures.named_memory(dict):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
    with pytest.raises(failures.OutOfMemoryError, match="none known"), failures.named_memory(dict):
        raise MemoryError


@pytest.mark.parametrize(
    ("command", "work"), [(probe, "probe_models"), (diagnose, "diagnose_models"), (evaluate, "evaluate_run")]
)
@pytest.mark.parametrize("kind", [FloatingPointError, NonFiniteError])
def test_numbers_that_are_not_finite_end_a_command_with_2_and_one_message(
    command, work, kind, monkeypatch, capsys, tmp_path
):
    def fail(*_, **__):
        raise kind("The model's depth holds NaN or inf.")

    monkeypatch.setattr(command, work, fail)
    assert command.main(["--model", "any", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: The model's depth holds NaN or inf.\n"


def test_memory_by_part_is_what_one_device_holds():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=4))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    kernel = jax.ShapeDtypeStruct((64, 8), jnp.float32, sharding=split)
    params = {"backbone": {"vision": {"a": kernel}, "language": {"b": kernel, "c": kernel}}}
    shapes = TrainState(None, params, {"m": kernel, "v": kernel}, None, None, {}, None, None)
    batches = [{"x": np.zeros((8, 10), np.float32)}, {"x": np.zeros((8, 100), np.float32)}]
    assert failures.memory_parts(shapes, batches, ("vision",)) == {
        "vision parameters (frozen)": 64 * 8,
        "language parameters and as much for gradients": 2 * 64 * 8,
        "optimizer": 2 * 64 * 8,
        "batch": 8 * 100 * 4 // 8,
    }


@pytest.mark.parametrize(("platform", "extra"), [("cuda", "cuda12"), ("tpu", "tpu")])
def test_an_accelerator_that_was_asked_for_names_its_extra(platform, extra):
    program = "from experiments import failures; failures.check_accelerator()"
    environment = {**os.environ, "JAX_PLATFORMS": platform, "TPU_SKIP_MDS_QUERY": "1"}
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert f"AcceleratorError: JAX_PLATFORMS={platform}, but jax cannot use it" in run.stderr, run.stderr[-2000:]
    assert f'pip install -e ".[{extra}]"' in run.stderr


@pytest.mark.parametrize(("device", "name", "extra"), [("nvidia0", "NVIDIA GPU", "cuda12"), ("accel0", "TPU", "tpu")])
def test_an_accelerator_that_lies_idle_is_told(tmp_path, monkeypatch, device, name, extra):
    (tmp_path / device).touch()
    assert failures.check_accelerator(tmp_path) == ""  # the suite asks for the CPU
    monkeypatch.delenv("JAX_PLATFORMS")
    text = failures.check_accelerator(tmp_path)
    assert f"has a {name}, but jax runs on the CPU" in text and f'pip install -e ".[{extra}]"' in text
    assert failures.check_accelerator(tmp_path / "none") == ""
