"""Processor of InternVL3: ChatML text, square tiles, a thumbnail where there are several.

In training a view is one tile, the whole picture stretched. To answer as the published model would, a picture
is stretched to the arrangement of up to twelve tiles that is closest to its proportions and cut, and the whole
of it follows as one more tile; that thumbnail is the view's lifting grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

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

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The original layout's conversation template begins with this; the `-hf` template has no system message.
SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"


@dataclasses.dataclass(frozen=True)
class TileSettings:
    """Tiles.

    Attributes:
      tile: pixels of a tile's side; unit: pixels of a token's side.
      min_tiles, max_tiles: of one picture, the thumbnail not counted.
      numbered: whether several pictures are announced as "Image-1: ", as in the original layout.
      mean, std: of the colours, RGB in 0..1.
    """

    tile: int
    unit: int
    min_tiles: int = 1
    max_tiles: int = 12
    numbered: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def arrangement(height: int, width: int, tile: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """(rows, columns) of tiles for a picture: the proportions closest to its own.

    Of arrangements with equal proportions the one with more tiles is taken while the picture has more than half
    of its pixels. Source: the published rule, equal to transformers' `get_optimal_tiled_canvas`.
    """
    pairs = [(columns, rows) for columns in range(1, max_tiles + 1) for rows in range(1, max_tiles + 1)]
    pairs = sorted(
        (pair for pair in pairs if min_tiles <= pair[0] * pair[1] <= max_tiles), key=lambda pair: pair[0] * pair[1]
    )
    best, closest = (1, 1), float("inf")
    for columns, rows in pairs:
        difference = abs(width / height - columns / rows)
        if difference < closest:
            best, closest = (columns, rows), difference
        elif difference == closest and width * height > 0.5 * tile * tile * columns * rows:
            best = (columns, rows)
    return best[1], best[0]


class InternVL3Processor(PretrainedText):
    """See `processing.base.Processor`.

    Args:
      directory: folder with the tokenizer and the other side files.
      text, tiles: its settings.

    Raises:
      ValueError: a tokenizer of another family.
    """

    family = "internvl3"
    special = {
        "pad": "<|endoftext|>",
        "end": "<|im_end|>",
        "image": "<IMG_CONTEXT>",
        "start": "<img>",
        "stop": "</img>",
    }
    before, after = "\n", "<|im_end|>\n<|im_start|>assistant\n"

    def __init__(self, directory: str | Path, text: TextSettings, tiles: TileSettings):
        super().__init__(directory, text)
        self.tiles = tiles
        self.grid_hw = (tiles.tile // tiles.unit,) * 2

    @classmethod
    def from_checkpoint(cls, directory: str | Path, image_size: tuple[int, int] | None = None) -> InternVL3Processor:
        """The processor of a Hugging Face folder of either layout.

        Raises:
          ValueError: a file is missing or broken, ids of config.json are not those of the tokenizer, or another
            `image_size` than that of the tiles.
        """
        directory = Path(directory)
        config, settings = read_json(directory / "config.json"), picture_settings(directory)
        original = config["model_type"] == "internvl_chat"
        vision, text = config["vision_config"], config["llm_config" if original else "text_config"]
        tile, patch = (
            size[0] if isinstance(size, list) else size
            for size in (config.get("force_image_size") or vision["image_size"], vision["patch_size"])
        )
        tiles = TileSettings(
            tile=tile,
            unit=round(patch / config.get("downsample_ratio", 0.5)),
            min_tiles=config.get("min_dynamic_patch") or settings.get("min_patches") or 1,
            max_tiles=config.get("max_dynamic_patch") or settings.get("max_patches") or 12,
            numbered=original,
            **colours(settings, IMAGENET_MEAN, IMAGENET_STD),
        )
        processor = cls(directory, TextSettings(SYSTEM if original else "", text["vocab_size"]), tiles)
        processor.check_ids(config, {"image_token_id": "image"})
        return processor.resized(image_size)

    @classmethod
    def from_scratch(cls, directory: str | Path, vision) -> InternVL3Processor:
        """A processor that spells bytes, for a model that starts from nothing; its tokenizer goes to `directory`."""
        text = TextSettings("", write_byte_tokenizer(directory, [*cls.special.values(), "<|im_start|>"]))
        return cls(directory, text, TileSettings(vision.tile_size, vision.patch_size * vision.merge))

    @classmethod
    def load(cls, directory: str | Path) -> InternVL3Processor:
        """What `save` wrote."""
        values = read_json(Path(directory) / "processor.json")
        return cls(directory, TextSettings(values["system"], values["vocab_size"]), TileSettings(**values["tiles"]))

    def save(self, directory: str | Path) -> None:
        """Copies the tokenizer and all other side files and writes processor.json."""
        self.save_text(directory, {"tiles": dataclasses.asdict(self.tiles)})

    def resized(self, image_size: tuple[int, int] | None) -> InternVL3Processor:
        """The same: this family has one size of pictures.

        Raises:
          ValueError: another size is asked for.
        """
        if image_size and tuple(image_size) != self.image_size:
            raise ValueError(f"InternVL3 reads tiles of {self.image_size}, not {tuple(image_size)}.")
        return self

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of training pictures: one tile."""
        return (self.tiles.tile, self.tiles.tile)

    def encode_prefix(self, num_views: int) -> Prefix:
        """System message, where there is one, and `num_views` pictures of one tile; K = 1."""
        if num_views < 0:
            raise ValueError(f"A prefix cannot have {num_views} views.")
        return self._prefix([1] * num_views)

    def pixels(
        self, images: Sequence[np.ndarray], label_size: tuple[int, int] | None = None, out: np.ndarray | None = None
    ) -> Pixels:
        """The whole of each picture stretched to a tile.

        A label pixel (u, v) of an H x W map lies at (u * w / W, v * h / H) of a w x h picture; pixel coordinates
        are measured from the corner, centres at +0.5.

        Args:
          images: uint8[h,w,3], sizes may differ.
          label_size: (H, W) of the label maps; a tile by default.
          out: float32[n,h,w,3] of the tiles that takes the pixels, or None.

        Raises:
          ValueError: pictures that `check_pictures` refuses.
        """
        check_pictures(images)
        return self._pixels(images, [self.resize(image) for image in images], label_size, out)

    def native(self, images: Sequence[np.ndarray]) -> tuple[Prefix, Pixels]:
        """Pictures cut into tiles by the published rule."""
        check_pictures(images)
        cut = [self._cut(np.asarray(image)) for image in images]
        return self._prefix([len(tiles) for tiles in cut]), self._pixels(images, sum(cut, []), None)

    def native_video(self, frames: Sequence[np.ndarray], frames_per_second: float) -> tuple[Prefix, Pixels]:
        """A video: every frame one tile, announced as "Frame1: "; the model is not told the time."""
        check_pictures(frames)
        announce = [f"Frame{number + 1}: " for number in range(len(frames))]
        return self._prefix([1] * len(frames), announce), self.pixels(frames)

    def resize(self, image: np.ndarray) -> np.ndarray:
        """uint8[h,w,3] stretched to a tile, antialiased."""
        return self._stretch(np.asarray(image), 1, 1)

    def _stretch(self, image: np.ndarray, rows: int, columns: int) -> np.ndarray:
        height, width = rows * self.tiles.tile, columns * self.tiles.tile
        if image.shape[:2] == (height, width):
            return image
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))

    def _cut(self, image: np.ndarray) -> list[np.ndarray]:
        """The tiles of a picture, row by row, and the thumbnail last (alone if there is one tile)."""
        settings = self.tiles
        rows, columns = arrangement(*image.shape[:2], settings.tile, settings.min_tiles, settings.max_tiles)
        if rows * columns == 1:
            return [self.resize(image)]
        large = self._stretch(image, rows, columns)
        large = large.reshape(rows, settings.tile, columns, settings.tile, 3).transpose(0, 2, 1, 3, 4)
        return [*large.reshape(-1, settings.tile, settings.tile, 3), self.resize(image)]

    def _pixels(self, images, tiles: Sequence[np.ndarray], label_size: tuple[int, int] | None, out=None) -> Pixels:
        height, width = label_size or self.image_size
        affine = np.zeros((len(images), 2, 3))
        affine[:, 0, 0] = [np.asarray(image).shape[1] / width for image in images]
        affine[:, 1, 1] = [np.asarray(image).shape[0] / height for image in images]
        values = normalise_all(tiles, self.tiles.mean, self.tiles.std, out)
        return Pixels(values, affine, np.ones((len(images), height, width), bool))

    def _prefix(self, counts: Sequence[int], announce: Sequence[str] = ()) -> Prefix:
        """The prefix of pictures with `counts` tiles each."""
        head = f"<|im_start|>system\n{self.text.system}<|im_end|>\n" if self.text.system else ""
        if not announce and self.tiles.numbered and len(counts) > 1:
            announce = [f"Image-{number + 1}: " for number in range(len(counts))]
        tokens = self.encode(f"{head}<|im_start|>user\n" + (announce[0] if announce else ""))
        size, slots, shown = self.grid_hw[0] * self.grid_hw[1], [], []
        for number, count in enumerate(counts):
            if number:
                tokens += self.encode("\n" + (announce[number] if announce else ""))
            tokens.append(self.ids["start"])
            for _ in range(count):
                slots.append(np.arange(len(tokens), len(tokens) + size, dtype=np.int32))
                tokens += [self.image_id] * size
            tokens.append(self.ids["stop"])
            shown.append(slots[-1])
        return Prefix(
            tokens=np.asarray(tokens, np.int32),
            positions=line_positions(len(tokens)),
            image_token_index=np.reshape(shown, (len(shown), size)).astype(np.int32),
            question_start=len(tokens),
            feature_slots=np.stack(slots) if len(slots) > len(shown) else None,
            feature_valid=np.ones((len(slots), size), bool) if len(slots) > len(shown) else None,
        )
