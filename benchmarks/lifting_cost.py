"""What the lifting costs beside text-only fine-tuning: FLOPs by part and by head.

python -m benchmarks.lifting_cost [--model qwen2_5_vl_3b] [--views 4] [--size 448] [--section.key=value ...]

Nothing runs. FLOPs are counted on the traced training step (spatialsv_jax.training.flops), rematerialisation included.
Other arguments change the recipe: --lifting.refine=full --language.remat=dots. Bytes: experiments.plan.
"""

from __future__ import annotations

import argparse
import importlib

import jax
import numpy as np

from experiments.train import model_functions
from spatialsv_jax import assembly
from spatialsv_jax.model import SpatialMLLM
from spatialsv_jax.spec import BATCH, OPTIONAL
from spatialsv_jax.training import flops, sharding, state, step

# Tokens of a prefix beside those of the views: the chat's frame and a start and an end for each view.
FRAME, AROUND = 16, 2


def settings_of(name: str, size: int, changes: dict[str, dict]):
    """The recipe's settings for maps and pictures of `size` pixels; a Qwen2.5-VL or LLaVA-OneVision preset.

    Args:
      name: of the preset.
      size: pixels of a side.
      changes: section -> key -> value.
    """
    config = importlib.import_module(f"experiments.configs.{name}").get_config()
    config.vision.image_size = (size, size)
    for section, values in changes.items():
        config[section].update(values)
    return assembly.read_settings(config)


def with_heads(changes: dict[str, dict], heads: tuple[str, ...]) -> dict[str, dict]:
    """`changes` with these heads and their losses alone."""
    weights = {name: float(name in heads) for name in ("depth", "ray", "points")}
    return {
        **changes,
        "lifting": {**changes.get("lifting", {}), "heads": heads},
        "losses": {**changes.get("losses", {}), **weights},
    }


def abstract_batch(settings, views: int, size: int, questions: int = 1, length: int = 192) -> dict:
    """A batch of one scene, of zeros that take no memory."""
    unit = settings.vision.patch_size * settings.vision.merge
    tokens = (size // unit) ** 2
    sizes = dict(
        B=1, V=views, X=views, H=size, W=size, P=tokens, S=views * (tokens + AROUND) + FRAME, Q=questions, T=length, A=32,
        K=settings.language.position_axes,
    )  # fmt: skip
    shape = lambda field: tuple(int(a) if a.isdigit() else sizes[a] for a in field.shape if a != "*")
    zeros = lambda shape, dtype: np.broadcast_to(np.zeros((), dtype), shape)
    batch = {name: zeros(shape(field), field.dtype) for name, field in BATCH.items() if name not in OPTIONAL}
    return {**batch, "pixel_values": zeros((1, views, size, size, 3), np.float32)}


def abstract_step(settings, batch: dict, mesh):
    """(parts, state shapes with shardings, ShardingReport) of the training step."""
    model = SpatialMLLM(settings.vision, settings.language, settings.lifting, settings.family)
    init, apply, axes = model_functions(model, settings, batch, seed=0)
    parts = step.make_parts(settings, apply)
    shapes, report = state.state_shapes(
        init, parts.tx, parts.frozen_groups, axes, mesh, averaged=settings.ema.decay > 0
    )
    return parts, shapes, report


def counted(settings, batch: dict) -> dict[str, int]:
    """FLOPs of a training step by part."""
    parts, shapes, _ = abstract_step(
        settings, batch, sharding.make_mesh(sharding.MeshConfig(data=1), jax.devices()[:1])
    )
    abstract = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in batch.items()}
    return dict(flops.count(lambda s, b: step.train_step(parts, s, b), shapes, abstract))


def changes_of(arguments: list[str]) -> dict[str, dict]:
    """["--lifting.refine=full"] as {"lifting": {"refine": "full"}}."""
    changes: dict[str, dict] = {}
    for argument in arguments:
        place, value = argument.removeprefix("--").split("=", 1)
        section, key = place.split(".")
        known = {"True": True, "False": False}
        changes.setdefault(section, {})[key] = int(value) if value.lstrip("-").isdigit() else known.get(value, value)
    return changes


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2_5_vl_3b")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=448)
    known, others = parser.parse_known_args()
    changes = changes_of(others)
    base = None
    heads = {"text only": (), "depth": ("depth",), "ray": ("ray",), "points": ("points",)}
    for name, chosen in {**heads, "all three": ("depth", "ray", "points")}.items():
        settings = settings_of(known.model, known.size, with_heads(changes, chosen))
        found = counted(settings, abstract_batch(settings, known.views, known.size))
        total = sum(found.values())
        base = base or total
        parts = ", ".join(f"{part} {value / 1e12:.3f}" for part, value in found.items())
        print(f"{name:<10} {total / 1e12:8.3f} TFLOP ({parts}) {total / base - 1:+.1%}", flush=True)


if __name__ == "__main__":
    main()
