"""Prepared samples: chosen views of one record, decoded, with label maps and questions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.config import SampleSettings, SourceConfig
from data_pipelines.labels import files as label_files
from data_pipelines.online import OnlinePictures, TeacherViews
from data_pipelines.packing import QuestionSet
from data_pipelines.records import Record
from data_pipelines.transforms import features as feature_steps
from data_pipelines.transforms.augment import Shown, augment
from data_pipelines.transforms.decode import decode_image, decode_views, picture_size, view_depth, view_name
from data_pipelines.transforms.geometry import Labels, Measured, make_labels, no_labels
from data_pipelines.transforms.views import applicable_questions
from data_pipelines.vision_cache import VisionCache
from spatialsv_jax.processing.base import Pixels, check_pictures


@dataclasses.dataclass(frozen=True)
class Sample:
    """The chosen v views of one record, deterministic given (record, views)."""

    record_id: str
    scene: str
    images: tuple[np.ndarray, ...] | None  # uint8[h,w,3] each, or None when `pixel_values` alone is kept
    pixel_values: np.ndarray | None  # float32, or None when `images` alone are kept
    vision_features: np.ndarray | None  # [X,r,C] of all views' tiles, instead of pictures
    covered: np.ndarray  # bool[v,H,W]
    labels: Labels
    features: np.ndarray | None  # float32[v,P,F]
    questions: QuestionSet
    has_text: bool
    teacher: TeacherViews | None = None  # pictures for the teacher in the training step, which then makes the labels

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        pictures = [*(self.images or ()), self.pixel_values, self.vision_features, self.features]
        extra = sum(array.nbytes for array in pictures if array is not None)
        extra += 0 if self.teacher is None else self.teacher.nbytes
        return extra + self.covered.nbytes + self.labels.nbytes + self.questions.nbytes + 1000

    def kept(self) -> Sample:
        """The same with its pictures in one form: large ones as the network reads them, small ones as bytes."""
        if self.images is None or self.pixel_values is None:
            return self
        if self.pixel_values.nbytes <= sum(image.nbytes for image in self.images):
            return dataclasses.replace(self, images=None)
        return dataclasses.replace(self, pixel_values=None)


class SampleMaker:
    """Prepares samples of a source's records.

    Args:
      config: what of the source is used.
      settings: shapes of the bucket.
      processor: the model family's processor.
      feature_folder: label files that hold teacher features, "" = none.
      number: place of the source in the mixture, for messages.
      labelled: scenes whose questions are shown; None = all.
      vision: features of the pictures, which then are not decoded.
      missing: folder of label files -> records that have none there and are shown without.
      online: what makes pictures for the teacher in the training step; None = there is none.
    """

    def __init__(
        self,
        config: SourceConfig,
        settings: SampleSettings,
        processor,
        feature_folder: str = "",
        number: int = 0,
        labelled: frozenset[str] | None = None,
        vision: VisionCache | None = None,
        missing: Mapping[str, frozenset[str]] | None = None,
        online: OnlinePictures | None = None,
    ):
        self.config, self.settings, self.number = config, settings, number
        self._processor, self._feature_folder, self._labelled = processor, feature_folder, labelled
        self._vision, self._missing, self._online = vision, missing or {}, online if config.uses_teacher else None
        self._place = functools.lru_cache(maxsize=None)(self._place_of)
        self._label_kinds: dict[str, tuple] = {}  # folder -> what its first file was made by, and how

    def prepare(self, record: Record, views: tuple[int, ...]) -> Sample:
        """Decodes and labels the chosen views of a record.

        Raises:
          ValueError: too many views for the bucket, or broken data, naming the record.
        """
        config, settings = self.config, self.settings
        if len(views) > settings.views:
            raise too_many_views(record.id, len(views), settings.views, self.number)
        measured = config.geometry and config.labels == "measured"
        vision_features = None
        if self._vision is None:
            images, depths = decode_views(record, views, with_depth=measured)
            pixels = self._pixels(images)
        else:
            images, pixels, depths, vision_features = self._from_cache(record, views, measured)
        labels, features = self._labels(record, views, depths, pixels)
        has_text = config.text and (self._labelled is None or record.scene in self._labelled)
        questions = ()
        if has_text:
            questions = applicable_questions(record.questions, views, len(record.view_ids), config.groups, config.types)
        return Sample(
            record_id=record.id,
            scene=record.scene,
            images=None if self._vision else tuple(images),
            pixel_values=pixels.pixel_values,
            vision_features=vision_features,
            covered=pixels.covered,
            labels=labels,
            features=features,
            questions=self.question_set(questions, record.id, bool(views)),
            has_text=has_text and len(questions) > 0,
            teacher=self._teacher_views(record, views, images, pixels),
        )

    def _teacher_views(self, record: Record, views: tuple[int, ...], images: Sequence, pixels) -> TeacherViews | None:
        if self._online is None:
            return None
        if self._vision is not None:
            images = [decode_image(record.images[view], view_name(record, view)) for view in views]
        where = (pixels.label_affine, self.settings.label_size, self._processor.grid_hw)
        return self._online.views(images, *where, record.id)

    def _from_cache(self, record: Record, views: tuple[int, ...], with_depth: bool):
        """No pictures, where labels lie in them, their depths, and their cached features [X,r,C]."""
        names = [view_name(record, view) for view in views]
        sizes = [picture_size(record.images[view], name) for view, name in zip(views, names, strict=True)]
        pixels = self._places(sizes)
        depths = [
            view_depth(record, view, size) if with_depth else None for view, size in zip(views, sizes, strict=True)
        ]
        read = [self._vision.read(record.images[view], name) for view, name in zip(views, names, strict=True)]
        return (), pixels, depths, np.concatenate([self._vision.none, *read])

    def _pixels(self, images: list[np.ndarray]) -> Pixels:
        """Pictures as the network reads them; small ones only where labels lie in them, for the row to fill its batch."""
        sizes = [image.shape[:2] for image in images]
        if sum(image.nbytes for image in images) < len(images) * self._bytes_of_one:
            check_pictures(images)
            return self._places(sizes)
        return self._processor.pixels(images, self.settings.label_size) if images else self._no_pixels

    def _places(self, sizes: list[tuple[int, int]]) -> Pixels:
        """Where labels lie in pictures of these sizes, without pixels."""
        if not sizes:
            return self._no_pixels._replace(pixel_values=None)
        return Pixels(None, *(np.stack(arrays) for arrays in zip(*map(self._place, sizes), strict=True)))

    def _place_of(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """(label_affine, covered) of a picture: they depend on its size alone."""
        blank = self._processor.pixels([np.zeros((*size, 3), np.uint8)], self.settings.label_size)
        return blank.label_affine[0], blank.covered[0]

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
            vision_features=None,
            covered=pixels.covered,
            labels=labels,
            features=None,
            questions=self.question_set((), shown.record_id),
            has_text=False,
        )

    def question_set(self, questions: Sequence, record_id: str, pictures: bool = True) -> QuestionSet:
        """The questions in the shapes of the bucket, of a sample with or without pictures."""
        settings = self.settings
        return QuestionSet(
            questions, record_id, settings.question_tokens, settings.answer_tokens, self._processor.pad_id, pictures
        )

    @functools.cached_property
    def _no_pixels(self) -> Pixels:
        """No pictures, in the shapes of the family's."""
        one = self._one
        return Pixels(one.pixel_values[:0], one.label_affine[:0], one.covered[:0])

    @functools.cached_property
    def _one(self) -> Pixels:
        """A blank picture."""
        return self._processor.pixels([np.zeros((16, 16, 3), np.uint8)], self.settings.label_size)

    @functools.cached_property
    def _bytes_of_one(self) -> int:
        """Of a picture's pixels as the network reads them."""
        return self._one.pixel_values.nbytes

    def _labels(self, record: Record, views: tuple[int, ...], depths: list, pixels) -> tuple[Labels, np.ndarray | None]:
        config, chosen = self.config, list(views)
        if not chosen:
            return no_labels(pixels.covered.shape), None
        folders = [folder for folder in self._folders() if record.id not in self._missing.get(folder, ())]
        files = {folder: self._label_file(folder, record) for folder in folders}
        features = None
        if (folder := self._feature_folder) in files:
            features = feature_steps.pool_features(
                files[folder], chosen, pixels.label_affine, self.settings.label_size, self._processor.grid_hw
            )
        folder = config.label_folder
        if not config.geometry or config.online_geometry or (folder and folder not in files):
            return no_labels(pixels.covered.shape), features
        if folder:
            measured = feature_steps.file_to_measured(
                files[folder], chosen, pixels.label_affine, config.confidence_quantile, config.confidence_weights
            )
        else:
            measured = Measured(
                depths=depths,
                intrinsics=record.intrinsics[chosen],
                camera_to_world=record.camera_to_world[chosen],
                pose_valid=record.pose_valid[chosen],
                label_affine=pixels.label_affine,
                metric=record.depth_unit_m > 0,
            )
        return make_labels(measured, pixels.covered, record.id, config.multi_view), features

    def _label_file(self, folder: str, record: Record) -> label_files.LabelFile:
        found = label_files.read_labels(folder, record.id, view_ids=record.view_ids, images=record.images)
        width = 0 if found.features is None else found.features.shape[-1]
        kind = (found.teacher, found.checkpoint, width)
        first = self._label_kinds.setdefault(folder, (*kind, found.metric, label_files.method(found)))
        if kind != first[:3]:
            raise label_files.LabelError(
                f"{label_files.label_path(folder, record.id)}: teacher, checkpoint and feature width are {kind}, of "
                f"other files of this folder {first[:3]}. One folder holds the labels of one teacher; make them again."
            )
        made = (found.metric, label_files.method(found))
        if made != first[3:]:
            raise label_files.LabelError(
                f"{label_files.label_path(folder, record.id)}: metric and settings are {made}, of other files of this folder "
                f"{first[3:]}. One folder holds labels made in one way; make them again, all with the same options."
            )
        return found

    def _folders(self) -> set[str]:
        return {self._feature_folder, self.config.label_folder} - {""}


def too_many_views(record_id: str, shown: int, room: int, number: int) -> ValueError:
    """The error of a record that shows more views than the `room` of the bucket, of source `number`."""
    return ValueError(
        f"Record '{record_id}' shows {shown} views, but config.data.views is {room}; raise it, "
        f"or set config.data.sources[{number}].views to at most {room}."
    )
