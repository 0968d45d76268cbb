"""A tiny model, objective and batch for tests of the training step."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments.configs import common
from experiments.train import model_functions
from spatialsv_jax import assembly
from spatialsv_jax.processing.tiny import TinyProcessor, build_tokenizer
from spatialsv_jax.spec import fake_batch
from spatialsv_jax.training import sharding, state, step

LABEL = 16


def tiny_config(**sections):
    """A phase with a very small model; `sections` are updates by section name."""
    config = common.get_config()
    config.vision.update(image_size=32, patch_size=8, width=32, layers=1, heads=2)
    config.language.update(width=32, layers=4, heads=2, kv_heads=1, head_dim=16, mlp_width=64, unroll=1)
    config.lifting.update(width=16, channels=(8, 8, 8, 8), features=8)
    config.data.label_size = (LABEL, LABEL)
    config.optimizer.update(name="adamw", vision=1e-3, projector=1e-3, language=1e-3, lifting=1e-3)
    for name, values in sections.items():
        config[name].update(values)
    return config


def tiny_batch(rows: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """A random batch for `tiny_config`: 2 views of 4 tokens, 3 questions of 6 tokens."""
    sizes = dict(B=rows, V=2, H=LABEL, W=LABEL, P=4, S=15, Q=3, T=6, A=2, K=1, N=16)
    return fake_batch(sizes, (32, 32, 3), seed=seed)


def make_step(config, mesh, batch, steps: int = 10):
    """(parts, shapes, created state) of a phase on a mesh."""
    settings = assembly.read_settings(config)
    processor = TinyProcessor(build_tokenizer(["chair", "table", "red", "blue"]), 32, 8, 2)
    model = assembly.build_model(settings, processor)
    init, apply, axes = model_functions(model, settings, batch, seed=0)
    parts = step.make_parts(settings_with(settings, steps), apply)
    shapes, _ = state.state_shapes(init, parts.tx, parts.frozen_groups, axes, mesh, settings.ema.decay > 0)
    return parts, shapes, state.create_state(init, parts.tx, parts.frozen_groups, shapes)


def settings_with(settings, steps: int):
    """The settings for a run of `steps`."""
    return dataclasses.replace(settings, training=dataclasses.replace(settings.training, steps=steps))


def one_device():
    """A mesh of the first device alone."""
    return sharding.make_mesh(sharding.MeshConfig(data=1), jax.devices()[:1])
