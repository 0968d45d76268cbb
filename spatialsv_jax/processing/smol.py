"""Processor of `smol`: our square pictures, and the text of a pretrained small language model in ChatML.

A prompt announces each picture as "image 1: "; the picture's places are an unused special token of the vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from spatialsv_jax.processing.base import Pixels, Prefix
from spatialsv_jax.processing.pretrained import (
    PretrainedText,
    TextSettings,
    line_positions,
    read_json,
    write_byte_tokenizer,
)
from spatialsv_jax.processing.square_pictures import SquarePictures


class SmolProcessor(PretrainedText):
    """See `processing.base.Processor`.

    Args:
      directory: folder with tokenizer.json.
      text, pictures: its settings.

    Raises:
      ValueError: a tokenizer without ChatML's tokens or without an unused one.
    """

    family = "smol"
    special = {"pad": "<|endoftext|>", "end": "<|im_end|>", "begin": "<|im_start|>", "image": "<empty_output>"}
    before, after = "\n", "<|im_end|>\n<|im_start|>assistant\n"

    def __init__(self, directory: str | Path, text: TextSettings, pictures: SquarePictures):
        super().__init__(directory, text)
        self.pictures, self.grid_hw = pictures, pictures.grid_hw

    @classmethod
    def from_tokenizer(cls, directory: str | Path, tokenizer: Tokenizer, vocab_size: int, vision) -> SmolProcessor:
        """A processor with a language model's tokenizer, which is written to `directory`."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(Path(directory) / "tokenizer.json"))
        return cls(directory, TextSettings("", vocab_size), _pictures(vision))

    @classmethod
    def from_scratch(cls, directory: str | Path, vision) -> SmolProcessor:
        """A processor that spells bytes, for a model that starts from nothing; its tokenizer goes to `directory`."""
        return cls(
            directory, TextSettings("", write_byte_tokenizer(directory, list(cls.special.values()))), _pictures(vision)
        )

    @classmethod
    def load(cls, directory: str | Path) -> SmolProcessor:
        """What `save` wrote."""
        values = read_json(Path(directory) / "processor.json")
        text = TextSettings(values["system"], values["vocab_size"])
        return cls(directory, text, SquarePictures(**values["pictures"]))

    def save(self, directory: str | Path) -> None:
        """Copies the tokenizer and writes processor.json."""
        self.save_text(directory, {"pictures": dataclasses.asdict(self.pictures)})

    def resized(self, image_size: int | None) -> SmolProcessor:
        """The same: the encoder knows one size.

        Raises:
          ValueError: another size is asked for.
        """
        if image_size and image_size != self.image_size:
            raise ValueError(f"This model reads pictures of {self.image_size} pixels, not {image_size}.")
        return self

    @property
    def image_size(self) -> int:
        """Side of the network's square input in pixels."""
        return self.pictures.image_size

    def encode_prefix(self, num_views: int) -> Prefix:
        """The user's turn begins with all pictures; K = 1."""
        if num_views < 0:
            raise ValueError(f"A prefix cannot have {num_views} views.")
        tokens, index = self.encode("<|im_start|>user\n"), []
        count = self.grid_hw[0] * self.grid_hw[1]
        for view in range(num_views):
            tokens += self.encode(f"image {view + 1}: ")
            index.append(np.arange(len(tokens), len(tokens) + count, dtype=np.int32))
            tokens += [self.image_id] * count
        return Prefix(
            np.asarray(tokens, np.int32),
            line_positions(len(tokens)),
            np.reshape(index, (num_views, count)).astype(np.int32),
            len(tokens),
        )

    def pixels(
        self, images: Sequence[np.ndarray], label_size: tuple[int, int] | None = None, out: np.ndarray | None = None
    ) -> Pixels:
        """The whole of each picture stretched to the network's square; see `SquarePictures.pixels`."""
        return self.pictures.pixels(images, label_size, out)

    def native(self, images: Sequence[np.ndarray]) -> tuple[Prefix, Pixels]:
        """This family has one size."""
        return self.encode_prefix(len(images)), self.pixels(images)

    def resize(self, image: np.ndarray) -> np.ndarray:
        """uint8[h,w,3] stretched to the square."""
        return self.pictures.resize(image)


def _pictures(vision) -> SquarePictures:
    return SquarePictures(vision.image_size, vision.patch_size, vision.merge)
