"""Going on where a phase was stopped: what must be as it was, and what marks a phase as finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from data_pipelines.paths import as_path
from experiments import hosts
from experiments.configs import common
from spatialsv_jax.processing import load_processor
from spatialsv_jax.training.checkpoints import Checkpoints
from spatialsv_jax.training.optimizer import schedule
from spatialsv_jax.training.state import TrainState

LATER = ("online",)  # sections that earlier versions did not have
# What may differ when a run goes on: where and how it is computed, not what. Whole sections, and keys of the others.
MAY_CHANGE = ("name", "mesh", "checkpoint", "evaluation")
KEYS_MAY_CHANGE = {
    "data": ("threads", "buffer", "cache_mb", "verify", "vision_cache"),
    "training": (
        "steps",  # said, see `_compare_steps`
        "log_every", "gradient_norm_every", "cards_every", "tensorboard", "profile", "wandb", "log_records",
        "microbatches", "skip_budget", "skip_spike",
    ),
}  # fmt: skip
# Keys of a source that name folders, which may lie elsewhere if they hold the same; the words stand for none.
FOLDERS, NO_FOLDER = ("path", "labels", "features"), ("measured", "auto", "none", "online")


def check_unchanged(config: ConfigDict, workdir: Path, processor, data: Mapping[str, Mapping[str, str]]) -> None:
    """Refuses to go on in `workdir` with other settings, data or words than its checkpoints were made with.

    Another number of steps is said, with what it does to the learning rate.

    Args:
      config: the phase.
      workdir: its place.
      processor: of this program and its data.
      data: from `data_used`.

    Raises:
      ValueError: naming the settings that differ, the data or the tokenizer.
    """
    saved = (workdir / "checkpoints").glob("[0-9]*")
    if not (workdir / "config.json").exists() or not any(saved):
        return
    new = json.loads(config.to_json_best_effort())
    kept = _with_later_keys(json.loads((workdir / "config.json").read_text()), new)
    changed = list(_differences(_settings({key: kept.get(key) for key in new}), _settings(new)))
    if changed:
        sections = list(dict.fromkeys(place.split(".")[0] for place, _ in changed))
        raise ValueError(
            f"{workdir} holds a run with other settings of {sections}: {'; '.join(text for _, text in changed)}. Use the "
            f"old settings, or a new --workdir (--config.init_from={workdir} starts from its parameters)."
        )
    checkpoints = Checkpoints(workdir / "checkpoints", create=False)
    step = checkpoints.latest_step()
    if step is not None:
        _compare_steps(kept, new, workdir, step)
        _compare_data(checkpoints.read_meta(step)["data"], data, kept["data"]["sources"], checkpoints.directory)
    if load_processor(workdir / "processor").tokenizer.to_str() != processor.tokenizer.to_str():
        raise ValueError(
            f"{workdir}/processor holds another tokenizer than this program and its data make, so the checkpoints' "
            "tokens would stand for other words. Use a new --workdir, or the version and data it was started with."
        )


def _with_later_keys(kept: dict, new: dict) -> dict:
    """A stored config with the keys that came after it at their defaults, which is what it ran with."""
    defaults = json.loads(common.get_config().to_json_best_effort())
    filled = {section: defaults[section] for section in LATER if section in new and section in defaults} | kept
    for section, values in kept.items():
        if isinstance(values, dict) and isinstance(defaults.get(section), dict):
            later = [key for key in new.get(section, {}) if key not in values and key in defaults[section]]
            filled[section] = {**values, **{key: defaults[section][key] for key in later}}
    if new.get("model") == kept.get("model") == "mllm":
        filled["teacher"] = new["teacher"]  # read by nothing; before 2026-11-27 it described another network
    return filled


def _settings(config: dict) -> dict:
    """The part of a config that must stay as it was."""
    left = {section: values for section, values in config.items() if section not in MAY_CHANGE}
    for section, keys in KEYS_MAY_CHANGE.items():
        left[section] = {key: value for key, value in left[section].items() if key not in keys}
    if "online" in left:  # the weights are compared by their hash
        places = {key: "a folder" for key in ("checkpoint", "metric_checkpoint") if left["online"][key]}
        left["online"] = {**left["online"], **places}
    sources = left["data"]["sources"].items()
    left["data"]["sources"] = {name: {**one, **dict.fromkeys(_folders(one), "a folder")} for name, one in sources}
    return left


def _folders(source: Mapping) -> dict[str, str]:
    """Key -> folder of a source in a config; one that an earlier version wrote may lack keys."""
    return {key: source[key] for key in FOLDERS if source.get(key, "none") not in NO_FOLDER}


def _differences(kept, new, place: str = "") -> Iterator[tuple[str, str]]:
    """(place, what it was and is) of everything that differs."""
    if isinstance(kept, dict) and isinstance(new, dict):
        for key in {**kept, **new}:
            yield from _differences(kept.get(key), new.get(key), f"{place}.{key}" if place else key)
    elif kept != new:
        yield place, f"{place} is {new!r}, was {kept!r}"


def _compare_steps(kept: dict, new: dict, workdir: Path, step: int) -> None:
    """Says what another number of steps does.

    Raises:
      ValueError: fewer than were made.
    """
    before, after = (config["training"]["steps"] for config in (kept, new))
    if before == after or finished_step(workdir) >= after:
        return
    if after < step:
        raise ValueError(
            f"config.training.steps is {after}, but {workdir} holds a checkpoint of step {step}. Set it to {step} or more, "
            "or use a new --workdir."
        )
    share = new["optimizer"]["warmup_share"]
    was, becomes = (float(schedule(1.0, steps, share)(step)) for steps in (before, after))
    hosts.say(
        f"WARNING: config.training.steps is {after}, was {before}. Warm-up and cosine are functions of it: at step {step} the "
        f"learning rate goes from {was:.1%} to {becomes:.1%} of its peak. config.training.steps={before} keeps it as it was."
    )


def _compare_data(old: dict, data: Mapping[str, Mapping[str, str]], sources: dict, directory: Path) -> None:
    """Compares the hashes of data and label files with those in a checkpoint.

    Raises:
      ValueError: they differ.
    """
    if all(isinstance(hashes, dict) for hashes in old.values()):
        by_source = old
    else:  # earlier versions kept them by folder
        folders = {name: _folders(source) for name, source in sources.items()}
        by_source = {
            name: {key: old.get(place) or place for key, place in one.items()} for name, one in folders.items()
        }
        if {place for one in folders.values() for place in one.values()} - set(old):
            # The data has moved since then, and config.json knows the new place already.
            if set(old.values()) == {value for hashes in data.values() for value in hashes.values()}:
                return
    if changed := [text for _, text in _differences(by_source, dict(data))]:
        raise ValueError(
            f"The data, or the teacher in the step, has changed since {directory} was written, by the hashes of manifests and weights: "
            f"{'; '.join(changed)}. Use a new --workdir, or bring the old ones back."
        )


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


def data_used(config: ConfigDict, manifests: Mapping[str, dict], teacher: str = "") -> dict[str, dict[str, str]]:
    """Source -> key of each folder that it reads -> hash of the data, or of the teacher that wrote the label files.

    A folder of label files without labels.json has no hash and stands for itself. Sources whose labels or features are those
    of the teacher in the step have its hash as "teacher".

    Args:
      config: a phase.
      manifests: those of its data, by path.
      teacher: hash of the weights of the teacher in the step.
    """

    def hash_of(key: str, folder: str) -> str:
        if key == "path":
            return manifests[folder]["data_sha256"]
        file = as_path(folder) / "labels.json"
        return json.loads(file.read_text())["checkpoint"] if file.exists() else folder

    sources = config.data.sources.items()
    found = {name: {key: hash_of(key, place) for key, place in _folders(one).items()} for name, one in sources}
    for name, one in sources:
        if "online" in (one.labels, one.features):
            found[name]["teacher"] = teacher
    return found


def go_on(checkpoints: Checkpoints, shapes) -> TrainState:
    """The newest checkpoint's state."""
    restored, _ = checkpoints.restore(shapes)
    hosts.say(f"Going on from step {int(restored.step)} of {checkpoints.directory}.")
    return restored
