"""What probes measure of each record, and the records that all of them measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.evaluation_groups import Groups, choose
from spatialsv_jax import metrics
from spatialsv_jax.evaluation import runner
from spatialsv_jax.evaluation.statistics import mean_with_interval

MEASURES = ("rmse", "abs_rel")
SAME = 1e-3  # relative difference up to which number of pixels and mean depth of a record count as those of the same pixels


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one probe found.

    Attributes:
      taps, step: of the probe.
      records: record id -> {"scene", "rmse", "abs_rel": of the probe's depth, "constant": RMSE of the best constant map,
        "pixels": number of valid pixels, "depth": their mean true depth}, of the records that have any; scene units.
      accuracy: of the frozen model as `mean_with_interval`; None where it was not asked.
    """

    taps: list[int]
    step: int
    records: dict[str, dict]
    accuracy: dict | None


@dataclasses.dataclass(frozen=True)
class Common:
    """The records of several probes.

    Attributes:
      ids: of those that all measured, in the order of the first probe.
      left_out: of those that some measured and others not, sorted.
      other_pixels: of `ids`, those whose valid pixels or true depth the probes do not agree on: their models were shown
        different parts of the pictures.
    """

    ids: list[str]
    left_out: list[str]
    other_pixels: list[str]


def measure(
    phase: Path, training, records, *, ask: bool, max_scenes: int | None, batch_size: int, seed: int
) -> Measured:
    """Depth errors of a probe's records, the constant map's, and the accuracy of the model where it is asked.

    Args:
      phase: the probe's folder.
      training, records: splits of the data, the former for the constant map.
      ask: whether to ask the frozen model its questions too.
      max_scenes, batch_size, seed: as `experiments.evaluate`.

    Raises:
      ValueError: no record of the training split has depth.
      FloatingPointError: the probe's depth holds NaN or inf.
    """
    from spatialsv_jax import loading

    loaded = loading.load(phase)
    chosen = choose(len(records), max_scenes, seed)
    groups = Groups(loaded, records, chosen, training=training, batch_size=batch_size, seed=seed)
    constants = {constant.depth.shape[-2:]: constant.depth for constant in groups.constants}
    if not constants:
        raise ValueError("No record of the training split has depth; a probe has nothing to learn from.")
    found: dict[str, dict] = {}
    score, asked = [], []
    for outcome in groups.outcomes(range(len(chosen)), blind=False, ask=ask):
        for line, extra in runner.question_rows(outcome, None):
            if extra["form"] != "number":
                score.append(float(line["correct"]))
                asked.append(line["scene"])
        truth, mask = outcome.labels["depth"], outcome.depth_mask
        if not mask.any():
            continue
        error = metrics.depth_metrics(outcome.maps["depth"], truth, mask)
        constant = constants[truth.shape[-2:]]
        found[outcome.record.id] = {
            "scene": outcome.record.scene,
            **{name: error[name] for name in MEASURES},
            "constant": metrics.depth_metrics(constant[: len(truth)], truth, mask)["rmse"],
            "pixels": int(mask.sum()),
            "depth": float(truth[mask].mean(dtype=np.float64)),
        }
    accuracy = mean_with_interval(score, asked, share=True) if ask else None
    return Measured(list(loaded.model.taps), int(loaded.step), found, accuracy)


def join(probes: Mapping[str, Mapping[str, Mapping]]) -> Common:
    """The records that all probes measured, by id.

    Args:
      probes: name of a probe -> its `Measured.records`.

    Raises:
      ValueError: there is none.
    """
    every = list(probes.values())
    ids = [name for name in every[0] if all(name in records for records in every)]
    if not ids:
        counts = ", ".join(f"{name} {len(records)}" for name, records in probes.items())
        raise ValueError(
            f"No record has depth in all probes (records with depth: {counts}), so that they cannot be compared. Probe data "
            "whose valid depth lies in what all models are shown, or probe the models one by one."
        )
    pixels = {name: [[records[name][key] for key in ("pixels", "depth")] for records in every] for name in ids}
    return Common(
        ids=ids,
        left_out=sorted({name for records in every for name in records} - set(ids)),
        other_pixels=[name for name, seen in pixels.items() if not np.allclose(seen, seen[0], rtol=SAME, atol=0)],
    )


def errors(found: Measured, ids: Sequence[str], name: str) -> np.ndarray:
    """One of the numbers of `Measured.records`, float64[N] of the records `ids`."""
    return np.array([found.records[record][name] for record in ids], np.float64)


def summarise(found: Measured, ids: Sequence[str]) -> dict:
    """A row of the table over the records `ids`.

    Returns:
      {"taps", "step", "rmse", "abs_rel", "constant_rmse": as `mean_with_interval`, "rmse_over_constant"}.
    """
    scenes = [found.records[record]["scene"] for record in ids]
    mean = {name: mean_with_interval(errors(found, ids, name), scenes, error=True) for name in (*MEASURES, "constant")}
    own, base = mean["rmse"]["value"], mean["constant"]["value"]
    return {
        "taps": found.taps,
        "step": found.step,
        **{name: mean[name] for name in MEASURES},
        "constant_rmse": mean["constant"],
        "rmse_over_constant": own / base if own is not None and base else None,
    }
