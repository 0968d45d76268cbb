"""Puts a sample and its questions into the fields of one row."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from data_pipelines.collate import default_intrinsics, pad_views
from data_pipelines.config import DataConfig
from data_pipelines.online import OnlinePictures, fields
from data_pipelines.packing import pack_prefix
from data_pipelines.samples import Sample
from data_pipelines.transforms.geometry import keep_views
from data_pipelines.vision_cache import VisionCache


class RowBuilder:
    """Turns a sample and its questions into the fields of one row (spec.BATCH without B).

    Args:
      config: shapes of the bucket.
      processor: the model family's processor.
      feature_width: F; 0 = rows have no `teacher_features`.
      weighted: whether rows have `label_weight`.
      vision: where samples' cached features come from, if they do.
      online: what makes pictures for the teacher in the training step; None = rows have no fields of `spec.ONLINE`.
    """

    def __init__(
        self,
        config: DataConfig,
        processor,
        feature_width: int = 0,
        weighted: bool = False,
        vision: VisionCache | None = None,
        online: OnlinePictures | None = None,
    ):
        self._config, self._processor, self._vision = config, processor, vision
        self._feature_width, self._weighted = feature_width, weighted
        full = processor.encode_prefix(config.views)
        self.prefix_tokens = len(full.tokens)
        self._pictures = config.views if full.feature_slots is None else len(full.feature_slots)
        self._blank = online and online.blank(config.views, config.sample_settings.label_size, processor.grid_hw)
        self._prefix = functools.lru_cache(maxsize=None)(self._pack_prefix)

    def _pack_prefix(self, shown: int) -> dict[str, np.ndarray]:
        prefix = self._processor.encode_prefix(shown)
        return pack_prefix(prefix, self._config.views, self.prefix_tokens, self._pictures, self._processor.pad_id)

    def row(
        self,
        sample: Sample,
        choice: np.ndarray,
        geometry_of: Sample,
        record: int,
        source: int,
        pixels: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """One row.

        Args:
          sample: pictures and questions.
          choice: int[n], the questions to pack, n <= Q.
          geometry_of: whose labels and features go along (`sample` itself but for `shuffle3d`).
          record, source: bookkeeping indices.
          pixels: memory of `pixel_values` in the batch, which then is filled and handed out; None = new memory.
        """
        views, shown = self._config.views, len(sample.covered)
        labels = keep_views(geometry_of.labels, shown)
        pictures = self._shown_pictures(sample, pixels)
        valid = labels.valid if geometry_of is sample else labels.valid & sample.covered
        row = {
            **self._prefix(shown),
            **sample.questions.pack(choice, self._config.questions, self._processor),
            **{name: pad_views(value, self._pictures) for name, value in pictures.items()},
            "view_valid": np.arange(views) < shown,
            "pose_valid": pad_views(labels.pose_valid, views),
            "depth_valid": pad_views(labels.depth_valid, views),
            "has_text": np.asarray(sample.has_text and len(choice) > 0),
            "has_geometry": np.asarray(labels.has_geometry),
            "has_features": np.asarray(geometry_of.features is not None),
            "depth": pad_views(labels.depth if geometry_of is sample else np.where(valid, labels.depth, 0), views),
            "valid": pad_views(valid, views),
            "covered": pad_views(sample.covered, views),
            "intrinsics": pad_views(labels.intrinsics, views, default_intrinsics(*labels.depth.shape[1:])),
            "camera_to_world": pad_views(labels.camera_to_world, views, np.eye(4)),
            "scene_scale_m": np.asarray(labels.scene_scale_m, np.float32),
            "record_index": np.asarray(record, np.int32),
            "source_index": np.asarray(source, np.int32),
        }
        if self._feature_width:
            row["teacher_features"] = self._features(geometry_of, shown)
        if self._weighted:
            weight = np.ones(valid.shape, np.float32) if labels.weight is None else labels.weight
            row["label_weight"] = pad_views(np.where(valid, weight, 0), views)
        if self._blank is not None:
            row |= fields(self._blank if sample.teacher is None else sample.teacher, views, self._blank)
        return row

    def _shown_pictures(self, sample: Sample, out: np.ndarray | None) -> dict[str, np.ndarray]:
        """Pixels of the sample's own pictures, in `out` if it has their shape, or the features that were cached of them."""
        if (features := sample.vision_features) is not None:
            # Without channels: the shape still says how large pictures are.
            pixels = np.empty((len(features), *self._vision.pixel_shape, 0), np.float32)
            return {"pixel_values": pixels, "vision_features": features}
        if sample.pixel_values is not None:
            return {"pixel_values": sample.pixel_values}
        size = self._config.sample_settings.label_size
        if out is None:
            return {"pixel_values": self._processor.pixels(sample.images, size).pixel_values}
        own = len(sample.images) * self._pictures // self._config.views
        out[own:] = 0  # views of padding
        if own:
            self._processor.pixels(sample.images, size, out[:own])
        return {"pixel_values": out}

    def _features(self, sample: Sample, shown: int) -> np.ndarray:
        tokens = self._processor.grid_hw[0] * self._processor.grid_hw[1]
        features = np.zeros((self._config.views, tokens, self._feature_width), np.float32)
        if sample.features is not None:
            if sample.features.shape[-1] != self._feature_width:
                raise ValueError(
                    f"Record '{sample.record_id}': teacher features are {sample.features.shape[-1]} wide, those of the "
                    f"first source {self._feature_width}; label all sources with one teacher."
                )
            count = min(shown, len(sample.features))
            features[:count] = sample.features[:count]
        return features


