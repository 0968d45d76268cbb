"""Processor of LLaVA-NeXT-Video: Vicuna text, views as frames of a video or as any-resolution pictures.

A frame is scaled until its shorter side fits the tile, and the centre is cropped. An any-resolution picture is
the whole of it stretched to one tile, and then, scaled into the best of a few canvases and cut into tiles, a
second time in detail; the padding's tokens are left out and each row of tokens ends with a newline token. The
lifting grid is the frame's pooled grid, or the whole picture's tile.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from spatialsv_jax.processing.base import Pixels, Prefix, check_pictures
from spatialsv_jax.processing.pretrained import (
    PretrainedText,
    TextSettings,
    colours,
    line_positions,
    normalise_all,
    picture_settings,
    read_json,
    write_byte_tokenizer,
)

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CANVASES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))  # (height, width)


@dataclasses.dataclass(frozen=True)
class CropSettings:
    """Tiles and canvases.

    Attributes:
      image_size: () = views are frames of a video in training; (height, width) = pictures of this size.
      tile: pixels of a tile's side; patch: of a patch's; pool: patches of a frame's token's side.
      canvases: (height, width) into which pictures are scaled, multiples of the tile.
      mean, std: of the colours, RGB in 0..1.
    """

    image_size: tuple[int, ...]
    tile: int
    patch: int
    pool: int = 2
    canvases: tuple = CANVASES
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    def __post_init__(self):
        for name in ("image_size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "canvases", tuple(tuple(size) for size in self.canvases))
        if self.image_size and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise ValueError(f"image_size {self.image_size} must be (height, width), or () for frames of a video.")

    @property
    def side(self) -> int:
        """Patches of a tile's side."""
        return self.tile // self.patch


class CropLayout(NamedTuple):
    """How a picture is cut: canvas, and which of its rows and columns of patches show the picture."""

    canvas: tuple[int, int]  # (height, width) in pixels
    rows: slice  # of the canvas' patches
    columns: slice


