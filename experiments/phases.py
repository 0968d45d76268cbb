"""What a config says: a run's phases, their checks, data settings and meshes."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from data_pipelines.config import DataConfig
from data_pipelines.paths import local_path
from experiments import online, vision_features
from spatialsv_jax import assembly
from spatialsv_jax.settings import from_mapping
from spatialsv_jax.training import sharding


def as_run(config: ConfigDict) -> ConfigDict:
    """A config of one phase as a run of that phase.

    Raises:
      ValueError: unknown keys at the top of a run.
    """
    legal = ("name", "reuse", "prepare", "phases", "order", "evaluation")
    if "phases" in config:
        unknown = [key for key in config if key not in legal]
        if unknown:
            raise ValueError(f"config has unknown keys {unknown}. Legal keys of a run: {', '.join(legal)}.")
        if sorted(config.order) != sorted(config.phases):
            raise ValueError(f"config.order {config.order} must name each of config.phases {list(config.phases)} once.")
        return config
    name = config.name or "phase"
    single = {"name": name, "reuse": "", "prepare": {}, "phases": {name: config}, "order": (name,)}
    return ConfigDict({**single, "evaluation": config.evaluation})


def check_phase(phase: ConfigDict, where: str) -> None:
    """Reads all settings of a phase and compares its batch with its mesh.

    Raises:
      ValueError: a wrong setting, named under `where`, or a mesh that does not fit devices or batch.
    """
    settings = assembly.read_settings(phase, where)
    local_path(phase.init_from, f"{where}.init_from")
    vision_features.check_settings(settings, data_settings(phase), where)
    online.check_settings(settings, data_settings(phase), where)
    rows = sum(source.per_batch for source in data_settings(phase).source_configs)
    try:
        sharding.check_rows(rows, phase_mesh(settings, rows), settings.training.microbatches)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def phase_mesh(settings: assembly.Settings, rows: int):
    """The mesh of a phase whose global batch has `rows` rows."""
    passes = settings.training.microbatches
    return sharding.make_mesh(settings.mesh, rows=rows // passes if rows % passes == 0 else rows)


def data_settings(config: ConfigDict) -> DataConfig:
    """config.data as the data pipeline's dataclass; the named sources become a tuple in name order."""
    values = config.data.to_dict()
    values["sources"] = tuple(values["sources"][name] for name in sorted(values["sources"]))
    return from_mapping(DataConfig, values, "config.data")


def resolve_places(phase: ConfigDict, places: dict[str, Path]) -> ConfigDict:
    """The phase with names of prepared data and earlier phases replaced by their folders."""
    phase = phase.copy_and_resolve_references()
    for entry in phase.data.sources.values():
        entry.path = str(places.get(entry.path, entry.path))
        entry.labels = str(places.get(entry.labels, entry.labels))
        entry.features = str(places.get(entry.features, entry.features))
    phase.init_from = str(places.get(phase.init_from, phase.init_from))
    return phase
