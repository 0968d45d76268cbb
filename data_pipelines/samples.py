"""Prepared samples: chosen views of one record, decoded, with label maps and questions, in a bounded cache."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.config import SampleSettings, SourceConfig
from data_pipelines.labels import files as label_files
from data_pipelines.mixture import SceneGroups, scene_has_text
from data_pipelines.packing import QuestionSet
from data_pipelines.records import Record
from data_pipelines.transforms import features as feature_steps
from data_pipelines.transforms.augment import Shown, augment
from data_pipelines.transforms.decode import decode_views
from data_pipelines.transforms.geometry import Labels, Measured, make_labels, no_labels
from data_pipelines.transforms.views import applicable_questions, choose_views


class BoundedCache:
    """A thread-safe memory of results up to a byte budget.

    What is in stays in, and once the budget is used nothing more enters: every record is needed
    once per pass, so throwing out the least recently used one would throw out what comes next.

    Args:
      megabytes: the budget; 0 = remember nothing.
    """

    def __init__(self, megabytes: float):
        self._budget, self._lock = int(megabytes * 2**20), threading.Lock()
        self._values: dict = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key, make: Callable):
        """The remembered value of `key`, or `make()`, remembered when its `nbytes` fit."""
        value = self._values.get(key)
        if value is None:
            value = make()
            with self._lock:
                if key not in self._values and self.nbytes + value.nbytes <= self._budget:
                    self._values[key] = value
                    self.nbytes += value.nbytes
        return value


@dataclasses.dataclass(frozen=True)
class Sample:
    """The chosen v views of one record, deterministic given (record, views)."""

    record_id: str
    scene: str
    images: tuple[np.ndarray, ...] | None  # uint8[h,w,3] each, or None when `pixel_values` is kept instead
    pixel_values: np.ndarray | None
    covered: np.ndarray  # bool[v,H,W]
    labels: Labels
    features: np.ndarray | None  # float32[v,P,F]
    questions: QuestionSet
    has_text: bool

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        pictures = sum(image.nbytes for image in self.images) if self.images is not None else self.pixel_values.nbytes
        extra = 0 if self.features is None else self.features.nbytes
        return pictures + extra + self.covered.nbytes + self.labels.nbytes + self.questions.nbytes + 1000


class SampleMaker:
    """Prepares samples of a source's records.

    Args:
      config: what of the source is used.
      settings: shapes of the bucket.
      processor: the model family's processor.
      feature_folder: label files that hold teacher features, "" = none.
      number: place of the source in the mixture, for messages.
    """

    def __init__(
        self, config: SourceConfig, settings: SampleSettings, processor, feature_folder: str = "", number: int = 0
    ):
        self.config, self.settings, self.number = config, settings, number
        self._processor, self._feature_folder = processor, feature_folder
        self._label_kinds: dict[str, tuple] = {}  # folder -> what its first file was made by

    def prepare(self, record: Record, views: tuple[int, ...]) -> Sample:
        """Decodes and labels the chosen views of a record.

        Raises:
          ValueError: too many views for the bucket, or broken data, naming the record.
        """
        config, settings = self.config, self.settings
        if len(views) > settings.views:
            raise _too_many_views(record.id, len(views), settings.views, self.number)
        measured = config.geometry and config.labels == "measured"
        images, depths = decode_views(record, views, with_depth=measured)
        pixels = self._processor.pixels(images, settings.label_size)
        labels, features = self._labels(record, views, depths, pixels)
        has_text = config.text and scene_has_text(record.scene, config.text_share)
        questions = ()
        if has_text:
            questions = applicable_questions(record.questions, views, len(record.view_ids), config.groups, config.types)
        # Large pictures are kept as the network reads them, small ones as bytes.
        keep_pixels = pixels.pixel_values.nbytes <= sum(image.nbytes for image in images)
        return Sample(
            record_id=record.id,
            scene=record.scene,
            images=None if keep_pixels else tuple(images),
            pixel_values=pixels.pixel_values if keep_pixels else None,
            covered=pixels.covered,
            labels=labels,
            features=features,
            questions=self.question_set(questions, record.id),
            has_text=has_text and len(questions) > 0,
        )

    def decode(self, record: Record) -> Shown:
        """All views of a record with their measured geometry, for `prepare_augmented`."""
        views = tuple(range(len(record.view_ids)))
        images, depths = decode_views(record, views, with_depth=self.config.geometry)
        return Shown(
            record_id=record.id,
            scene=record.scene,
            metric=record.depth_unit_m > 0,
            images=tuple(images),
            depths=tuple(depths),
            intrinsics=record.intrinsics,
            camera_to_world=record.camera_to_world,
            pose_valid=record.pose_valid,
        )

    def prepare_augmented(self, shown: Shown, rng: np.random.Generator) -> Sample:
        """A sample of decoded views, augmented by `rng`, without text."""
        shown = augment(shown, rng)
        pixels = self._processor.pixels(list(shown.images), self.settings.label_size)
        labels = no_labels(pixels.covered.shape)
        if self.config.geometry:
            measured = Measured(
                depths=list(shown.depths),
                intrinsics=shown.intrinsics,
                camera_to_world=shown.camera_to_world,
                pose_valid=shown.pose_valid,
                label_affine=pixels.label_affine,
                metric=shown.metric,
            )
            labels = make_labels(measured, pixels.covered, shown.record_id)
        return Sample(
            record_id=shown.record_id,
            scene=shown.scene,
            images=None,
            pixel_values=pixels.pixel_values,
            covered=pixels.covered,
            labels=labels,
            features=None,
            questions=self.question_set((), shown.record_id),
            has_text=False,
        )

    def question_set(self, questions: Sequence, record_id: str) -> QuestionSet:
        """The questions in the shapes of the bucket."""
        settings = self.settings
        return QuestionSet(
            questions, record_id, settings.question_tokens, settings.answer_tokens, self._processor.pad_id
        )

    def _labels(self, record: Record, views: tuple[int, ...], depths: list, pixels) -> tuple[Labels, np.ndarray | None]:
        config, chosen = self.config, list(views)
        files = {folder: self._label_file(folder, record) for folder in self._folders()}
        features = None
        if folder := self._feature_folder:
            features = feature_steps.pool_features(
                files[folder], chosen, pixels.label_affine, self.settings.label_size, self._processor.grid_hw
            )
        if not config.geometry:
            return no_labels(pixels.covered.shape), features
        if config.labels != "measured":
            measured = feature_steps.file_to_measured(files[config.labels], chosen, pixels.label_affine)
        else:
            measured = Measured(
                depths=depths,
                intrinsics=record.intrinsics[chosen],
                camera_to_world=record.camera_to_world[chosen],
                pose_valid=record.pose_valid[chosen],
                label_affine=pixels.label_affine,
                metric=record.depth_unit_m > 0,
            )
        return make_labels(measured, pixels.covered, record.id), features

    def _label_file(self, folder: str, record: Record) -> label_files.LabelFile:
        found = label_files.read_labels(folder, record.id, view_ids=record.view_ids, images=record.images)
        width = 0 if found.features is None else found.features.shape[-1]
        kind = (found.teacher, found.checkpoint, width)
        first = self._label_kinds.setdefault(folder, kind)
        if kind != first:
            raise label_files.LabelError(
                f"{label_files.label_path(folder, record.id)}: teacher, checkpoint and feature width are {kind}, of "
                f"other files of this folder {first}. One folder holds the labels of one teacher; make them again."
            )
        return found

    def _folders(self) -> set[str]:
        wanted = {self._feature_folder}
        if self.config.geometry and self.config.labels != "measured":
            wanted.add(self.config.labels)
        return wanted - {""}


class Source:
    """One source of the mixture: reads, prepares and remembers its samples.

    Args:
      config: what of the source is used.
      records: random access to its records, with `rows` (their index) as storage.RecordSource has it.
      buckets: (settings, processor) of each bucket: its shapes, and the family's processor at its picture size.
      cache: shared by all sources of a loader.
      number: place in the mixture.

    Attributes:
      feature_width: F of its teacher features, 0 = none.

    Raises:
      ValueError: label files without features.
    """

    def __init__(
        self,
        config: SourceConfig,
        records,
        buckets: Sequence[tuple[SampleSettings, object]],
        cache: BoundedCache,
        number: int,
    ):
        self.config, self.records, self.number = config, records, number
        self.feature_width = _feature_width(config, records, number)
        folder = config.feature_folder if self.feature_width else ""
        self._makers = [SampleMaker(config, settings, processor, folder, number) for settings, processor in buckets]
        self._cache = cache
        self._available = np.array([row["views"] for row in records.rows], np.int32)

    def __len__(self) -> int:
        return len(self.records)

    def scene_groups(self) -> SceneGroups:
        """The records in use by scene, for `shuffle3d`."""
        members = used_records(self.config, self.records)
        return SceneGroups(members, [self.records.rows[int(index)]["scene"] for index in members])

    def sample(
        self, index: int, visit: int, rng: np.random.Generator, views: int | None = None, bucket: int = 0
    ) -> Sample:
        """The sample of record `index` on pass `visit`, with the source's number of views or `views`."""
        count, maker = self.config.views if views is None else views, self._makers[bucket]
        chosen = choose_views(int(self._available[index]), count, index, visit, rng)
        if self.config.augment:
            shown = self._cache.get((self.number, index), lambda: maker.decode(self.records[index]))
            return maker.prepare_augmented(shown.take(np.array(chosen)), rng)
        key = (self.number, index, chosen, bucket)
        return self._cache.get(key, lambda: maker.prepare(self.records[index], chosen))


