"""Record <-> bytes: the tensorflow-datasets feature table and its two directions.

No tensorflow: the features encode to tf.train.Example messages with protobuf alone. Pictures are
stored as the encoded bytes that the source gave, and read as such (`_encoded`); `features`, which
the data set's features.json holds, names them as images, so that a plain `as_data_source` shows
pixels. Both describe the same stored bytes.
"""

from __future__ import annotations

import functools
import json

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.records import FORMAT_VERSION, Record, questions_from_json, questions_to_json


def _features(image: tfds.features.FeatureConnector) -> tfds.features.FeaturesDict:
    text, many = tfds.features.Text, tfds.features.Sequence

    def exact(*shape: int | None) -> tfds.features.Tensor:  # tf.train.Example has no float64 of its own
        return tfds.features.Tensor(shape=shape, dtype=np.float64, encoding="bytes")

    return tfds.features.FeaturesDict(
        {
            "format_version": tfds.features.Scalar(dtype=np.int64),
            "id": text(),
            "dataset": text(),
            "scene": text(),
            "setting": text(),
            "view_ids": many(text()),
            "images": many(image),
            "depths": many(text()),
            "depth_unit_m": exact(),
            "intrinsics": exact(None, 3, 3),
            "camera_to_world": exact(None, 4, 4),
            "pose_valid": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
            "questions": text(),
            "metadata": text(),
        }
    )


@functools.cache
def features() -> tfds.features.FeaturesDict:
    """The features as stored in features.json: `images` are pictures (PNG or JPEG)."""
    return _features(tfds.features.Image(shape=(None, None, 3)))


@functools.cache
def _encoded() -> tfds.features.FeaturesDict:
    return _features(tfds.features.Text())


@functools.cache
def _serializer() -> tfds.core.ExampleSerializer:
    return tfds.core.ExampleSerializer(_encoded().get_serialized_info())


def encode_record(record: Record) -> bytes:
    """The record as one ArrayRecord entry; `decode_record` gives back an equal record.

    Raises:
      ValueError: `metadata` is not JSON (NaN, arrays, other keys than text), naming the record.
    """
    try:
        metadata = json.dumps(record.metadata, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Record '{record.id}': metadata is not JSON: {error}. Use plain numbers and lists."
        ) from error
    example = {
        "format_version": FORMAT_VERSION,
        "id": record.id,
        "dataset": record.dataset,
        "scene": record.scene,
        "setting": record.setting,
        "view_ids": list(record.view_ids),
        "images": list(record.images),
        "depths": list(record.depths),
        "depth_unit_m": np.float64(record.depth_unit_m),
        "intrinsics": np.asarray(record.intrinsics, np.float64),
        "camera_to_world": np.asarray(record.camera_to_world, np.float64),
        "pose_valid": np.asarray(record.pose_valid, bool),
        "questions": questions_to_json(record.questions),
        "metadata": metadata,
    }
    message = _serializer().get_tf_example(_encoded().encode_example(example))
    # Features are a protobuf map, whose order differs from process to process unless asked not to.
    return message.SerializeToString(deterministic=True)


def decode_record(data: bytes) -> Record:
    """Inverse of `encode_record`.

    Raises:
      ValueError: the entry was written by another format version.
    """
    example = _encoded().deserialize_example_np(data)
    if (version := int(example["format_version"])) != FORMAT_VERSION:
        raise ValueError(f"Record of format {version}; this program reads {FORMAT_VERSION}. Prepare the data again.")
    return Record(
        id=_text(example["id"]),
        dataset=_text(example["dataset"]),
        scene=_text(example["scene"]),
        setting=_text(example["setting"]),
        view_ids=tuple(_text(name) for name in example["view_ids"]),
        images=tuple(bytes(image) for image in example["images"]),
        depths=tuple(bytes(depth) for depth in example["depths"]),
        depth_unit_m=float(example["depth_unit_m"]),
        intrinsics=np.array(example["intrinsics"], np.float64),
        camera_to_world=np.array(example["camera_to_world"], np.float64),
        pose_valid=np.array(example["pose_valid"], bool),
        questions=questions_from_json(_text(example["questions"])),
        metadata=json.loads(_text(example["metadata"])),
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
