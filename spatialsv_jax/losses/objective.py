"""The objective: w_text text + w_distill distill + w_depth depth + w_ray ray + w_points points, and extensions.

`TERMS` is the list of terms; a new one is one function and one line here, and a weight in
`ObjectiveConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spatialsv_jax.losses import dense, distillation, extensions, language
from spatialsv_jax.losses.base import Part, part_value, quantile_filter
from spatialsv_jax.losses.targets import make_targets

# A constant, or (step, value) pairs joined by straight lines and constant outside.
Weight = float | tuple


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms and the constants they share.

    A weight is a number >= 0 or a tuple of (step, value) pairs with increasing steps, joined by
    straight lines. A term whose weight is 0 at every step is not part of the program.
    """

    text: float | tuple = 1.0
    distill: float | tuple = 1.0
    depth: float | tuple = 1.0
    ray: float | tuple = 1.0
    points: float | tuple = 1.0
    # Extensions (docs/method.md, 3.8).
    consistency: float | tuple = 0.0  # point head against rays and depth
    lifted_points: float | tuple = 0.0  # rays and depth against the true points
    scale_invariant: float | tuple = 0.0  # log depth up to a factor
    pose: float | tuple = 0.0  # the camera vector of head "pose"
    scale: float | tuple = 0.0  # the metres per scene unit of head "scale"
    ema: float | tuple = 0.0  # maps of the averaged model, where a sample has no geometry
    scale_invariant_balance: float = 1.0  # share of a factor's error that is forgiven
    confidence_lambda: float = 0.2  # weight of -log c in all confidence terms
    quantile: float = 0.0  # keep values below this quantile in reg and conf (0.98); 0 = no filter
    remat: bool = False  # every term's maps are computed again in the backward pass, so that one term's live at a time

    def __post_init__(self):
        for name in TERMS:
            object.__setattr__(self, name, _checked_weight(name, getattr(self, name)))
        if not (0 <= self.quantile < 1):
            raise ValueError(f"config.losses.quantile must be in [0, 1) (0 = off), not {self.quantile}.")
        if not 0 <= self.scale_invariant_balance <= 1:
            raise ValueError(
                f"config.losses.scale_invariant_balance must be in [0, 1], not {self.scale_invariant_balance}."
            )
        if not (np.isfinite(self.confidence_lambda) and self.confidence_lambda >= 0):
            raise ValueError(f"config.losses.confidence_lambda must be finite and >= 0, not {self.confidence_lambda}.")


