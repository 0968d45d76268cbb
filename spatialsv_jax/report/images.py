"""Pictures of maps and point clouds, and their way into a page.

All cameras are OpenCV (x right, y down, z forward), pixel centres at (u + 0.5, v + 0.5).
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

BACKDROP = (18, 21, 27)  # of rendered clouds: dark in both page themes
MOST_REACH = 12  # fine pixels from the middle of a splat to its edge


def encode(image: np.ndarray, form: str = "PNG", quality: int = 88) -> bytes:
    """uint8[H,W], uint8[H,W,3 or 4] or uint16[H,W] as the bytes of a PNG or JPEG file."""
    buffer = io.BytesIO()
    options = {"quality": quality} if form == "JPEG" else {"optimize": True}
    picture = _with_palette(image) if form == "PNG" and image.ndim == 3 and image.shape[2] == 4 else None
    (picture or Image.fromarray(np.ascontiguousarray(image))).save(buffer, form, **options)
    return buffer.getvalue()


def _with_palette(image: np.ndarray) -> Image.Image | None:
    """uint8[H,W,4] with a table of its colours, a third of the bytes as a file; None for more than 256 colours."""
    packed = np.ascontiguousarray(image).view(np.uint32)[..., 0]
    table, places = np.unique(packed, return_inverse=True)
    if len(table) > 256:
        return None
    colours = table[:, None].view(np.uint8)
    picture = Image.fromarray(places.reshape(packed.shape).astype(np.uint8), "P")
    picture.putpalette(colours[:, :3].tobytes())
    picture.info["transparency"] = colours[:, 3].tobytes()
    return picture


def data_uri(image: np.ndarray, form: str = "PNG") -> str:
    """The picture as a `data:` URI, so that a page needs no other file."""
    return data_uri_of(encode(image, form), form)


def data_uri_of(file: bytes, form: str = "PNG") -> str:
    """A picture file as a `data:` URI."""
    return f"data:image/{form.lower()};base64,{base64.b64encode(file).decode('ascii')}"


def shrink(image: np.ndarray, longest: int = 384) -> np.ndarray:
    """uint8[H,W,3] at most `longest` pixels on its longer side; smaller pictures unchanged."""
    height, width = image.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def value_range(*pairs: tuple[np.ndarray, np.ndarray], low: float = 2.0, high: float = 98.0) -> tuple[float, float]:
    """One colour scale for several maps: percentiles of the (values, mask) pairs together; (0, 1) if all are empty."""
    values = np.concatenate([np.asarray(values)[np.asarray(mask)].ravel() for values, mask in pairs])
    if not len(values):
        return 0.0, 1.0
    bottom, top = (float(value) for value in np.percentile(values, [low, high]))
    return bottom, top if top > bottom else bottom + max(1e-6, abs(bottom) * 1e-3)


def colourise(values: np.ndarray, mask: np.ndarray, scale: tuple[float, float], colours: str) -> np.ndarray:
    """A map as uint8[H,W,4] in matplotlib's colour map `colours`; transparent where not `mask`.

    Args:
      values: float[H,W].
      mask: bool[H,W].
      scale: values shown by the first and the last colour; values outside take the end colours.
      colours: name of a matplotlib colour map.
    """
    import matplotlib

    low, high = scale
    shown = np.clip((np.where(mask, values, low) - low) / (high - low), 0, 1)
    picture = (matplotlib.colormaps[colours](shown) * 255 + 0.5).astype(np.uint8)
    picture[~np.asarray(mask)] = 0
    return picture


def gradient_css(colours: str, stops: int = 9) -> str:
    """The colour map as a CSS gradient from left (low) to right (high), for legends."""
    import matplotlib
    from matplotlib.colors import to_hex

    table = matplotlib.colormaps[colours]
    return f"linear-gradient(to right, {', '.join(to_hex(table(i / (stops - 1))) for i in range(stops))})"


def look_at(eye: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Camera-to-world float64[4,4] at `eye` looking at `target`, image y pointing against `up`."""
    forward = np.asarray(target, np.float64) - eye
    forward /= max(np.linalg.norm(forward), 1e-12)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-6:
        right = np.cross(forward, [0.0, 0.0, 1.0] if abs(forward[2]) < 0.9 else [1.0, 0.0, 0.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(forward, right), forward, eye
    return pose


def two_viewpoints(points: np.ndarray, up: np.ndarray = (0.0, -1.0, 0.0)) -> list[np.ndarray]:
    """Two cameras that show a cloud whose frame is its first camera's: over the shoulder, and from high on the side.

    Args:
      points: float[N,3]; the cameras depend on its 5th to 95th percentiles only.
      up: the upward direction in the frame of the points.

    Returns:
      Two camera-to-world matrices float64[4,4].
    """
    up = np.asarray(up, np.float64) / np.linalg.norm(up)
    if len(points):
        low, high = np.percentile(points, [5, 95], axis=0)
    else:
        low, high = np.array([-0.5, -0.5, 0.5]), np.array([0.5, 0.5, 1.5])
    centre, reach = (low + high) / 2, max(float(np.linalg.norm(high - low)), 1e-3)
    forward = centre - up * (centre @ up)
    forward = forward / np.linalg.norm(forward) if np.linalg.norm(forward) > 1e-3 * reach else np.array([0.0, 0.0, 1.0])
    side = np.cross(forward, up)
    eyes = (
        centre + reach * (-0.95 * forward + 0.38 * up + 0.22 * side),
        centre + reach * (-0.36 * forward + 1.00 * up - 0.58 * side),
    )
    return [look_at(eye, centre, up) for eye in eyes]


def render_cloud(
    points: np.ndarray,
    colours: np.ndarray,
    camera_to_world: np.ndarray,
    size: tuple[int, int] = (300, 400),
    field_of_view: float = 52.0,
    radius: np.ndarray | float = 0.01,
    normals: np.ndarray | None = None,
) -> np.ndarray:
    """A picture of a cloud: z-buffered square splats at twice the size, edge shading, then averaged down.

    Args:
      points: float[N,3] in the world frame.
      colours: uint8[N,3].
      camera_to_world: float[4,4].
      size: height and width of the picture in pixels.
      field_of_view: horizontal, in degrees.
      radius: half the edge of a splat in world units, one number or float[N]; drawn with 1 to 12 fine pixels.
      normals: float[N,3]; points that turn their back are left out, so a room is seen into from outside.

    Returns:
      uint8[height,width,3]; uncovered pixels show `BACKDROP`.
    """
    height, width = size[0] * 2, size[1] * 2
    focal = width / 2 / np.tan(np.radians(field_of_view) / 2)
    local = (np.asarray(points, np.float64) - camera_to_world[:3, 3]) @ camera_to_world[:3, :3]
    ahead = local[:, 2] > 1e-3
    if normals is not None:
        ahead &= np.einsum("ij,ij->i", np.asarray(points, np.float64) - camera_to_world[:3, 3], normals) <= 0
    local, shades = local[ahead], np.asarray(colours)[ahead]
    radii = np.broadcast_to(np.asarray(radius, np.float64), ahead.shape)[ahead]
    depth = local[:, 2]
    column = np.floor(local[:, 0] / depth * focal + width / 2).clip(-1e6, 1e6).astype(np.int64)
    row = np.floor(local[:, 1] / depth * focal + height / 2).clip(-1e6, 1e6).astype(np.int64)
    reach = np.clip(np.round(radii / depth * focal), 1, MOST_REACH).astype(np.int64)
    image = np.empty((height * width, 3), np.float64)
    image[:] = BACKDROP
    buffer = np.full(height * width, np.inf)
    pixels, order = [], []
    for step in range(1, MOST_REACH + 1):
        chosen = np.flatnonzero(reach == step)
        if not len(chosen):
            continue
        window = np.arange(-step, step + 1)
        v = row[chosen, None, None] + window[:, None]
        u = column[chosen, None, None] + window
        inside = (v >= 0) & (v < height) & (u >= 0) & (u < width)
        pixels.append((v * width + u)[inside])
        order.append(np.broadcast_to(chosen[:, None, None], inside.shape)[inside])
    if pixels:
        pixels, order = np.concatenate(pixels), np.concatenate(order)
        np.minimum.at(buffer, pixels, depth[order])
        nearest = depth[order] == buffer[pixels]
        image[pixels[nearest]] = shades[order[nearest]]
    image = image.reshape(height, width, 3) * _edge_shade(buffer.reshape(height, width))[..., None]
    small = image.reshape(size[0], 2, size[1], 2, 3).mean((1, 3))
    return (small + 0.5).clip(0, 255).astype(np.uint8)


def _edge_shade(depth: np.ndarray, strength: float = 6.0) -> np.ndarray:
    """Darkens pixels that lie behind a neighbour, so that shapes stand off each other without lights."""
    filled = np.isfinite(depth)
    logarithm = np.where(filled, np.log(np.where(filled, depth, 1.0)), np.inf)
    behind = np.zeros(depth.shape)
    padded = np.pad(logarithm, 2, constant_values=np.inf)
    height, width = depth.shape
    for down, right in ((0, 2), (0, -2), (2, 0), (-2, 0)):
        neighbour = padded[2 + down : 2 + down + height, 2 + right : 2 + right + width]
        step = np.where(filled & np.isfinite(neighbour), logarithm - np.where(np.isfinite(neighbour), neighbour, 0), 0)
        behind += np.clip(np.where(filled, step, 0), 0, 0.15)
    return np.where(filled, np.exp(-strength * behind / 4), 1.0)


def splat_radii(points: np.ndarray) -> np.ndarray:
    """Half the gap to the nearer neighbour along x or along y, the larger of both: float64[V,H,W].

    Args:
      points: float[V,H,W,3], H and W at least 2.
    """
    gaps = []
    for axis in (1, 2):
        gap = np.linalg.norm(np.diff(np.asarray(points, np.float64), axis=axis), axis=-1)
        before = np.concatenate([gap, np.take(gap, [-1], axis)], axis)
        after = np.concatenate([np.take(gap, [0], axis), gap], axis)
        gaps.append(np.minimum(before, after))
    return np.maximum(*gaps) / 2
