"""A scene as one picture: the same maps and clouds as its part of the page, for TensorBoard."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from spatialsv_jax.report import scene_section
from spatialsv_jax.report.figure import SceneFigure, shown_points

LABEL_WIDTH, GAP = 104, 4
CLOUD_SIZE = (200, 150)  # width, height
PAPER, INK = (255, 255, 255), (29, 33, 41)  # as in the page


def card(figure: SceneFigure, tile: int = 128) -> np.ndarray:
    """uint8[H,W,3]: a row of the views' pictures, a row for each kind of map, then the clouds from one viewpoint.

    Args:
      figure: what to show.
      tile: longer side of a view's picture and maps in pixels.
    """
    rows = [("picture", [np.asarray(picture) for picture in figure.images])]
    rows += [(_label(row), row.pictures) for row in scene_section.map_rows(figure)]
    strips = []
    for label, pictures in rows:
        sizes = [_fitted(np.shape(figure.images[v])[:2], tile) for v in range(len(pictures))]
        strips.append(_strip(label, [_resized(one, size) for one, size in zip(pictures, sizes, strict=True)]))
    clouds = scene_section.drawn_clouds(figure, shown_points(figure))
    if clouds:
        pictures = [_resized(one[0], CLOUD_SIZE) for one in scene_section.cloud_pictures(clouds).values()]
        strips.append(_strip(",\n".join(clouds), pictures))
    height = sum(strip.height for strip in strips) + GAP * (len(strips) + 1) + 14
    sheet = Image.new("RGB", (max(strip.width for strip in strips), height), PAPER)
    ImageDraw.Draw(sheet).text((GAP, GAP), ", ".join((figure.title, *figure.tags)), INK)
    top = 14 + GAP
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height + GAP
    return np.asarray(sheet)


def _label(row: scene_section.MapRow) -> str:
    return f"{row.label}\n{row.scale[0]:.2f} to {row.scale[1]:.2f}"


def _fitted(shape: tuple[int, int], tile: int) -> tuple[int, int]:
    """(width, height) of a picture whose longer side is `tile`."""
    factor = tile / max(shape)
    return max(1, round(shape[1] * factor)), max(1, round(shape[0] * factor))


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8[h,w,3]; maps keep their pixels, and what is transparent shows the paper."""
    image = Image.fromarray(picture)
    image = image.resize(size, Image.Resampling.NEAREST if picture.shape[2] == 4 else Image.Resampling.LANCZOS)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", size, (*PAPER, 255)), image)
    return np.asarray(image.convert("RGB"))


def _strip(label: str, pictures: list[np.ndarray]) -> Image.Image:
    """Pictures in a row behind their label."""
    width = LABEL_WIDTH + sum(picture.shape[1] + GAP for picture in pictures)
    strip = Image.new("RGB", (width, max(picture.shape[0] for picture in pictures)), PAPER)
    ImageDraw.Draw(strip).multiline_text((GAP, 2), label, INK)
    left = LABEL_WIDTH
    for picture in pictures:
        strip.paste(Image.fromarray(picture), (left, 0))
        left += picture.shape[1] + GAP
    return strip
