"""Going on where a phase was stopped: what must be as it was, and what marks a phase as finished."""

from __future__ import annotations

import json
from pathlib import Path

from ml_collections import ConfigDict

from data_pipelines.loader import DataConfig
from data_pipelines.paths import as_path
from experiments import hosts
from experiments.configs import common
from spatialsv_jax.processing import load_processor
from spatialsv_jax.training.checkpoints import Checkpoints
from spatialsv_jax.training.state import TrainState

# What may differ when a run goes on: where and how it is computed, not what.
MAY_CHANGE = ("name", "mesh", "training", "checkpoint", "evaluation")
READING = ("threads", "buffer", "cache_mb", "verify", "vision_cache")  # keys of config.data of that kind


def check_unchanged(config: ConfigDict, workdir: Path, processor) -> None:
    """Refuses to go on in `workdir` with other settings or words than its checkpoints were made with.

    Raises:
      ValueError: naming the sections that differ, or the tokenizer.
    """
    saved = (workdir / "checkpoints").glob("[0-9]*")
    if not (workdir / "config.json").exists() or not any(saved):
        return
    new = json.loads(config.to_json_best_effort())
    kept = _with_later_keys(json.loads((workdir / "config.json").read_text()), new)
    for values in (kept, new):
        values["data"] = {key: value for key, value in values["data"].items() if key not in READING}
    changed = [key for key in new if key not in MAY_CHANGE and kept.get(key) != new[key]]
    if changed:
        raise ValueError(
            f"{workdir} holds a run with other settings of {changed}. Use a new --workdir or the old settings."
        )
    if load_processor(workdir / "processor").tokenizer.to_str() != processor.tokenizer.to_str():
        raise ValueError(
            f"{workdir}/processor holds another tokenizer than this program and its data make, so the checkpoints' "
            "tokens would stand for other words. Use a new --workdir, or the version and data it was started with."
        )


def _with_later_keys(kept: dict, new: dict) -> dict:
    """A stored config with the keys that came after it at their defaults, which is what it ran with."""
    defaults = json.loads(common.get_config().to_json_best_effort())
    filled = dict(kept)
    for section, values in kept.items():
        if isinstance(values, dict) and isinstance(defaults.get(section), dict):
            later = [key for key in new.get(section, {}) if key not in values and key in defaults[section]]
            filled[section] = {**values, **{key: defaults[section][key] for key in later}}
    return filled


def is_finished(phase: ConfigDict, folder: Path) -> bool:
    """Whether `folder` holds this phase (with its places), trained to its end (label files: written to their end).

    Raises:
      ValueError: it is there with other settings, so that taking it over would not be what was asked.
    """
    if not (folder / "finished.json").exists():
        return False
    kept, new = json.loads((folder / "config.json").read_text()), json.loads(phase.to_json_best_effort())
    kept = _with_later_keys(kept, new)
    changed = [key for key in new if key != "evaluation" and kept.get(key) != new[key]]
    if changed:
        raise ValueError(f"config.reuse: {folder} was made with other settings of {changed}. Leave config.reuse empty.")
    return True


def finished_step(workdir: Path) -> int:
    """The step that a finished phase in `workdir` was trained to; -1 when there is none."""
    file = workdir / "finished.json"
    return json.loads(file.read_text())["steps"] if file.exists() else -1


def labels_used(config: DataConfig) -> dict[str, str]:
    """Folder of label files -> hash of the teacher that wrote them, for the folders that the sources read."""
    sources = config.source_configs
    folders = {source.labels for source in sources if source.labels != "measured"}
    folders |= {source.feature_folder for source in sources if source.feature_folder}
    manifests = {folder: as_path(folder) / "labels.json" for folder in sorted(folders)}
    return {
        folder: json.loads(file.read_text())["checkpoint"] if file.exists() else ""
        for folder, file in manifests.items()
    }


def go_on(checkpoints: Checkpoints, shapes, meta: dict) -> TrainState:
    """The newest checkpoint's state.

    Raises:
      ValueError: the data or label files (`meta["data"]`) are no longer those it was trained on.
    """
    restored, old = checkpoints.restore(shapes)
    if old["data"] != meta["data"]:
        raise ValueError(
            f"The data has changed since {checkpoints.directory} was written ({old['data']} then, {meta['data']} now). "
            "Use a new --workdir, or bring the old data back."
        )
    hosts.say(f"Going on from step {int(restored.step)} of {checkpoints.directory}.")
    return restored