def used_records(config: SourceConfig, records) -> np.ndarray:
    """Indices of the records in use: all, or those with text where the others are dropped."""
    everything = np.arange(len(records))
    if config.unlabelled == "keep":
        return everything
    return everything[[scene_has_text(row["scene"], config.text_share) for row in records.rows]]


def shown_views(config: SourceConfig, records, limit: int, number: int) -> np.ndarray:
    """int32[n]: views that a sample of each record shows.

    Raises:
      ValueError: more than `limit`, naming the record and the source `number`.
    """
    available = np.array([row["views"] for row in records.rows], np.int32)
    shown = np.minimum(available, config.views) if config.views else available
    if len(shown) and shown.max() > limit:
        index = int(shown.argmax())
        raise _too_many_views(records.rows[index]["id"], int(shown[index]), limit, number)
    return shown


def _feature_width(config: SourceConfig, records, number: int) -> int:
    if not config.feature_folder or not len(records):
        return 0
    features = label_files.read_labels(config.feature_folder, records.rows[0]["id"]).features
    if features is not None and features.size:
        return int(features.shape[-1])
    if config.features == "auto":
        return 0
    raise ValueError(
        f"The label files in {config.feature_folder} hold no teacher features; "
        f"set config.data.sources[{number}].features to 'none'."
    )


def _too_many_views(record_id: str, shown: int, room: int, number: int) -> ValueError:
    return ValueError(
        f"Record '{record_id}' shows {shown} views, but config.data.views is {room}; raise it, "
        f"or set config.data.sources[{number}].views to at most {room}."
    )
