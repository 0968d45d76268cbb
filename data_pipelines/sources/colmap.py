"""colmap: reconstructions of COLMAP: images/ and a sparse model (sparse/0, sparse or the folder itself; text or binary).

Depth is that of a dense workspace, stereo/depth_maps/NAME.geometric.bin (or photometric). Lenses are undistorted, unless the
workspace did so already. The model's unit is unknown, so records have no metric scale; poses and depth are multiplied by
one power of ten per scene, so that 16-bit steps of 0.001 resolve the depth.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.cameras import Pose
from data_pipelines.sources.posed.colmap_files import Camera, model_files, read_dense_depth, read_model
from data_pipelines.sources.posed.pictures import depth_from_metres, fitted, stated_size, target_size
from data_pipelines.sources.posed.scene import (
    Depth,
    PosedSettings,
    Raw,
    Scene,
    View,
    inside,
    natural,
    read_bytes,
    states_of,
    strays,
)
from data_pipelines.sources.posed.source import posed_source

STEP = 0.001


@dataclasses.dataclass(frozen=True)
class Settings(PosedSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""

    picture: str = flag("colour", "size of the records' pictures: 'colour' (depth is resized by nearest) or 'depth'")
    depth: str = flag("geometric", "dense depth maps to take: geometric or photometric")

    def problems(self) -> list[str]:
        """What is wrong with the arguments."""
        return [] if self.depth in ("geometric", "photometric") else ["--depth must be geometric or photometric"]


class Colmap:
    """The layout; see `posed.scene.Layout`."""

    def folders(self, raw: Path, settings: Settings) -> list[Path]:
        """`raw` itself, or the folders in it."""
        return [raw] if _model(raw) else sorted(path for path in raw.iterdir() if path.is_dir())

    def open(self, folder: Path, settings: Settings) -> Scene | str:
        """See `Layout`."""
        model = _model(folder)
        if model is None:
            return "no sparse model (cameras and images, .bin or .txt) in it, its sparse/ or sparse/0/"
        cameras, images = read_model(model)
        if not images:
            return f"no picture in {model.relative_to(folder.parent)}"
        if not (folder / "images").is_dir():
            raise PrepareError(f"{folder} has no images/, which its model refers to.")
        views = []
        for number, image in enumerate(sorted(images, key=lambda image: natural(image.name))):
            path = inside(folder / "images", image.name, settings.links)
            depth = folder / "stereo" / "depth_maps" / f"{image.name}.{settings.depth}.bin"
            views.append(View(number, image.name, (str(path), str(depth) if depth.is_file() else "", image.camera)))
        used = [view.key[0] for view in views]
        lost = [one for place in dict.fromkeys(Path(path).parent for path in used) for one in strays(place, used)]
        facts = {"scale": _factor(views)}
        return Scene(folder.name, str(model), tuple(views), facts=facts, state=cameras, left_out=tuple(lost))

    def poses(self, scene: Scene, settings: Settings) -> Mapping[int, Pose]:
        """Camera-to-world, in the scene's scale."""
        found = {image.name: image.pose for image in read_model(Path(scene.path))[1]}
        for pose in found.values():
            if pose.matrix is not None:
                pose.matrix[:3, 3] *= scene.facts["scale"]
        return {view.number: found[view.name] for view in scene.views}

    def read(self, scene: Scene, view: View, settings: Settings) -> Raw:
        """See `Layout`."""
        colour, depth_file, identity = view.key
        camera: Camera = scene.state[identity]
        data = read_bytes(Path(colour))
        found = stated_size(data, Path(colour).name)
        depth, problem = _depth(depth_file, scene.facts["scale"])
        size = target_size(found, depth and depth.size, settings.picture)
        return Raw(
            colour=data,
            colour_size=None,
            size=size,
            intrinsics=fitted(camera.intrinsics, camera.size, size),
            depth=depth,
            depth_problem=problem,
            distortion=camera.distortion,
        )

    def files(self, scene: Scene, view: View) -> Mapping[str, Path | None]:
        """See `Layout`."""
        colour, depth, _ = view.key
        return {"colour": Path(colour), "depth": Path(depth) if depth else None}

    def states(self, scene: Scene) -> list[str]:
        """The model by content, pictures by size and time of change."""
        return states_of(model_files(Path(scene.path)), (self.files(scene, view) for view in scene.views))

    def depth_unit(self, settings: Settings) -> float:
        """Unknown."""
        return 0.0


def _model(folder: Path) -> Path | None:
    for place in (folder / "sparse" / "0", folder / "sparse", folder / "sparse_bin" / "0", folder):
        if any((place / f"images{suffix}").is_file() for suffix in (".bin", ".txt")):
            return place
    return None


def _factor(views: list[View]) -> float:
    """The power of ten that brings the median of a scene's first dense depth map to 1..10."""
    for view in views:
        depth = read_dense_depth(Path(view.key[1])) if view.key[1] else None
        good = None if depth is None else depth[np.isfinite(depth) & (depth > 0)]
        if good is not None and good.size:
            return 10.0 ** -math.floor(math.log10(float(np.median(good))))
    return 1.0


def _depth(name: str, scale: float) -> tuple[Depth | None, str]:
    if not name:
        return None, "no_file"
    values = read_dense_depth(Path(name))
    if values is None:
        return None, "undecodable"
    depth = depth_from_metres(values.astype(np.float64) * scale, STEP)
    return (depth, "") if depth.steps.any() else (None, "no_valid_pixel")


SOURCE = posed_source("colmap", "3", Settings, Colmap(), __file__)
