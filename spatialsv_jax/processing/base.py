"""What every processor hands out: tokens of the prefix, of a question, and pixels. No jax here.

A processor owns everything that a model family does to pictures and text before the network:
image size and normalisation, chat template, special tokens, positions. Heads, losses and label
import see only `image_token_index`, `grid_hw`, `label_affine` and `covered`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

MAX_PICTURES = 64  # of one prompt
MAX_ASPECT = 200  # longer side of a picture to its shorter one


class Prefix(NamedTuple):
    """Everything up to and past the last image, identical for all questions on the same views."""

    tokens: np.ndarray  # int32[S]
    positions: np.ndarray  # int32[S,K] rotary positions
    image_token_index: np.ndarray  # int32[V,P] index into S, row-major over the lifting grid
    question_start: int  # rotary position of a question's token 0
    feature_slots: np.ndarray | None = None  # int32[X,R] where the encoder's features go; None: image_token_index
    feature_valid: np.ndarray | None = None  # bool[X,R] which of them go anywhere; None: all


class EncodedQuestion(NamedTuple):
    """A question, then (in training) its answer and the end token."""

    tokens: np.ndarray  # int32[T]
    answer_mask: np.ndarray  # bool[T], True on the answer's tokens and the end token


class Pixels(NamedTuple):
    """Pictures as the vision encoder reads them, and where the label grid lies in them."""

    pixel_values: np.ndarray  # float32[V,...] layout of the family
    label_affine: np.ndarray  # float64[V,2,3]: [x, y] original pixels = affine @ [u, v, 1] label pixels
    covered: np.ndarray  # bool[V,H,W]: the label pixel shows the picture (False in padding)


@dataclasses.dataclass(frozen=True)
class ModelInputs:
    """One sample, ready for collation: prefix, questions and pixels of V views."""

    tokens: np.ndarray  # int32[S]
    pixel_values: np.ndarray  # float32[V,...]
    positions: np.ndarray  # int32[S,K]
    image_token_index: np.ndarray  # int32[V,P]
    question_start: int
    questions: tuple[EncodedQuestion, ...]
    grid_hw: tuple[int, int]  # P = gh * gw
    label_affine: np.ndarray  # float64[V,2,3]
    covered: np.ndarray  # bool[V,H,W]


class Processor(Protocol):
    """The contract between pictures and text on one side and a model family on the other."""

    image_size: int | tuple[int, ...]  # of training pictures: a square's side, (height, width), or () for frames
    grid_hw: tuple[int, int]  # lifting grid of one view
    pad_id: int
    end_id: int  # ends every answer that is learned
    stop_ids: tuple[int, ...]  # end an answer that is generated; end_id is the first
    image_id: int
    vocab_size: int
    option_form: tuple[str, str]  # what stands before an option, and "{letter} {text}" of one

    def encode_prefix(self, num_views: int) -> Prefix:
        """Tokens of `num_views` pictures, in prompt order; 0 = what stands before a question without pictures."""

    def fitting_size(self, height: int, width: int):
        """The `image_size`, of at most as many tokens as the processor's own, that distorts such a picture least."""

    def encode_question(
        self, text: str, answer: str | None = None, first: bool = True, pictures: bool = True
    ) -> EncodedQuestion:
        """Tokens of one question; with `answer`, of the answer and the end token too.

        `first` False: of a later turn; `pictures` False: behind a prefix of none.
        """

    def native(self, images: Sequence[np.ndarray]) -> tuple[Prefix, Pixels]:
        """Pictures at the sizes that the published model would choose, for answering without labels."""

    def pixels(
        self, images: Sequence[np.ndarray], label_size: tuple[int, int] | None = None, out: np.ndarray | None = None
    ) -> Pixels:
        """Pictures (uint8[h,w,3], any sizes) as network input; `label_size` is (H, W) of the label maps.

        `out`, float32 of the right shape, takes the pixels: a batch's memory is filled without a copy.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids up to the first end token, without special tokens."""

    def save(self, directory: str | Path) -> None:
        """Writes all that `load` needs into `directory`."""

    def __call__(
        self, images: Sequence[np.ndarray], messages: Sequence[Mapping[str, str]], label_size=None
    ) -> ModelInputs:
        """One sample from pictures and chat messages; see `compose`."""


def check_pictures(images: Sequence[np.ndarray]) -> None:
    """Refuses what no family reads.

    Raises:
      ValueError: no picture, more than `MAX_PICTURES`, one that is not uint8[h,w,3], or one whose sides differ by
        more than `MAX_ASPECT` times.
    """
    if not len(images):
        raise ValueError("No picture was given.")
    if len(images) > MAX_PICTURES:
        raise ValueError(f"{len(images)} pictures were given; one prompt holds at most {MAX_PICTURES}. Choose some.")
    for number, image in enumerate(images):
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"Picture {number} is {image.dtype}{list(image.shape)}, expected uint8[h, w, 3] (RGB).")
        height, width = image.shape[:2]
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise ValueError(
                f"Picture {number} is {height} x {width} (height x width): its sides differ by more than {MAX_ASPECT} "
                "times, and no part of it would be left after scaling. Crop it."
            )


def compose(
    processor: Processor,
    images: Sequence[np.ndarray],
    messages: Sequence[Mapping[str, str]],
    label_size: tuple[int, int] | None = None,
) -> ModelInputs:
    """Prefix, questions and pixels of one sample.

    Args:
      processor: any processor.
      images: the views in prompt order, uint8[h,w,3].
      messages: `{"role": "user" | "assistant", "content": text}`. Each user message is one
        question about the pictures, independent of the others; an assistant message behind it is
        its answer.
      label_size: (H, W) of the label maps.

    Raises:
      ValueError: an unknown role, or an answer without a question before it.
    """
    questions: list[tuple[str, str | None]] = []
    for number, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role == "user":
            questions.append((content, None))
        elif role == "assistant" and questions and questions[-1][1] is None:
            questions[-1] = (questions[-1][0], content)
        else:
            raise ValueError(
                f"Message {number} has role '{role}'. Expected 'user', or 'assistant' right after a 'user' message."
            )
    prefix = processor.encode_prefix(len(images))
    pixels = processor.pixels(images, label_size)
    return ModelInputs(
        tokens=prefix.tokens,
        pixel_values=pixels.pixel_values,
        positions=prefix.positions,
        image_token_index=prefix.image_token_index,
        question_start=prefix.question_start,
        questions=tuple(processor.encode_question(text, answer) for text, answer in questions),
        grid_hw=processor.grid_hw,
        label_affine=pixels.label_affine,
        covered=pixels.covered,
    )
