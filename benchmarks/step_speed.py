"""Time of the quickstart's two training steps beside what their matrix products need at least.

    python -m benchmarks.step_speed [--phase base|spatial] [--steps 30] [--plain]

The floor is the step's FLOPs over what one large float32 product reaches in the same process. With
`--plain` the process runs without `experiments.cpu_settings`. Batches are random, so no loader
runs beside. Figures stand in docs/performance.md.
"""

from __future__ import annotations

import os
import sys

from experiments import cpu_settings

if __name__ == "__main__":
    if "--plain" in sys.argv:
        os.environ[cpu_settings.APPLIED] = "off"
    cpu_settings.apply()

import argparse
import time

import jax
import jax.numpy as jnp

from experiments.configs import quickstart
from experiments.starting import processor_for
from experiments.startup import compile_step
from experiments.train import model_functions
from spatialsv_jax import assembly
from spatialsv_jax.spec import fake_batch
from spatialsv_jax.training import optimizer, sharding, state, step


def product_speed(size: int = 1024, repeats: int = 10) -> float:
    """FLOP/s of a float32 product of two size x size matrices."""
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(product(x, x))
    began = time.perf_counter()
    for _ in range(repeats):
        result = product(x, x)
    jax.block_until_ready(result)
    return repeats * 2 * size**3 / (time.perf_counter() - began)


def measure(phase: str, steps: int) -> None:
    """Compiles and times one phase of the quickstart."""
    config = quickstart.get_config().phases[phase]
    config.init_from = ""
    settings = assembly.read_settings(config)
    processor = processor_for(config, settings, {})
    data = config.data
    rows = sum(source.per_batch for source in data.sources.values())
    prefix = processor.encode_prefix(data.views)
    height, width = data.label_size
    side = config.vision.image_size
    tokens = prefix.image_token_index.shape[-1]
    sizes = dict(B=rows, V=data.views, H=height, W=width, P=tokens, S=len(prefix.tokens), K=1)
    sizes |= dict(Q=data.questions, T=data.question_tokens, A=data.answer_tokens, N=processor.vocab_size)
    batch = fake_batch(sizes, (side, side, 3))

    model = assembly.build_model(settings, processor)
    init, apply, axes = model_functions(model, settings, batch, 0)
    mesh = sharding.make_mesh(settings.mesh)
    tx = optimizer.make_optimizer(settings.optimizer, 1000)
    rates = optimizer.schedules(settings.optimizer, 1000)
    parts = step.StepParts(apply, settings.losses, tx, settings.frozen_groups, rates)
    shapes, _ = state.state_shapes(init, tx, settings.frozen_groups, axes, mesh)
    compiled = compile_step(parts, shapes, batch, mesh)
    current = state.create_state(init, tx, settings.frozen_groups, shapes)
    rows_on_device = sharding.put_batch(batch, mesh)
    times = []
    for _ in range(steps + 3):
        began = time.perf_counter()
        current, metrics = compiled.step(current, rows_on_device)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - began)
    median = sorted(times[3:])[steps // 2]
    flops, speed = sum(compiled.flops.values()), product_speed()
    print(
        f"{phase}: {median * 1e3:.0f} ms a step, {flops / 1e9:.1f} GFLOP, {flops / median / 1e9:.0f} GFLOP/s; "
        f"floor {flops / speed * 1e3:.0f} ms at {speed / 1e9:.0f} GFLOP/s; compiled in {compiled.seconds:.0f} s"
    )


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phase", choices=("base", "spatial"), nargs="*", default=["base", "spatial"])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--plain", action="store_true", help="without the settings of experiments.cpu_settings")
    arguments = parser.parse_args()
    for phase in arguments.phase:
        measure(phase, arguments.steps)


if __name__ == "__main__":
    main()