def _checked_weight(name: str, weight: Weight) -> Weight:
    pairs = ((0, weight),) if isinstance(weight, (int, float)) else tuple(weight)
    try:
        pairs = tuple((float(step), float(value)) for step, value in pairs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config.losses.{name} must be a number or [step, value] pairs, not {weight!r}.") from error
    steps, values = [step for step, _ in pairs], [value for _, value in pairs]
    if not pairs or not np.isfinite(pairs).all() or min(values) < 0:
        raise ValueError(f"config.losses.{name} must have finite weights >= 0, not {weight!r}.")
    if any(later <= earlier for earlier, later in zip(steps, steps[1:], strict=False)):
        raise ValueError(f"config.losses.{name}: steps must increase, not {steps}.")
    return values[0] if isinstance(weight, (int, float)) else pairs


def text(predictions: Mapping, batch: Mapping, config: ObjectiveConfig) -> dict[str, Part]:
    """text/ce from answer_logits."""
    del config
    tokens, mask = language.answer_tokens(batch)
    return _named("text", language.text_terms(predictions["answer_logits"], tokens, mask))


def distill(predictions: Mapping, batch: Mapping, config: ObjectiveConfig) -> dict[str, Part]:
    """distill/cos from features, over all tokens of real views of samples with features."""
    del config
    counted = jnp.asarray(batch["view_valid"]) & jnp.asarray(batch["has_features"])[:, None]
    teacher = jnp.asarray(batch["teacher_features"])
    mask = jnp.broadcast_to(counted[..., None], teacher.shape[:-1])
    return _named("distill", distillation.distill_terms(predictions["features"], teacher, mask))


def depth(predictions: Mapping, batch: Mapping, config: ObjectiveConfig) -> dict[str, Part]:
    """depth/reg, depth/conf, depth/grad_s0..3."""
    weight = batch.get("label_weight")
    return _dense("depth", dense.depth_terms, predictions, batch["depth"], batch["depth_mask"], config, weight)


def ray(predictions: Mapping, batch: Mapping, config: ObjectiveConfig) -> dict[str, Part]:
    """ray/reg, ray/conf."""
    return _dense("ray", dense.ray_terms, predictions, batch["ray"], batch["ray_valid"], config)


def points(predictions: Mapping, batch: Mapping, config: ObjectiveConfig) -> dict[str, Part]:
    """points/reg, points/conf, points/normal_s0..2."""
    weight = batch.get("label_weight")
    return _dense("points", dense.point_terms, predictions, batch["points"], batch["points_mask"], config, weight)


def consistency(predictions: Mapping, batch: Mapping, config: ObjectiveConfig) -> dict[str, Part]:
    """consistency/reg from points, depth and ray."""
    del config
    maps = (predictions[name] for name in ("points", "depth", "ray"))
    return _named("consistency", extensions.consistency_terms(*maps, batch["points_mask"]))


def lifted_points(predictions: Mapping, batch: Mapping, config: ObjectiveConfig) -> dict[str, Part]:
    """lifted_points/l1 from depth and ray."""
    del config
    maps = (predictions["depth"], predictions["ray"], batch["points"])
    return _named("lifted_points", extensions.lifted_points_terms(*maps, batch["points_mask"]))


def scale_invariant(predictions: Mapping, batch: Mapping, config: ObjectiveConfig) -> dict[str, Part]:
    """scale_invariant/log from depth."""
    maps = (predictions["depth"], batch["depth"], batch["depth_mask"])
    return _named("scale_invariant", extensions.scale_invariant_terms(*maps, config.scale_invariant_balance))


def pose(predictions: Mapping, batch: Mapping, config: ObjectiveConfig) -> dict[str, Part]:
    """pose/translation, pose/rotation, pose/fov from pose, over posed views of samples with geometry."""
    del config
    mask = jnp.asarray(batch["view_valid"]) & batch["pose_valid"] & jnp.asarray(batch["has_geometry"])[:, None]
    cameras = (jnp.asarray(batch[name]) for name in ("intrinsics", "camera_to_world"))
    return _named("pose", extensions.pose_terms(predictions["pose"], *cameras, mask, batch["depth"].shape[-2:]))


def scale(predictions: Mapping, batch: Mapping, config: ObjectiveConfig) -> dict[str, Part]:
    """scale/log from scene_scale, over samples whose metres are known."""
    del config
    known = jnp.asarray(batch["has_geometry"]) & (jnp.asarray(batch["scene_scale_m"]) > 0)
    return _named("scale", extensions.scale_terms(predictions["scene_scale"], batch["scene_scale_m"], known))


def ema(predictions: Mapping, batch: Mapping, config: ObjectiveConfig) -> dict[str, Part]:
    """ema/depth, ema/ray, ema/points, over what the views of samples without geometry show."""
    del config
    unlabelled = jnp.asarray(batch["view_valid"]) & ~jnp.asarray(batch["has_geometry"])[:, None]
    mask = jnp.asarray(batch["covered"]) & unlabelled[..., None, None]
    averaged = {name.removeprefix("ema_"): value for name, value in batch.items() if name.startswith("ema_")}
    return _named("ema", extensions.ema_terms(predictions, averaged, mask))


def _dense(name: str, function: Callable, predictions, target, mask, config: ObjectiveConfig, *weight):
    confidence = predictions[f"{name}_confidence"]
    parts = function(predictions[name], target, mask, confidence, config.confidence_lambda, *weight)
    if config.quantile:
        parts.update({key: quantile_filter(parts[key], config.quantile) for key in ("reg", "conf")})
    return _named(name, parts)


def _named(name: str, parts: Mapping[str, Part]) -> dict[str, Part]:
    return {f"{name}/{key}": part for key, part in parts.items()}


class Term(NamedTuple):
    """A loss term: its parts, and what of the predictions it reads."""

    parts: Callable[[Mapping, Mapping, ObjectiveConfig], dict[str, Part]]  # -> {"name/part": Part}
    reads: tuple[str, ...]
    has_targets: bool = False  # compared with maps that `make_targets` makes


TERMS: dict[str, Term] = {
    "text": Term(text, ("answer_logits",)),
    "distill": Term(distill, ("features",)),
    "depth": Term(depth, ("depth", "depth_confidence"), has_targets=True),
    "ray": Term(ray, ("ray", "ray_confidence"), has_targets=True),
    "points": Term(points, ("points", "points_confidence"), has_targets=True),
    "consistency": Term(consistency, ("points", "depth", "ray"), has_targets=True),
    "lifted_points": Term(lifted_points, ("depth", "ray"), has_targets=True),
    "scale_invariant": Term(scale_invariant, ("depth",), has_targets=True),
    "pose": Term(pose, ("pose",)),
    "scale": Term(scale, ("scene_scale",)),
    "ema": Term(ema, ("depth", "ray", "points")),
}
PAPER_TERMS = ("text", "distill", "depth", "ray", "points")  # the others are extensions of ours
# Maps that `ema` compares with; the training step adds them to the batch as "ema_NAME".
AVERAGED = tuple(f"{name}{suffix}" for name in ("depth", "ray", "points") for suffix in ("", "_confidence"))


def active_terms(config: ObjectiveConfig) -> tuple[str, ...]:
    """Names of the terms whose weight is not 0 at every step, in the order of `TERMS`."""
    return tuple(name for name in TERMS if np.any(_weight_values(getattr(config, name))))


def needed_heads(name: str) -> tuple[str, ...]:
    """Heads whose predictions a term reads."""
    heads = {"scene_scale": "scale", "answer_logits": None, "features": None}
    read = (heads.get(key, key.removesuffix("_confidence")) for key in TERMS[name].reads)
    return tuple(dict.fromkeys(head for head in read if head))


def weight_at(config: ObjectiveConfig, name: str, step) -> jax.Array | float:
    """Weight of a term at `step` (an integer or a traced scalar); a plain float if constant."""
    weight = getattr(config, name)
    if isinstance(weight, float):
        return weight
    steps, values = zip(*weight, strict=True)
    return jnp.interp(jnp.asarray(step, jnp.float32), jnp.asarray(steps), jnp.asarray(values))


def _weight_values(weight: Weight) -> tuple[float, ...]:
    return (weight,) if isinstance(weight, float) else tuple(value for _, value in weight)


def term_parts(
    config: ObjectiveConfig, predictions: Mapping, batch: Mapping, names: Sequence[str] | None = None
) -> dict[str, dict[str, Part]]:
    """Parts of every term in `names` (all active ones by default): term -> {"term/part": Part}.

    Targets are made here where `batch` lacks them.

    Raises:
      ValueError: an unknown term, or a prediction that a term needs and the model does not give.
    """
    names = active_terms(config) if names is None else tuple(names)
    unknown = sorted(set(names) - set(TERMS))
    if unknown:
        raise ValueError(f"Unknown loss terms {unknown}. Known terms: {sorted(TERMS)}.")
    for name in names:
        missing = [key for key in TERMS[name].reads if key not in predictions]
        if missing:
            raise ValueError(
                f"Loss term '{name}' needs the predictions {missing}, but the model gives {sorted(predictions)}. "
                f"Add the head, or set config.losses.{name} = 0."
            )
    if "distill" in names and "teacher_features" not in batch:
        raise ValueError("Loss term 'distill' needs 'teacher_features' in the batch: use label files with features.")
    if "ema" in names and "ema_depth" not in batch:
        raise ValueError("Loss term 'ema' needs the averaged model: set config.ema.decay.")
    if any(TERMS[name].has_targets for name in names) and "depth_mask" not in batch:
        with jax.named_scope("losses/targets"):
            batch = {**batch, **make_targets(batch)}
    found = {}
    for name in names:
        with jax.named_scope(f"losses/{name}"):  # plans and profiles list costs by these names
            found[name] = TERMS[name].parts(predictions, batch, config)
    return found


def evaluate(
    config: ObjectiveConfig,
    predictions: Mapping,
    batch: Mapping,
    step,
    names: Sequence[str] | None = None,
    counts: Mapping[str, jax.Array] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted total and a flat report.

    Args:
      config: weights and constants.
      predictions: fields of `spec.PREDICTIONS` that the terms read.
      batch: fields of `spec.BATCH`; targets are added if missing.
      step: global step, for weight schedules.
      names: terms to evaluate, all active ones by default.
      counts: "term/part" -> N of the whole batch where `batch` is one micro-batch of it (see
        `batch_counts`); values and total then add up over micro-batches, and so do the reported
        counts, which stay those of this micro-batch.

    Returns:
      (total, report): report has "depth/reg" (S / N), "depth/reg/count" (N), "depth" (the term's
      value without its weight), "depth/weight" and "total", all float32 scalars.

    Raises:
      ValueError: see `term_parts`; `counts` together with the quantile filter.
    """
    if counts is not None and config.quantile:
        raise ValueError("The quantile filter needs the whole batch at once: use no micro-batches or quantile 0.")
    names = active_terms(config) if names is None else tuple(names)
    total, report = None, {}
    for name, values in _term_values(config, predictions, batch, names, counts):
        report.update(values)
        weight, value = weight_at(config, name, step), values[name]
        report[f"{name}/weight"] = jnp.asarray(weight, jnp.float32)
        total = weight * value if total is None else total + weight * value
    report["total"] = jnp.zeros((), jnp.float32) if total is None else total
    return report["total"], report


def _term_values(config: ObjectiveConfig, predictions, batch, names, counts):
    """Yields each term's name and report: "term/part", its "/count", and the term without its weight."""

    def values_of(parts: Mapping[str, Part]) -> dict[str, jax.Array]:
        values, value = {}, None
        name = next(iter(parts)).split("/")[0]
        for key, part in parts.items():
            with jax.named_scope(f"losses/{name}"):
                values[key] = part_value(part, None if counts is None else counts[key])
                values[f"{key}/count"] = part.count()
            share = values[key] if part.coefficient == 1 else part.coefficient * values[key]
            value = share if value is None else value + share
        return {**values, name: value}

    if not config.remat:
        for name, parts in term_parts(config, predictions, batch, names).items():
            yield name, values_of(parts)
        return
    for name in names:
        # The targets are a part of it: made from depth and cameras, they too need not be kept.
        one = jax.checkpoint(lambda read, batch, name=name: values_of(term_parts(config, read, batch, (name,))[name]))
        read = {key: predictions[key] for key in TERMS[name].reads if key in predictions} if name in TERMS else {}
        yield name, one(read, dict(batch))


def batch_counts(config: ObjectiveConfig, batch: Mapping, names: Sequence[str] | None = None) -> dict[str, jax.Array]:
    """N of every part of a batch without any prediction: "term/part" -> float32[].

    Masks depend on the batch only, so counts are known before the first micro-batch. Call it inside
    jit: the values, computed from stand-ins, are dropped there.
    """
    names = active_terms(config) if names is None else tuple(names)
    maps = batch["depth"].shape
    shapes = {
        "answer_logits": (*batch["answer_valid"].shape, 1),
        "depth": maps,
        "ray": (*maps, 6),
        "points": (*maps, 3),
        "pose": (*maps[:2], extensions.POSE_WIDTH),
        "scene_scale": maps[:1],
        **{f"{name}_confidence": maps for name in ("depth", "ray", "points")},
    }
    if "teacher_features" in batch:
        shapes["features"] = batch["teacher_features"].shape
    stand_ins = {key: jnp.zeros(shape) for key, shape in shapes.items()}
    if "ema" in names:
        batch = {**batch, **{f"ema_{key}": stand_ins[key] for key in AVERAGED}}
    terms = term_parts(dataclasses.replace(config, quantile=0.0), stand_ins, batch, names)
    return {key: part.count() for parts in terms.values() for key, part in parts.items()}
