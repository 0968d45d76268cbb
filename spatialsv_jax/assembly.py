"""From a resolved config to checked settings and the model they describe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from spatialsv_jax.backbones import BACKBONES
from spatialsv_jax.lifting.heads import LiftingConfig
from spatialsv_jax.losses.objective import ObjectiveConfig, active_terms, needed_heads
from spatialsv_jax.model import SpatialMLLM
from spatialsv_jax.processing import Processor
from spatialsv_jax.settings import from_mapping
from spatialsv_jax.teacher import SpatialTeacher, TeacherConfig
from spatialsv_jax.teachers.online import OnlineConfig
from spatialsv_jax.training.checkpoints import CheckpointConfig
from spatialsv_jax.training.ema import EmaConfig
from spatialsv_jax.training.loop import LoopConfig
from spatialsv_jax.training.optimizer import OptimizerConfig
from spatialsv_jax.training.sharding import MeshConfig

MODELS = ("mllm", "teacher")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A phase's config as frozen dataclasses (data settings are read by the data pipeline)."""

    model: str
    family: str  # key of BACKBONES
    vision: Any  # the family's vision config
    language: Any  # the family's language config
    lifting: LiftingConfig
    teacher: TeacherConfig
    losses: ObjectiveConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    training: LoopConfig
    checkpoint: CheckpointConfig
    ema: EmaConfig = EmaConfig()
    online: OnlineConfig = OnlineConfig()

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """Parameter groups without gradient and optimizer state."""
        if self.model == "teacher":
            return ()
        if self.lifting.stop_gradient and "text" not in active_terms(self.losses):
            return ("vision", "projector", "language", "adapters")  # a probe: no gradient reaches the backbone
        return ("vision",) * (not self.vision.trainable) + ("language",) * (self.language.lora_rank > 0)

    @property
    def objective_name(self) -> str:
        """What the weights amount to: 'tasks' (the abstract), 'full' (equation 6), or the terms; 'none' as imported."""
        terms = set(active_terms(self.losses))
        named = {
            frozenset(): "none",
            frozenset({"text"}): "text_only",
            frozenset({"text", "depth", "ray", "points"}): "tasks",
            frozenset({"text", "distill", "depth", "ray", "points"}): "full",
        }
        return named.get(frozenset(terms), " + ".join(sorted(terms)))


_SECTIONS = {
    "lifting": LiftingConfig,
    "teacher": TeacherConfig,
    "losses": ObjectiveConfig,
    "optimizer": OptimizerConfig,
    "mesh": MeshConfig,
    "training": LoopConfig,
    "checkpoint": CheckpointConfig,
    "ema": EmaConfig,
    "online": OnlineConfig,
}
_LATER = ("online",)  # sections that configs of earlier versions lack
# Keys that the experiments read themselves.
_OTHER = ("name", "stage", "seed", "init_from", "data", "evaluation")


def read_settings(config: Mapping, where: str = "config") -> Settings:
    """Checks a phase's config and turns its sections into frozen dataclasses.

    Raises:
      ValueError: an unknown key or wrong type, naming its path and the legal keys; a head without
        a loss or a loss without a head.
    """
    legal = ("model", "family", "vision", "language", *_SECTIONS, *_OTHER)
    unknown = [key for key in config if key not in legal]
    if unknown:
        raise ValueError(f"{where} has unknown keys {unknown}. Legal keys: {', '.join(legal)}.")
    if config["model"] not in MODELS:
        raise ValueError(f"{where}.model is '{config['model']}'; choose one of {MODELS}.")
    family = config.get("family", "tiny")
    if family not in BACKBONES:
        raise ValueError(f"{where}.family is '{family}'; known families: {', '.join(BACKBONES)}.")
    classes = {"vision": BACKBONES[family].vision, "language": BACKBONES[family].language, **_SECTIONS}
    given = {name: {} for name in _LATER if name not in config} | {
        name: config[name] for name in classes if name in config
    }
    if config["model"] == "mllm":  # nothing reads the teacher's section; that of older runs describes another network
        given["teacher"] = {}
    elif "stem" in config["teacher"]:
        raise ValueError(
            f"{where} is of an earlier rooms teacher, a network that is no longer here: train "
            "experiments/configs/teacher_rooms.py again. Its label files can still be used."
        )
    sections = {name: from_mapping(cls, given[name], f"{where}.{name}") for name, cls in classes.items()}
    settings = Settings(model=config["model"], family=family, **sections)
    if ("ema" in active_terms(settings.losses)) != (settings.ema.decay > 0):
        raise ValueError(
            f"{where}.losses.ema is {settings.losses.ema} and {where}.ema.decay {settings.ema.decay}: set both, or neither."
        )
    if settings.losses.quantile and settings.training.microbatches > 1:
        raise ValueError(
            f"{where}.losses.quantile is {settings.losses.quantile} and {where}.training.microbatches "
            f"{settings.training.microbatches}: the quantile filter needs all values of a batch at once. Set quantile 0 or "
            "microbatches 1."
        )
    if settings.model == "mllm":
        terms = set(active_terms(settings.losses))
        needed = {name: set(needed_heads(name)) - set(settings.lifting.heads) for name in terms}
        if lacking := {name: sorted(heads) for name, heads in needed.items() if heads}:
            raise ValueError(
                f"{where}.losses weighs {sorted(lacking)}, but {where}.lifting.heads is {settings.lifting.heads}: "
                f"{', '.join(f'{name} reads {heads}' for name, heads in sorted(lacking.items()))}."
            )
        if "distill" in terms and not settings.lifting.distill_features:
            raise ValueError(f"{where}.losses.distill needs {where}.lifting.distill_features, the teacher's width.")
    return settings


def build_model(settings: Settings, processor: Processor):
    """The module that the settings describe; the vocabulary is the processor's."""
    if settings.model == "teacher":
        return SpatialTeacher(settings.teacher)
    language = settings.language
    if language.vocab_size not in (0, processor.vocab_size):
        raise ValueError(
            f"config.language.vocab_size is {language.vocab_size}, but the tokenizer has {processor.vocab_size} tokens. "
            "Leave it 0 to take the tokenizer's."
        )
    language = dataclasses.replace(language, vocab_size=processor.vocab_size)
    return SpatialMLLM(settings.vision, language, settings.lifting, settings.family)
