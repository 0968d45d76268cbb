"""Settings of the data pipeline: the sources of the mixture and the shapes of the bucket."""

from __future__ import annotations

import dataclasses

from spatialsv_jax.settings import from_mapping

GROUPS = ("grounding", "spatial")  # what is scored, and what sources hold unless they say otherwise
TRAINING_GROUPS = (*GROUPS, "scan")
UNLABELLED = ("keep", "drop", "only")
ONLINE = "online"  # labels or features of the teacher in the training step
MULTI_VIEW = ("off", "agrees", "contradicts")
_MULTI_VIEW_TEXT = {"agrees": "where another view agrees", "contradicts": "where no view contradicts"}


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One source of the mixture: a prepared data set and what of it is used."""

    path: str  # folder of a prepared data set
    split: str = "train"
    per_batch: int = 16  # rows of every global batch
    groups: tuple = GROUPS  # question groups
    types: tuple = ()  # question types; () = all
    views: int = 0  # views of one sample; 0 = all of the record, 1 = one picture per sample
    text: bool = True  # False: questions are never shown (has_text False)
    geometry: bool = True  # False: depth and cameras are never read (has_geometry False)
    text_share: float = 1.0  # share of scenes with text (splits.labelled_scenes)
    text_seed: int = 0  # which scenes these are
    unlabelled: str = "keep"  # scenes without text: "keep" them for the 3D losses, "drop" them, or "only" them
    labels: str = "measured"  # depth and cameras of the record, a folder of label files, or "online" (config.online)
    confidence_quantile: float = 0.0  # this share of a label file's pixels, its least confident ones, is masked
    confidence_weights: bool = False  # a pixel of a label file counts by its confidence
    multi_view: str = "off"  # keep pixels with which another view "agrees", or all that none "contradicts"
    features: str = "auto"  # teacher features: "auto" = those of `labels`, "none", a folder of label files, or "online"
    shuffle3d: bool = False  # control: depth, cameras and features of another scene
    augment: bool = False  # views mirrored, recoloured, reordered; needs text = False and measured labels

    def __post_init__(self):
        where = f"Source '{self.path}' ({self.split})"
        if self.per_batch < 1:
            raise ValueError(
                f"{where}: per_batch is {self.per_batch}, expected at least 1; leave the source out instead."
            )
        if self.views < 0:
            raise ValueError(f"{where}: views is {self.views}, expected 0 (all) or a positive number.")
        if not 0.0 <= self.text_share <= 1.0:
            raise ValueError(f"{where}: text_share is {self.text_share}, expected 0..1.")
        unknown = sorted(set(self.groups) - set(TRAINING_GROUPS))
        if unknown:
            raise ValueError(f"{where}: unknown question groups {unknown}; known groups: {list(TRAINING_GROUPS)}.")
        taught = self.labels != "measured" or self.feature_folder or self.online_features
        if self.augment and (self.text or taught or self.shuffle3d):
            raise ValueError(
                f"{where}: augment changes what words and label files say about the pictures; set text = False, "
                "labels = 'measured', features = 'none' and shuffle3d = False, and give the text by a source of its own."
            )
        for name, choices in (("unlabelled", UNLABELLED), ("multi_view", MULTI_VIEW)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{where}: {name} is '{getattr(self, name)}', expected one of {choices}.")
        if self.text_seed < 0:
            raise ValueError(f"{where}: text_seed is {self.text_seed}, expected 0 or more.")
        if not 0.0 <= self.confidence_quantile < 1.0:
            raise ValueError(f"{where}: confidence_quantile is {self.confidence_quantile}, expected 0..1 (0 = off).")
        if self.labels == "measured" and (self.confidence_quantile or self.confidence_weights):
            raise ValueError(
                f"{where}: measured labels state no confidence; set confidence_quantile = 0 and confidence_weights = "
                "False, or name a folder of label files in `labels`."
            )
        if self.uses_teacher and self.shuffle3d:
            raise ValueError(
                f"{where}: shuffle3d gives a sample the labels of another, which a teacher in the training step does not have; "
                "name a folder of label files in `labels` and `features`."
            )
        if self.labels == ONLINE and self.multi_view != "off":
            raise ValueError(
                f"{where}: multi_view = '{self.multi_view}' compares label maps when they are read; with labels = 'online' set it "
                "to 'off', or make label files."
            )
        if self.multi_view != "off" and (self.views == 1 or self.augment):
            raise ValueError(
                f"{where}: multi_view = '{self.multi_view}' compares the views of a sample; set views to 0 or 2 and more, "
                "and augment = False."
            )

    @property
    def shows(self) -> str:
        """What of its records is used, in a few words."""
        text = ", ".join(self.types or self.groups) if self.text else "no text"
        if self.text and self.text_share < 1:
            text += f" of {self.text_share:.0%} of the scenes (seed {self.text_seed})"
            text += {"keep": "", "drop": ", the others dropped", "only": ", these dropped"}[self.unlabelled]
        geometry = "no 3D"
        if self.geometry:
            names = {"measured": "measured 3D", ONLINE: "3D of the teacher in the step"}
            geometry = names.get(self.labels, f"3D of {self.labels}")
        parts = [text, f"{geometry} of other scenes" if self.shuffle3d else geometry]
        if self.geometry:
            parts += [f"least confident {self.confidence_quantile:.0%} masked"] * (self.confidence_quantile > 0)
            parts += ["weighted by confidence"] * self.confidence_weights
            parts += [_MULTI_VIEW_TEXT[self.multi_view]] if self.multi_view != "off" else []
        if self.feature_folder:
            parts.append(f"features of {self.feature_folder}")
        if self.online_features and self.features == ONLINE:
            parts.append("features of the teacher in the step")
        if self.augment:
            parts.append("augmented")
        if self.views:
            parts.append(f"{self.views} view{'s' if self.views > 1 else ''} a sample")
        return "; ".join(parts)

    @property
    def feature_folder(self) -> str:
        """Folder of the label files that hold the teacher features, '' = no features."""
        if self.features == "auto":
            return "" if self.labels in ("measured", ONLINE) else self.labels
        return "" if self.features in ("none", ONLINE) else self.features

    @property
    def label_folder(self) -> str:
        """Folder of the label files that hold depth and cameras, '' = none."""
        return self.labels if self.geometry and self.labels not in ("measured", ONLINE) else ""

    @property
    def online_geometry(self) -> bool:
        """Whether depth and cameras are those of the teacher in the training step."""
        return self.geometry and self.labels == ONLINE

    @property
    def online_features(self) -> bool:
        """Whether features are those of the teacher in the training step, if it hands out any."""
        return self.features == ONLINE or (self.features == "auto" and self.labels == ONLINE)

    @property
    def uses_teacher(self) -> bool:
        """Whether its rows need the teacher in the training step."""
        return self.online_geometry or self.online_features


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """What all samples of a loader share."""

    views: int
    label_size: tuple[int, int]
    question_tokens: int
    answer_tokens: int


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Sources and the static shapes of a run: its one bucket, or the limits of several."""

    sources: tuple = ()  # of SourceConfig, or mappings with its fields
    questions: int = 8  # Q: packed questions of a row
    question_tokens: int = 48  # T: question, answer and end token
    answer_tokens: int = 4  # A: answer and end token
    views: int = 4  # V: samples with fewer get padded views, records with more are an error
    label_size: tuple = (64, 64)  # (H, W) of the label maps
    buckets: int = 1  # at most that many shapes, chosen from the data; 1 = just the shapes stated here
    seed: int = 0
    threads: int = 2  # reading threads; 0 = read in the training thread
    buffer: int = 4  # batches prepared ahead
    cache_mb: float = 512.0  # memory for prepared samples
    vision_cache: str = ""  # folder for the frozen encoder's features, "auto" = one of the run, "" = none
    verify: int = 4  # records per source prepared at construction, so that wrong sizes fail at once

    def __post_init__(self):
        for name in ("questions", "question_tokens", "answer_tokens", "views", "buckets"):
            if getattr(self, name) < 1:
                raise ValueError(f"config.data.{name} is {getattr(self, name)}, expected at least 1.")
        for name in ("seed", "threads", "buffer", "cache_mb", "verify"):
            if getattr(self, name) < 0:
                raise ValueError(f"config.data.{name} is {getattr(self, name)}, expected 0 or more.")
        if len(self.label_size) != 2 or min(self.label_size) < 1:
            raise ValueError(f"config.data.label_size is {self.label_size}, expected (height, width) in pixels.")

    @property
    def source_configs(self) -> tuple[SourceConfig, ...]:
        """The sources as dataclasses."""
        return tuple(
            source
            if isinstance(source, SourceConfig)
            else from_mapping(SourceConfig, source, f"config.data.sources[{number}]")
            for number, source in enumerate(self.sources)
        )

    @property
    def sample_settings(self) -> SampleSettings:
        """Shapes of the bucket."""
        height, width = self.label_size
        return SampleSettings(self.views, (int(height), int(width)), self.question_tokens, self.answer_tokens)
