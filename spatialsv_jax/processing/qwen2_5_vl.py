"""Processor of Qwen2.5-VL: ChatML text, pictures at multiples of 28 pixels, three-part positions, video.

A prompt is: system message, then in the user's turn all pictures, the question, and the answer's turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spatialsv_jax.processing.base import Pixels, Prefix, check_pictures
from spatialsv_jax.processing.grid_pictures import CLIP_MEAN, CLIP_STD, GridPictures, pixel_budget
from spatialsv_jax.processing.pretrained import (
    PretrainedText,
    TextSettings,
    colours,
    picture_settings,
    read_json,
    write_byte_tokenizer,
)

SYSTEM = "You are a helpful assistant."
FRAME_PIXELS = (128 * 28 * 28, 768 * 28 * 28)  # of a video's frame


@dataclasses.dataclass(frozen=True)
class VideoSettings:
    """Frames of a video.

    Attributes:
      frames: frames of one patch.
      tokens_per_second: how far the time position moves in a second.
      min_pixels, max_pixels: budget of a frame's area.
    """

    frames: int = 2
    tokens_per_second: int = 2
    min_pixels: int = FRAME_PIXELS[0]
    max_pixels: int = FRAME_PIXELS[1]


class Qwen25VLProcessor(PretrainedText):
    """See `processing.base.Processor`.

    Args:
      directory: folder with the tokenizer and the other side files.
      text, pictures, video: its settings.

    Raises:
      ValueError: a tokenizer of another family.
    """

    family = "qwen2_5_vl"
    special = {
        "pad": "<|endoftext|>",
        "end": "<|im_end|>",
        "image": "<|image_pad|>",
        "video": "<|video_pad|>",
        "start": "<|vision_start|>",
        "stop": "<|vision_end|>",
    }
    frames = 2  # of one patch, where a checkpoint does not say
    budget = (4 * 28 * 28, 16384 * 28 * 28)  # of a picture's area, where a checkpoint does not say
    after = "<|im_end|>\n<|im_start|>assistant\n"

    def __init__(self, directory: str | Path, text: TextSettings, pictures: GridPictures, video: VideoSettings):
        super().__init__(directory, text)
        self.pictures, self.video = pictures, video
        self.grid_hw = pictures.grid_hw

    @classmethod
    def from_checkpoint(cls, directory: str | Path, image_size: tuple[int, int] | None = None) -> Qwen25VLProcessor:
        """The processor of a Hugging Face folder, for training at `image_size` (height, width; 448 x 448 if None).

        Raises:
          ValueError: a file is missing or broken, or ids of config.json are not those of the tokenizer.
        """
        directory = Path(directory)
        config, settings = read_json(directory / "config.json"), picture_settings(directory)
        vision = config["vision_config"]
        least, most = pixel_budget(settings, cls.budget)
        pictures = GridPictures(
            image_size=image_size or (448, 448),
            patch_size=vision["patch_size"],
            merge=vision.get("spatial_merge_size", 2),
            min_pixels=least,
            max_pixels=most,
            **colours(settings, CLIP_MEAN, CLIP_STD),
        )
        vocabulary = config.get("text_config", config)["vocab_size"]
        # Folders without settings for frames: those of pictures, as in transformers.
        budget = pixel_budget(picture_settings(directory, "video") or settings, cls.budget)
        video = VideoSettings(
            vision.get("temporal_patch_size", cls.frames), vision.get("tokens_per_second", 4), *budget
        )
        processor = cls(directory, TextSettings(SYSTEM, vocabulary), pictures, video)
        processor.check_ids(
            config, {"image_token_id": "image", "video_token_id": "video", "vision_start_token_id": "start"}
        )
        return processor

    @classmethod
    def from_scratch(cls, directory: str | Path, vision) -> Qwen25VLProcessor:
        """A processor that spells bytes, for a model that starts from nothing; its tokenizer goes to `directory`."""
        pictures = GridPictures(vision.image_size, vision.patch_size, vision.merge, *cls.budget)
        text = TextSettings(SYSTEM, write_byte_tokenizer(directory, [*cls.special.values(), "<|im_start|>"]))
        return cls(directory, text, pictures, VideoSettings(getattr(vision, "frames", 1)))

    @classmethod
    def load(cls, directory: str | Path) -> Qwen25VLProcessor:
        """What `save` wrote."""
        values = read_json(Path(directory) / "processor.json")
        text = TextSettings(values["system"], values["vocab_size"])
        return cls(directory, text, GridPictures(**values["pictures"]), VideoSettings(**values["video"]))

    def save(self, directory: str | Path) -> None:
        """Copies the tokenizer and all other side files and writes processor.json."""
        self.save_text(
            directory, {"pictures": dataclasses.asdict(self.pictures), "video": dataclasses.asdict(self.video)}
        )

    def resized(self, image_size: tuple[int, int]) -> Qwen25VLProcessor:
        """The same with another training size (height, width)."""
        pictures = dataclasses.replace(self.pictures, image_size=image_size)
        return type(self)(self.directory, self.text, pictures, self.video)

    def fitting_size(self, height: int, width: int) -> tuple[int, int]:
        """See `GridPictures.fitting_size`."""
        return self.pictures.fitting_size(height, width)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of training pictures."""
        return self.pictures.image_size

    def encode_prefix(self, num_views: int) -> Prefix:
        """System message and `num_views` pictures of the training size; K = 3."""
        if num_views < 0:
            raise ValueError(f"A prefix cannot have {num_views} views.")
        return self._prefix([self.grid_hw] * num_views)

    def pixels(
        self, images: Sequence[np.ndarray], label_size: tuple[int, int] | None = None, out: np.ndarray | None = None
    ) -> Pixels:
        """The whole of each picture stretched to the training size; see `GridPictures.canvas`."""
        return self.pictures.canvas(images, [self.image_size] * len(images), label_size, out)

    def native(self, images: Sequence[np.ndarray]) -> tuple[Prefix, Pixels]:
        """Pictures at the sizes of the published rule, each in its own proportions."""
        check_pictures(images)
        sizes = [self.pictures.native_size(*image.shape[:2]) for image in images]
        return self._prefix([self.pictures.grid(size) for size in sizes]), self.pictures.canvas(images, sizes)

    def native_video(self, frames: Sequence[np.ndarray], frames_per_second: float) -> tuple[Prefix, Pixels]:
        """A video: pairs of frames are one step in time, the last frame is repeated where one is missing.

        Args:
          frames: uint8[h,w,3] of one size, in order of time.
          frames_per_second: of these frames, not of the file that they were taken from.

        Returns:
          Prefix and pixels float32[steps,2,h,w,3]. Time positions advance by
          tokens_per_second * seconds, whole numbers; those of the text go on from the larger side of the
          frames' grid, as in transformers.

        Raises:
          ValueError: no frames, or frames of different sizes.
        """
        shapes = {np.asarray(frame).shape for frame in frames}
        if len(shapes) != 1:
            raise ValueError(f"Frames of a video must have one size, found {sorted(shapes)}.")
        together = self.video.frames
        frames = [*frames, *[frames[-1]] * (-len(frames) % together)]
        rule = dataclasses.replace(self.pictures, min_pixels=self.video.min_pixels, max_pixels=self.video.max_pixels)
        size = rule.native_size(*frames[0].shape[:2])
        seen = [self.pictures.canvas([frame], [size]) for frame in frames]
        values = np.concatenate([one.pixel_values for one in seen])
        steps = len(frames) // together
        prefix = self._prefix(
            [self.pictures.grid(size)] * steps, self.video.tokens_per_second * together / frames_per_second
        )
        first = seen[::together]
        return prefix, Pixels(
            values if together == 1 else values.reshape(steps, together, *values.shape[1:]),
            np.concatenate([one.label_affine for one in first]),
            np.concatenate([one.covered for one in first]),
        )

    def resize(self, image: np.ndarray) -> np.ndarray:
        """uint8[h,w,3] stretched to the training size."""
        return self.pictures.resize(image, self.image_size)

    def _prefix(self, grids: Sequence[tuple[int, int]], time_step: float | None = None) -> Prefix:
        """The prefix of pictures with these grids, or with `time_step` of a video of them.

        Features are numbered row by row over the largest grid, as they stand on the canvas.
        """
        rows, columns = (max(grid[axis] for grid in grids) for axis in range(2)) if grids else self.grid_hw
        tokens = self.encode(f"<|im_start|>system\n{self.text.system}<|im_end|>\n<|im_start|>user\n")
        positions = [_same(0, len(tokens))]
        index = np.zeros((len(grids), rows, columns), np.int32)
        valid = np.zeros((len(grids), rows, columns), bool)
        here = len(tokens)  # position of the next token
        for number, (height, width) in enumerate(grids):
            step = 0 if time_step is None else int(number * time_step)
            if time_step is None or number == 0:
                tokens.append(self.ids["start"])
                positions.append(_same(here, 1))
                here += 1
            count = height * width
            index[number, :height, :width] = len(tokens) + np.arange(count).reshape(height, width)
            valid[number, :height, :width] = True
            tokens += [self.ids["image" if time_step is None else "video"]] * count
            row, column = np.indices((height, width)).reshape(2, -1)
            positions.append(np.stack([np.full(count, here + step), here + row, here + column], axis=1))
            if time_step is None or number == len(grids) - 1:
                here += max(height, width)
                tokens.append(self.ids["stop"])
                positions.append(_same(here, 1))
                here += 1
        index, valid = (array.reshape(len(grids), rows * columns) for array in (index, valid))
        return Prefix(
            tokens=np.asarray(tokens, np.int32),
            positions=np.concatenate(positions).astype(np.int32),
            image_token_index=index,
            question_start=here,
            feature_valid=None if valid.all() else valid,
        )


def _same(start: int, count: int) -> np.ndarray:
    """Positions of `count` text tokens: equal on all three axes."""
    return np.repeat(np.arange(start, start + count)[:, None], 3, axis=1)
