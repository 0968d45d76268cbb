"""The one table of batch and prediction fields: names, shapes, dtypes, units, meaning.

Every array that crosses a module border is named here. Shape letters:

B batch, V views, H x W label resolution, P = gh * gw visual tokens of one view on the
lifting grid, S prefix tokens, Q questions, T tokens of one question, A answer tokens of one
question, K position axes (1, or 3 for multimodal rotary), D language width, F teacher
feature width, N vocabulary, X pictures as the vision encoder reads them (V unless a view is several
crops), R features of one of them, h x w pixels and th x tw patches of a picture as a teacher in the
training step reads it, gh x gw the lifting grid. A name in `*` stands for any number of further axes.

Conventions (all of them): OpenCV cameras (x right, y down, z forward), pixel centres at
(u + 0.5, v + 0.5), z-depth, world frame = the frame of the first view with a valid pose and
depth, lengths divided by the scene scale. Invalid pixels hold 0 and are False in the mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Field:
    """One array: shape letters, dtype, unit and meaning."""

    shape: tuple[str, ...]
    dtype: str
    unit: str
    meaning: str


def _field(shape: str, dtype: str, unit: str, meaning: str) -> Field:
    return Field(tuple(shape.split()), dtype, unit, meaning)


BATCH: dict[str, Field] = {
    # What the language model reads.
    "prefix_tokens": _field(
        "B S", "int32", "id", "tokens up to and past the last image; image slots hold the image id"
    ),
    "prefix_mask": _field("B S", "bool", "-", "True on real prefix tokens (padding is at the end)"),
    "prefix_positions": _field("B S K", "int32", "-", "rotary positions of the prefix"),
    "question_tokens": _field("B Q T", "int32", "id", "question then answer then end token"),
    "question_mask": _field("B Q T", "bool", "-", "True on real question tokens (padding is at the end)"),
    "question_start": _field("B", "int32", "-", "rotary position of every question's token 0"),
    "question_valid": _field("B Q", "bool", "-", "False for empty question slots"),
    "answer_mask": _field("B Q T", "bool", "-", "True on tokens that are answer (the end token included)"),
    "answer_positions": _field("B Q A", "int32", "-", "index into T of each answer token (>= 1), 0 where unused"),
    "answer_valid": _field("B Q A", "bool", "-", "False for unused answer slots"),
    # What the vision encoder reads.
    "pixel_values": _field(
        "B X *",
        "float32",
        "-",
        "normalised pixels, layout of the family's processor; no channels where features are given",
    ),
    "vision_features": _field(
        "B X R C", "float32|bfloat16", "-", "the frozen encoder's output before the projector, where it was cached"
    ),
    "image_token_index": _field(
        "B V P", "int32", "-", "index into S of each lifting-grid token, row-major over gh x gw"
    ),
    # Optional: where the encoder's features are more than the lifting grid (X pictures of R features each: tiles,
    # crops), or where pictures of a sample differ in size.
    "feature_slots": _field(
        "B X R", "int32", "-", "index into S that each feature of each picture fills; image_token_index by default"
    ),
    "feature_valid": _field(
        "B X R", "bool", "-", "False for features that fill no slot; by default those of padded views"
    ),
    # Validity.
    "view_valid": _field("B V", "bool", "-", "False for padded views"),
    "pose_valid": _field("B V", "bool", "-", "the view has a camera (intrinsics and pose)"),
    "depth_valid": _field("B V", "bool", "-", "the view has depth"),
    "has_text": _field("B", "bool", "-", "the sample's questions count in the text loss"),
    "has_geometry": _field("B", "bool", "-", "the sample's depth and cameras count in the 3D losses"),
    "has_features": _field("B", "bool", "-", "the sample's teacher features count in the distillation loss"),
    # Geometry labels, in the first valid view's frame, divided by the scene scale.
    "depth": _field("B V H W", "float32", "scene scale", "z-depth, 0 where invalid"),
    "valid": _field("B V H W", "bool", "-", "pixels with a depth label"),
    "covered": _field("B V H W", "bool", "-", "pixels that show the picture (False in padding)"),
    "intrinsics": _field("B V 3 3", "float32", "label pixels", "camera matrix of the H x W map"),
    "camera_to_world": _field("B V 4 4", "float32", "scene scale", "pose; identity where invalid"),
    "scene_scale_m": _field("B", "float32", "metre", "metres per scene unit; 0 when unknown"),
    "label_weight": _field(
        "B V H W", "float32", "-", "how much each valid pixel counts, mean 1 over a sample's; 1 if absent"
    ),
    "teacher_features": _field("B V P F", "float32", "-", "teacher features pooled to the lifting grid"),
    # For rows whose labels the teacher in the training step makes (teachers.online); zeros in other rows.
    "teacher_pixels": _field("B V h w 3", "uint8", "-", "pictures at the teacher's size"),
    "teacher_inside": _field(
        "B V 4", "int32", "teacher pixels", "top, bottom, left, right of what shows the picture, ends excluded"
    ),
    "teacher_affine": _field("B V 2 3", "float32", "-", "label pixels to the teacher's, both from the corner"),
    "teacher_columns": _field(
        "B V W 2", "float32", "teacher pixels", "x of label columns' centres: the whole pixel, and the rest"
    ),
    "teacher_rows": _field("B V H 2", "float32", "teacher pixels", "y of label rows' centres, likewise"),
    "teacher_pool_rows": _field("B V gh th", "float32", "-", "share of patch rows in each row of the lifting grid"),
    "teacher_pool_columns": _field("B V gw tw", "float32", "-", "share of patch columns in each of its columns"),
    # Bookkeeping.
    "record_index": _field("B", "int32", "-", "index of the record in its source (for messages)"),
    "source_index": _field("B", "int32", "-", "index of the source in the mixture"),
}

ONLINE = (
    "teacher_pixels", "teacher_inside", "teacher_affine", "teacher_columns", "teacher_rows", "teacher_pool_rows",
    "teacher_pool_columns",
)  # fmt: skip
OPTIONAL = ("feature_slots", "feature_valid", "label_weight", "teacher_features", "vision_features", *ONLINE)

# Made inside the step from depth and cameras (losses.targets), so that hosts send less.
TARGETS: dict[str, Field] = {
    "ray": _field("B V H W 6", "float32", "scene scale", "[camera centre, R K^-1 p], direction not normalised"),
    "points": _field("B V H W 3", "float32", "scene scale", "centre + depth * direction, 0 where invalid"),
    "ray_valid": _field("B V H W", "bool", "-", "covered pixels of posed views of samples with geometry"),
    "depth_mask": _field("B V H W", "bool", "-", "valid pixels of views with depth, samples with geometry"),
    "points_mask": _field("B V H W", "bool", "-", "valid pixels of posed views with depth, samples with geometry"),
}

PREDICTIONS: dict[str, Field] = {
    "answer_logits": _field("B Q A N", "float32", "nat", "logits that predict each answer token"),
    "depth": _field("B V H W", "float32", "scene scale", "z-depth, > 0"),
    "depth_confidence": _field("B V H W", "float32", "-", "1 + exp(raw)"),
    "ray": _field("B V H W 6", "float32", "scene scale", "[camera centre, direction]"),
    "ray_confidence": _field("B V H W", "float32", "-", "1 + exp(raw)"),
    "points": _field("B V H W 3", "float32", "scene scale", "world points"),
    "points_confidence": _field("B V H W", "float32", "-", "1 + exp(raw)"),
    "features": _field("B V P F", "float32", "-", "distillation output on the lifting grid"),
    "pose": _field(
        "B V 9",
        "float32",
        "scene scale, -, radian",
        "camera_to_world: t, quaternion x y z w; vertical, horizontal field of view",
    ),
    "scene_scale": _field("B", "float32", "metre", "metres per scene unit"),
}


def check(
    arrays: Mapping[str, object], table: Mapping[str, Field] = BATCH, required: tuple[str, ...] | None = None
) -> dict[str, int]:
    """Checks names, ranks, dtypes and that each shape letter has one size everywhere.

    Args:
      arrays: name -> array (NumPy, jax, or anything with `shape` and `dtype`).
      table: the table to check against.
      required: names that must be present; all names of `table` but those of `OPTIONAL` by default.

    Returns:
      The size of every shape letter.

    Raises:
      ValueError: naming the field, what it has and what is expected.
    """
    unknown = sorted(set(arrays) - set(table))
    if unknown:
        raise ValueError(f"Unknown fields {unknown}. Known fields: {sorted(table)}.")
    wanted = [name for name in table if name not in OPTIONAL] if required is None else required
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise ValueError(f"Missing fields {missing}.")
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        field = table[name]
        shape, letters = tuple(array.shape), field.shape
        if letters[-1] == "*":
            letters, shape = letters[:-1], shape[: len(field.shape) - 1]
        if len(shape) != len(letters):
            raise ValueError(f"Field '{name}': shape {tuple(array.shape)} does not match [{' '.join(field.shape)}].")
        if str(array.dtype) not in field.dtype.split("|"):
            raise ValueError(f"Field '{name}': dtype {array.dtype}, expected {field.dtype}.")
        for letter, size in zip(letters, shape, strict=True):
            expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, int(size))
            if size != expected:
                raise ValueError(f"Field '{name}': axis {letter} is {size}, but {expected} elsewhere.")
    return sizes


def fake_batch(
    sizes: Mapping[str, int], pixel_shape: tuple[int, ...], seed: int = 0, features: bool = False
) -> dict[str, np.ndarray]:
    """A random batch that passes `check`, for tests, compilation and planning.

    The prefix is `P` image slots per view from index 0 on, every question is full, answers are
    the last `A` tokens, depth lies in 0.5..2 and all cameras are shifted identities.

    Args:
      sizes: sizes of B, V, H, W, P, S, Q, T, A, K (and F with `features`), and N as the id limit.
      pixel_shape: axes of `pixel_values` after [B, V].
      seed: seed of the generator.
      features: whether to add `teacher_features`.
    """
    if sizes["S"] < sizes["V"] * sizes["P"]:
        raise ValueError(f"Prefix of {sizes['S']} tokens cannot hold {sizes['V']} views of {sizes['P']} tokens.")
    sizes = {"X": sizes["V"], **sizes}
    rng = np.random.default_rng(seed)
    batch: dict[str, np.ndarray] = {}
    for name, field in BATCH.items():
        if name in OPTIONAL and not (features and name == "teacher_features"):
            continue
        letters = [letter for letter in field.shape if letter != "*"]
        shape = tuple(int(letter) if letter.isdigit() else sizes[letter] for letter in letters)
        if name == "pixel_values":
            shape += pixel_shape
        if field.dtype == "bool":
            batch[name] = np.ones(shape, bool)
        elif field.dtype == "int32":
            batch[name] = np.zeros(shape, np.int32)
        else:
            batch[name] = rng.standard_normal(shape).astype(np.float32)
    number, views, tokens = sizes["B"], sizes["V"], sizes["P"]
    for name in ("prefix_tokens", "question_tokens"):
        batch[name] = rng.integers(0, sizes["N"], batch[name].shape).astype(np.int32)
    batch["prefix_positions"] += np.arange(sizes["S"], dtype=np.int32)[None, :, None]
    batch["question_start"] += np.int32(sizes["S"])
    batch["image_token_index"] += np.arange(views * tokens, dtype=np.int32).reshape(1, views, tokens)
    first = sizes["T"] - sizes["A"]
    batch["answer_positions"] += np.arange(first, sizes["T"], dtype=np.int32)
    batch["answer_mask"] &= np.arange(sizes["T"]) >= first
    batch["depth"] = rng.uniform(0.5, 2.0, batch["depth"].shape).astype(np.float32)
    pose = np.tile(np.eye(4, dtype=np.float32), (number, views, 1, 1))
    pose[:, :, 0, 3] = 0.1 * np.arange(views)
    batch["camera_to_world"] = pose
    height, width = sizes["H"], sizes["W"]
    camera = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], np.float32)
    batch["intrinsics"] = np.tile(camera, (number, views, 1, 1))
    batch["scene_scale_m"] = np.full(number, 2.0, np.float32)
    batch["record_index"] = np.arange(number, dtype=np.int32)
    return batch