def measure(rows: list[dict[str, np.ndarray]], weights: Sequence[float] | None = None) -> dict:
    """Means, padding shares and counts over some rows; `weights` (of mean 1) count in means and shares."""
    if not rows:
        return {"rows": 0}
    weights = [1.0] * len(rows) if weights is None else weights
    over = lambda value: sum(weight * float(value(row)) for weight, row in zip(weights, rows, strict=True))
    total = {
        name: over(lambda row, name=name: row[name].sum())
        for name in ("prefix_mask", "question_mask", "question_valid", "answer_mask")
    }
    questions = max(total["question_valid"], 1.0)
    # What a teacher in the training step says of a row is not known here.
    taught = [bool(row["teacher_inside"].any()) if "teacher_inside" in row else False for row in rows]
    own = [row for row, later in zip(rows, taught, strict=True) if not later]
    shown = sum(int(row["view_valid"].sum()) for row in own)
    pixels = {
        name: sum(
            weight * float(row[name].sum())
            for row, weight, later in zip(rows, weights, taught, strict=True)
            if not later
        )
        for name in ("valid", "covered")
    }
    return {
        "rows": len(rows),
        "prefix_tokens": total["prefix_mask"] / len(rows),
        "prefix_padding_share": 1 - total["prefix_mask"] / over(lambda row: row["prefix_mask"].size),
        "questions_per_row": total["question_valid"] / len(rows),
        "tokens_per_question": total["question_mask"] / questions,
        "answer_tokens_per_question": total["answer_mask"] / questions,
        "longest_question_tokens": max(int(row["question_mask"].sum(axis=-1).max()) for row in rows),
        "longest_answer_tokens": max(int(row["answer_mask"].sum(axis=-1).max()) for row in rows),
        "question_padding_share": 1 - total["question_mask"] / over(lambda row: row["question_mask"].size),
        "view_padding_share": 1 - over(lambda row: row["view_valid"].sum()) / over(lambda row: row["view_valid"].size),
        "labelled_pixel_share": pixels["valid"] / max(pixels["covered"], 1.0),
        "views_without_pose": shown - sum(int(row["pose_valid"].sum()) for row in own),
        "views_without_depth": shown - sum(int(row["depth_valid"].sum()) for row in own),
        "rows_without_text": sum(not row["has_text"] for row in rows),
        "rows_without_geometry": sum(not row["has_geometry"] for row in own),
        "rows_without_features": sum(not row["has_features"] for row in own),
        "rows_labelled_in_the_step": sum(taught),
    }