def best_canvas(height: int, width: int, canvases: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The canvas that keeps most pixels of a picture, and of those the one that wastes least.

    Source: the published rule, equal to transformers' `select_best_resolution`.
    """
    best, kept, wasted = canvases[0], 0, float("inf")
    for canvas in canvases:
        scale = min(canvas[1] / width, canvas[0] / height)
        used = min(int(width * scale) * int(height * scale), width * height)
        waste = canvas[0] * canvas[1] - used
        if used > kept or (used == kept and waste < wasted):
            best, kept, wasted = canvas, used, waste
    return best


def scaled_size(height: int, width: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture that fills its canvas in one direction, rounded up."""
    across, down = canvas[1] / width, canvas[0] / height
    if across < down:
        return min(math.ceil(height * across), canvas[0]), canvas[1]
    return canvas[0], min(math.ceil(width * down), canvas[1])


class LlavaNextVideoProcessor(PretrainedText):
    """See `processing.base.Processor`.

    Args:
      directory: folder with the tokenizer and the other side files.
      text, crops: its settings.

    Raises:
      ValueError: a tokenizer of another family.
    """

    family = "llava_next_video"
    special = {"pad": "<pad>", "end": "</s>", "begin": "<s>", "image": "<image>", "video": "<video>"}
    before, after, between = "\n", " ASSISTANT:", "USER: "
    alone = "USER: "  # not in the prefix, because the space belongs to the first word

    def __init__(self, directory: str | Path, text: TextSettings, crops: CropSettings):
        super().__init__(directory, text)
        self.crops = crops
        self.grid_hw = (crops.side if crops.image_size else crops.side // crops.pool,) * 2

    @classmethod
    def from_checkpoint(
        cls, directory: str | Path, image_size: tuple[int, ...] | None = None
    ) -> LlavaNextVideoProcessor:
        """The processor of a Hugging Face folder; `image_size` as in `CropSettings`.

        Raises:
          ValueError: a file is missing or broken, or ids of config.json are not those of the tokenizer.
        """
        directory = Path(directory)
        config, settings = read_json(directory / "config.json"), picture_settings(directory)
        vision, text = config["vision_config"], config["text_config"]
        crops = CropSettings(
            image_size=tuple(image_size or ()),
            tile=vision.get("image_size", 336),
            patch=vision.get("patch_size", 14),
            pool=config.get("spatial_pool_stride", 2),
            canvases=config.get("image_grid_pinpoints") or settings.get("image_grid_pinpoints") or CANVASES,
            **colours(settings, CLIP_MEAN, CLIP_STD),
        )
        processor = cls(directory, TextSettings("", text.get("vocab_size", 32000)), crops)
        processor.check_ids(config, {"image_token_index": "image", "video_token_index": "video"})
        return processor

    @classmethod
    def from_scratch(cls, directory: str | Path, vision) -> LlavaNextVideoProcessor:
        """A processor that spells bytes, for a model that starts from nothing; its tokenizer goes to `directory`."""
        tile = vision.tile_size
        canvases = [(height * tile // 336, width * tile // 336) for height, width in CANVASES]
        text = TextSettings("", write_byte_tokenizer(directory, list(cls.special.values())))
        return cls(directory, text, CropSettings(vision.image_size, tile, vision.patch_size, vision.pool, canvases))

    @classmethod
    def load(cls, directory: str | Path) -> LlavaNextVideoProcessor:
        """What `save` wrote."""
        values = read_json(Path(directory) / "processor.json")
        return cls(directory, TextSettings(values["system"], values["vocab_size"]), CropSettings(**values["crops"]))

    def save(self, directory: str | Path) -> None:
        """Copies the tokenizer and all other side files and writes processor.json."""
        self.save_text(directory, {"crops": dataclasses.asdict(self.crops)})

    def resized(self, image_size: tuple[int, ...] | None) -> LlavaNextVideoProcessor:
        """The same with another training size, see `CropSettings`."""
        return type(self)(
            self.directory, self.text, dataclasses.replace(self.crops, image_size=tuple(image_size or ()))
        )

    def fitting_size(self, height: int, width: int) -> tuple[int, ...]:
        """Of pictures, the size in their best canvas of those with no more tokens than the training size; frames have one.

        Sides are multiples of four patches, so that like pictures share a size.
        """
        if not self.image_size:
            return ()
        step, own, fitting = 4 * self.crops.patch, self._tokens(self.image_size), {}
        for canvas in self.crops.canvases:
            scaled = scaled_size(height, width, canvas)
            size = tuple(min(max(step, round(s / step) * step), most) for s, most in zip(scaled, canvas, strict=True))
            if self._tokens(size) <= own:
                fitting[canvas] = size
        return fitting[best_canvas(height, width, list(fitting))] if fitting else self.image_size

    def _tokens(self, size: tuple[int, int]) -> int:
        """Tokens of a picture of `size` (height, width): its tile, then its own patches and a newline for each row."""
        layout = self._layout(*size)
        rows, columns = (side // self.crops.patch for side in layout.canvas)
        return self.crops.side**2 + len(range(rows)[layout.rows]) * (len(range(columns)[layout.columns]) + 1)

    @property
    def image_size(self) -> tuple[int, ...]:
        """See `CropSettings`."""
        return self.crops.image_size

    def encode_prefix(self, num_views: int) -> Prefix:
        """`num_views` frames of a video, or pictures of the training size; K = 1."""
        if num_views < 0:
            raise ValueError(f"A prefix cannot have {num_views} views.")
        if not num_views:
            return self._empty_prefix()
        if self.image_size:
            return self._picture_prefix([self._layout(*self.image_size)] * num_views)
        return self._frame_prefix(num_views)

    def pixels(
        self, images: Sequence[np.ndarray], label_size: tuple[int, int] | None = None, out: np.ndarray | None = None
    ) -> Pixels:
        """The centre of each picture as a frame, or the whole of it stretched to the training size.

        Label maps cover exactly the pixels of the lifting grid: the centre crop of a frame, the whole of a
        picture. Pixel coordinates are measured from the corner, centres at +0.5.

        Args:
          images: uint8[h,w,3], sizes may differ.
          label_size: (H, W) of the label maps; a tile by default.
          out: float32[n,h,w,3] of the tiles that takes the pixels, or None.

        Raises:
          ValueError: pictures that `check_pictures` refuses.
        """
        check_pictures(images)
        if not self.image_size:
            return self._frames(images, label_size, out)
        stretched = [_stretch(np.asarray(image), self.image_size) for image in images]
        tiles = [tile for image in stretched for tile in self._cut(image, self._layout(*self.image_size))]
        return self._whole(images, tiles, label_size, out)

    def native(self, images: Sequence[np.ndarray]) -> tuple[Prefix, Pixels]:
        """Any-resolution pictures, each in its own proportions."""
        check_pictures(images)
        images = [np.asarray(image) for image in images]
        layouts = [self._layout(*image.shape[:2]) for image in images]
        cut = [tile for image, layout in zip(images, layouts, strict=True) for tile in self._cut(image, layout)]
        return self._picture_prefix(layouts), self._whole(images, cut, None)

    def native_video(self, frames: Sequence[np.ndarray], frames_per_second: float) -> tuple[Prefix, Pixels]:
        """Frames of a video; the model is not told the time."""
        check_pictures(frames)
        return self._frame_prefix(len(frames)), self._frames(frames, None)

    def resize(self, image: np.ndarray) -> np.ndarray:
        """uint8[h,w,3] as the tile that is lifted: a frame's centre, or the whole picture stretched."""
        image = np.asarray(image)
        if self.image_size:
            return _stretch(_stretch(image, self.image_size), (self.crops.tile,) * 2)
        return self._centre(image)[0]

    def _centre(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The centre of a frame whose shorter side fits the tile, and float64[2,3] from it to the picture."""
        tile, (height, width) = self.crops.tile, image.shape[:2]
        size = [int(tile * side / min(height, width)) for side in (height, width)]
        size[int(np.argmin((height, width)))] = tile
        top, left = (size[0] - tile) // 2, (size[1] - tile) // 2
        across, down = width / size[1], height / size[0]
        affine = np.array([[across, 0, left * across], [0, down, top * down]])
        return _stretch(image, (size[0], size[1]))[top : top + tile, left : left + tile], affine

    def _frames(self, images: Sequence[np.ndarray], label_size: tuple[int, int] | None, out=None) -> Pixels:
        height, width = label_size or (self.crops.tile,) * 2
        centres = [self._centre(np.asarray(image)) for image in images]
        affine = np.stack([affine for _, affine in centres])
        affine[:, :, 0] *= self.crops.tile / width
        affine[:, :, 1] *= self.crops.tile / height
        values = normalise_all([tile for tile, _ in centres], self.crops.mean, self.crops.std, out)
        return Pixels(values, affine, np.ones((len(images), height, width), bool))

    def _whole(self, images, tiles: Sequence[np.ndarray], label_size: tuple[int, int] | None, out=None) -> Pixels:
        height, width = label_size or (self.crops.tile,) * 2
        affine = np.zeros((len(images), 2, 3))
        affine[:, 0, 0] = [np.asarray(image).shape[1] / width for image in images]
        affine[:, 1, 1] = [np.asarray(image).shape[0] / height for image in images]
        values = normalise_all(tiles, self.crops.mean, self.crops.std, out)
        return Pixels(values, affine, np.ones((len(images), height, width), bool))

    def _layout(self, height: int, width: int) -> CropLayout:
        """Canvas of a picture, and its patches without the padding (whole patches, by the published rounding)."""
        canvas = best_canvas(height, width, self.crops.canvases)
        rows, columns = canvas[0] // self.crops.patch, canvas[1] // self.crops.patch
        cut = [0, 0]
        if width / height > columns / rows:
            cut[0] = (rows - int(round(height * (columns / width), 7))) // 2
        else:
            cut[1] = (columns - int(round(width * (rows / height), 7))) // 2
        return CropLayout(canvas, slice(cut[0], rows - cut[0]), slice(cut[1], columns - cut[1]))

    def _cut(self, image: np.ndarray, layout: CropLayout) -> list[np.ndarray]:
        """The whole picture as a tile, then the tiles of its canvas, row by row; padding is black."""
        tile, (height, width) = self.crops.tile, layout.canvas
        size = scaled_size(*image.shape[:2], layout.canvas)
        canvas = np.zeros((height, width, 3), np.uint8)
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        canvas[top : top + size[0], left : left + size[1]] = _stretch(image, size)
        tiles = canvas.reshape(height // tile, tile, width // tile, tile, 3).transpose(0, 2, 1, 3, 4)
        return [_stretch(image, (tile, tile)), *tiles.reshape(-1, tile, tile, 3)]

    def _head(self) -> list[int]:
        return [self.ids["begin"], *self.encode("USER: ")]

    def _empty_prefix(self) -> Prefix:
        """What stands before a question without pictures, with the fields that the others have."""
        side, begin = self.grid_hw[0], np.array([self.ids["begin"]], np.int32)
        slots = np.zeros((0, side * (side + 1)), np.int32) if self.image_size else None
        valid = None if slots is None else slots.astype(bool)
        return Prefix(begin, line_positions(1), np.zeros((0, side * side), np.int32), 1, slots, valid)

    def _frame_prefix(self, count: int) -> Prefix:
        tokens, size = self._head(), (self.crops.side // self.crops.pool) ** 2
        index = len(tokens) + np.arange(count * size, dtype=np.int32).reshape(count, size)
        tokens += [self.ids["video"]] * (count * size)
        return Prefix(np.asarray(tokens, np.int32), line_positions(len(tokens)), index, len(tokens))

    def _picture_prefix(self, layouts: Sequence[CropLayout]) -> Prefix:
        """The prefix of pictures: the whole one's grid, then rows of the crops' patches, each with a newline."""
        tokens, side = self._head(), self.crops.side
        slots, shown = [], []
        for number, layout in enumerate(layouts):
            if number:
                tokens += self.encode("\n")
            whole = len(tokens) + np.arange(side * side).reshape(side, side)
            slots.append(np.concatenate([whole.reshape(-1), np.full(side, -1)]))
            shown.append(whole.reshape(-1))
            rows, columns = layout.canvas[0] // self.crops.patch, layout.canvas[1] // self.crops.patch
            own = np.full((rows, columns + 1), -1)
            height, width = len(range(rows)[layout.rows]), len(range(columns)[layout.columns])
            places = len(tokens) + side * side + np.arange(height * (width + 1)).reshape(height, width + 1)
            own[layout.rows, layout.columns], own[layout.rows, -1] = places[:, :-1], places[:, -1]
            for row in range(rows // side):
                for column in range(columns // side):
                    here = own[row * side : (row + 1) * side]
                    last = column == columns // side - 1  # the newline follows the last tile of a row
                    ends = here[:, -1] if last else np.full(side, -1)
                    slots.append(np.concatenate([here[:, column * side : (column + 1) * side].reshape(-1), ends]))
            tokens += [self.image_id] * (side * side + places.size)
        slots = np.stack(slots)
        return Prefix(
            tokens=np.asarray(tokens, np.int32),
            positions=line_positions(len(tokens)),
            image_token_index=np.stack(shown).astype(np.int32),
            question_start=len(tokens),
            feature_slots=np.maximum(slots, 0).astype(np.int32),
            feature_valid=slots >= 0,
        )


def _stretch(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """uint8[h,w,3] at `size` (height, width), antialiased."""
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))
