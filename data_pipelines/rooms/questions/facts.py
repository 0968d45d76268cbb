"""What can be read off a room and its views: visible pixels, image positions, distances, angles.

Everything that a question needs is measured here once per record, as arrays over the objects of
the scene (length n, in the order of `Scene.objects`), so that asking many questions stays cheap.

An object is *seen* in a view with at least `SEEN_SHARE` of the picture's pixels, *absent* with no
pixel, and *glimpsed* in between; a glimpsed object is never asked about and never counted.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from data_pipelines.rooms.questions.forms import Words
from data_pipelines.rooms.scene import RenderedView, Scene
from spatialsv_jax.geometry import points_from_depth

SEEN_SHARE = 0.005  # of the picture's pixels: 21 pixels at 64 x 64, 82 at 128 x 128
GRID = 4  # cells per side of the grid of image positions
ROOM_SAMPLES = 16  # pixels per side that are read to see how much of the room the views span
MAX_PITCH_SINE = 0.8  # |z| of the viewing direction; a camera steeper than this has no "facing"


@dataclasses.dataclass(frozen=True)
class ViewFacts:
    """One view; arrays of length n unless said otherwise. x runs right, y down, in [0, 1]."""

    index: int
    pixels: np.ndarray  # int: visible pixels
    seen: np.ndarray  # bool
    absent: np.ndarray  # bool
    x: np.ndarray  # mean image position of the visible pixels
    y: np.ndarray
    cut_left: np.ndarray  # bool: touches that border of the picture
    cut_right: np.ndarray
    cut_top: np.ndarray
    cut_bottom: np.ndarray
    depth_mean: np.ndarray  # metres, z-depth over the visible pixels
    depth_min: np.ndarray
    cell_share: np.ndarray  # float[GRID * GRID, n]: share of the cell's pixels, row-major cells
    cell_depth: np.ndarray  # float[GRID * GRID, 3]: quartiles of the cells' z-depth in metres
    referents: np.ndarray  # bool: seen, and no other visible thing of its colour and category


class Facts:
    """A record's views and the geometry of its objects (metres, the scene's world frame).

    Args:
        scene: the room.
        views: its pictures in prompt order.
        words: categories and colours that questions may name.

    Raises:
        ValueError: no view, or an instance map naming an object that the scene has not.
    """

    def __init__(self, scene: Scene, views: Sequence[RenderedView], words: Words):
        if not views:
            raise ValueError(f"Scene '{scene.id}': no views; questions need at least one.")
        self.scene = scene
        self.words = words
        self.rendered = views
        self.n = len(scene.objects)
        self.category = [thing.category for thing in scene.objects]
        self.colour = [thing.colour for thing in scene.objects]
        self.name = [f"{thing.colour} {thing.category}" for thing in scene.objects]
        identity = {name: number for number, name in enumerate(dict.fromkeys(self.name))}
        self._identity = np.array([identity[name] for name in self.name], int)
        self.views = [self._view_facts(index, view) for index, view in enumerate(views)]
        self.ever = ~np.all([view.absent for view in self.views], axis=0)
        self.seen = np.any([view.seen for view in self.views], axis=0)
        self.glimpsed = self.ever & ~self.seen
        self.referents = self.seen & self._unique(self.ever)
        self.referent_ids = np.flatnonzero(self.referents)

    def _unique(self, present: np.ndarray) -> np.ndarray:
        """bool[n]: no second present object has the same colour and category."""
        counts = np.bincount(self._identity[present], minlength=self.n)
        return counts[self._identity] == 1

    def _view_facts(self, index: int, view: RenderedView) -> ViewFacts:
        instance = view.instance
        height, width = instance.shape
        rows, columns = np.nonzero(instance >= 0)
        ids = instance[rows, columns]
        if len(ids) and int(ids.max()) >= self.n:
            raise ValueError(
                f"Scene '{self.scene.id}', view {index}: the instance map names object {int(ids.max())}, "
                f"but the scene has {self.n}; render the views from this scene."
            )
        depth = view.depth[rows, columns]
        pixels = np.bincount(ids, minlength=self.n)
        safe = np.maximum(pixels, 1)
        edge = np.zeros((4, self.n), bool)
        for side, border in enumerate((instance[:, 0], instance[:, -1], instance[0], instance[-1])):
            edge[side, border[border >= 0]] = True
        depth_min = np.full(self.n, np.inf)
        np.minimum.at(depth_min, ids, depth)
        cell = rows * GRID // height * GRID + columns * GRID // width
        share = np.bincount(cell * self.n + ids, minlength=GRID * GRID * self.n).reshape(GRID * GRID, self.n)
        row_sizes = np.bincount(np.arange(height) * GRID // height, minlength=GRID)
        column_sizes = np.bincount(np.arange(width) * GRID // width, minlength=GRID)
        seen = pixels >= max(1, int(np.ceil(SEEN_SHARE * height * width)))
        return ViewFacts(
            index=index,
            pixels=pixels,
            seen=seen,
            absent=pixels == 0,
            x=(np.bincount(ids, columns, self.n) / safe + 0.5) / width,
            y=(np.bincount(ids, rows, self.n) / safe + 0.5) / height,
            cut_left=edge[0],
            cut_right=edge[1],
            cut_top=edge[2],
            cut_bottom=edge[3],
            depth_mean=np.bincount(ids, depth, self.n) / safe,
            depth_min=depth_min,
            cell_share=share / np.maximum(np.outer(row_sizes, column_sizes).reshape(-1, 1), 1),
            cell_depth=cell_quartiles(view.depth),
            referents=seen & self._unique(pixels > 0),
        )

    @functools.cached_property
    def ground(self) -> np.ndarray:
        """float64[n,2]: box centres on the floor plan."""
        return np.array([thing.centre[:2] for thing in self.scene.objects], float).reshape(self.n, 2)

    @functools.cached_property
    def gap(self) -> np.ndarray:
        """float64[n,n]: distance between the closest points of two boxes."""
        return box_gaps(self.scene)

    @functools.cached_property
    def separation(self) -> np.ndarray:
        """float64[n,n]: distance between box centres on the floor plan."""
        return np.linalg.norm(self.ground[:, None] - self.ground[None], axis=-1)

    @functools.cached_property
    def bearing(self) -> np.ndarray:
        """float64[n,n,n] degrees in (-180, 180]: standing at a, facing b, the angle to c; left is positive."""
        step = self.ground[None] - self.ground[:, None]
        heading = np.arctan2(step[..., 1], step[..., 0])
        return _wrap_degrees(heading[:, None, :] - heading[:, :, None])

    @functools.cached_property
    def turn(self) -> np.ndarray:
        """float64[n,n,n] degrees: walking from a to b and on to c, the turn at b; left is positive."""
        step = self.ground[None] - self.ground[:, None]
        heading = np.arctan2(step[..., 1], step[..., 0])
        return _wrap_degrees(heading[None, :, :] - heading[:, :, None])

    @functools.cached_property
    def view_bearing(self) -> np.ndarray:
        """float64[V,n] degrees: standing at a view, facing as it does, the angle to an object; left is positive.

        NaN where the view looks too steeply up or down to have a facing direction.
        """
        poses = np.stack([view.camera_to_world for view in self.rendered])
        forward = poses[:, :3, 2]
        step = self.ground[None] - poses[:, None, :2, 3]
        angle = np.arctan2(step[..., 1], step[..., 0]) - np.arctan2(forward[:, 1], forward[:, 0])[:, None]
        return np.where(np.abs(forward[:, 2:3]) <= MAX_PITCH_SINE, _wrap_degrees(angle), np.nan)

    @functools.cached_property
    def view_separation(self) -> np.ndarray:
        """float64[V,n] metres on the floor plan, camera to box centre."""
        eyes = np.stack([view.camera_to_world[:2, 3] for view in self.rendered])
        return np.linalg.norm(self.ground[None] - eyes[:, None], axis=-1)

    @functools.cached_property
    def view_gap(self) -> np.ndarray:
        """float64[V,n] metres, camera centre to the closest point of a box."""
        eyes = np.stack([view.camera_to_world[:3, 3] for view in self.rendered])
        centre, half, axes = _boxes(self.scene)
        local = eyes[:, None] - centre[None]
        flat = np.einsum("vni,nki->vnk", local[..., :2], axes)
        local = np.concatenate([flat, local[..., 2:]], axis=-1)
        return np.linalg.norm(np.maximum(np.abs(local) - half[None], 0.0), axis=-1)

    @functools.cached_property
    def span_share(self) -> float:
        """The smaller share of the room's two sides that visible points (camera centres at no depth) extend over."""
        depth = np.stack([view.depth for view in self.rendered]).astype(float)
        step = max(1, min(depth.shape[1:]) // ROOM_SAMPLES)
        intrinsics = np.stack([view.intrinsics for view in self.rendered])
        intrinsics[:, :2] /= step
        intrinsics[:, :2, 2] += 0.5 - 0.5 / step  # pixel centres stay at +0.5 on the thinned grid
        poses = np.stack([view.camera_to_world for view in self.rendered])
        points = points_from_depth(depth[:, ::step, ::step], intrinsics, poses)[..., :2].reshape(-1, 2)
        return float(np.min((points.max(0) - points.min(0)) / self.scene.size[:2]))


def cell_quartiles(depth: np.ndarray) -> np.ndarray:
    """float[GRID * GRID,3]: first quartile, median and third quartile of a depth map in each cell, row-major."""
    height, width = depth.shape
    rows, columns = (-(-np.arange(GRID + 1) * side // GRID) for side in (height, width))
    result = np.zeros((GRID * GRID, 3))
    for cell in range(GRID * GRID):
        row, column = divmod(cell, GRID)
        inside = np.sort(depth[rows[row] : rows[row + 1], columns[column] : columns[column + 1]], axis=None)
        if len(inside):
            result[cell] = inside[np.array([len(inside) // 4, len(inside) // 2, 3 * len(inside) // 4])]
    return result


def _wrap_degrees(radians: np.ndarray) -> np.ndarray:
    return 180.0 - (180.0 - np.degrees(radians)) % 360.0


def _boxes(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres [n,3], half sizes [n,3] and horizontal axes [n,2 (axis),2 (xy)] of the objects' boxes."""
    count = len(scene.objects)
    centre = np.array([thing.centre for thing in scene.objects], float).reshape(count, 3)
    half = np.array([thing.size for thing in scene.objects], float).reshape(count, 3) / 2
    yaw = np.array([thing.yaw for thing in scene.objects], float)
    axes = np.stack([np.stack([np.cos(yaw), np.sin(yaw)], -1), np.stack([-np.sin(yaw), np.cos(yaw)], -1)], axis=1)
    return centre, half, axes


def box_gaps(scene: Scene) -> np.ndarray:
    """Distance between the closest points of every two oriented boxes, 0 where they touch or overlap.

    Boxes turn about the vertical only, so the gap is the hypotenuse of the vertical gap and the gap
    of the two rectangles of the floor plan; the latter lies at a corner of one of them.

    Returns:
        float64[n,n] metres, symmetric, zero diagonal.
    """
    centre, half, axes = _boxes(scene)
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]], float)
    corners = centre[:, None, :2] + np.einsum("ck,nk,nki->nci", signs, half[:, :2], axes)
    # Corners of box a in the frame of box b: distance to rectangle b.
    local = np.einsum("abcd,bkd->abck", corners[:, None] - centre[None, :, None, :2], axes)
    outside = np.linalg.norm(np.maximum(np.abs(local) - half[None, :, None, :2], 0.0), axis=-1).min(axis=-1)
    flat = np.minimum(outside, outside.T)
    flat[_overlapping(corners, axes)] = 0.0
    vertical = np.abs(centre[:, None, 2] - centre[None, :, 2]) - half[:, None, 2] - half[None, :, 2]
    gap = np.hypot(flat, np.maximum(vertical, 0.0))
    np.fill_diagonal(gap, 0.0)
    return gap


def _overlapping(corners: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """bool[n,n]: rectangles that overlap on the floor plan, by the separating axis theorem."""
    onto = np.einsum("acd,bkd->abkc", corners, axes)  # corners of box a along the axes of box b
    low, high = onto.min(-1), onto.max(-1)
    own = np.arange(len(axes))
    own_low, own_high = low[own, own], high[own, own]
    apart = ((low > own_high[None]) | (high < own_low[None])).any(-1)
    return ~(apart | apart.T)
