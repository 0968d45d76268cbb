"""arkitscenes: Apple's ARKitScenes, raw or 3dod: VIDEO_ID/{lowres_wide, lowres_depth, confidence, *_intrinsics, lowres_wide.traj}.

Files are VIDEO_ID_STAMP.png. `.pincam` files hold `width height fx fy cx cy`; their stamps, and those of depth, may differ
by a millisecond. The trajectory (`stamp`, axis-angle, translation; world-to-camera, about 10 Hz) gives a frame the pose
within 5 ms, or one interpolated between its neighbours. The world's z axis points up: from it each scan's pictures are
turned upright, with their depth, intrinsics and poses.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.flags import flag
from data_pipelines.sources.posed.cameras import Pose, check_pose, from_axis_angle, interpolated, pinhole, posed
from data_pipelines.sources.posed.decoding import header_size
from data_pipelines.sources.posed.pictures import fitted, masked, read_depth, target_size
from data_pipelines.sources.posed.scene import (
    PosedSettings,
    Raw,
    Scene,
    Unusable,
    View,
    hidden,
    number_table,
    numbers_in,
    read_bytes,
    states_of,
    strays,
)
from data_pipelines.sources.posed.source import posed_source

SAME_TIME = 0.005  # seconds: a trajectory's pose that is taken as it is
MOST_GAP = 0.2  # seconds between the two poses that a frame's is interpolated from
_STAMP = re.compile(r"(\d+\.\d+)$")
TURNS = {"up": 0, "left": 1, "down": 2, "right": 3}  # where the sky is -> quarter turns clockwise


@dataclasses.dataclass(frozen=True)
class Settings(PosedSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""

    colour: str = flag("lowres_wide", "pictures to take: lowres_wide (256x192), vga_wide (640x480) or wide (1920x1440)")
    picture: str = flag("colour", "size of the records' pictures: 'colour' (depth is resized by nearest) or 'depth'")
    confidence: int = flag(1, "least confidence of a depth pixel: 0 (all), 1 (medium) or 2 (high)")
    upright: bool = flag(True, "turn pictures upright")

    def problems(self) -> list[str]:
        """What is wrong with the arguments."""
        found = []
        if self.colour not in ("lowres_wide", "vga_wide", "wide"):
            found.append("--colour must be lowres_wide, vga_wide or wide")
        if self.confidence not in (0, 1, 2):
            found.append("--confidence must be 0, 1 or 2")
        return found


class ArkitScenes:
    """The layout; see `posed.scene.Layout`."""

    def folders(self, raw: Path, settings: Settings) -> list[Path]:
        """`raw` itself, the folders in it, or in its Training/ and Validation/."""
        if _root(raw, settings):
            return [raw]
        inner = sorted(path for path in raw.iterdir() if path.is_dir())
        split = [path for path in inner if path.name in ("Training", "Validation")]
        return [path for part in split for path in sorted(part.iterdir()) if path.is_dir()] or inner

    def open(self, folder: Path, settings: Settings) -> Scene | str:
        """See `Layout`."""
        root = _root(folder, settings)
        if root is None:
            return f"no folder {settings.colour}/ in it"
        colour = _by_stamp(root / settings.colour)
        size = next((found for found in map(header_size, colour.values()) if found), None)
        if size is None:
            return f"no readable picture among {len(colour)} in {settings.colour}/"
        depth, cameras = _by_stamp(root / "lowres_depth"), _by_stamp(root / f"{settings.colour}_intrinsics", ".pincam")
        within = 0.0015 if settings.colour == "lowres_wide" else 0.02  # the others have stamps of their own
        kinds = [(depth, np.array(list(depth)), within), (cameras, np.array(list(cameras)), 0.0015)]
        views = []
        for number, (stamp, path) in enumerate(colour.items()):
            files = [_near(found, stamps, stamp, limit) for found, stamps, limit in kinds]
            views.append(View(number, f"{stamp:.3f}", (stamp, str(path), *files)))
        _, lost = number_table(root / "lowres_wide.traj", 7)
        lost += strays(root / settings.colour, colour.values())
        scene = Scene(folder.name, str(root), tuple(views), state=size, left_out=lost)
        sky = sky_direction([pose.matrix for pose in self.poses(scene, settings).values() if pose.matrix is not None])
        return dataclasses.replace(scene, turns=TURNS[sky] if settings.upright else 0, facts={"sky": sky})

    def poses(self, scene: Scene, settings: Settings) -> Mapping[int, Pose]:
        """The trajectory's pose at each frame's time, turned into camera-to-world."""
        rows, _ = number_table(Path(scene.path) / "lowres_wide.traj", 7)
        if not rows.size:
            return {view.number: Pose(None, "no_trajectory") for view in scene.views}
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        with np.errstate(all="ignore"):  # a row with infinity gives NaN, which `check_pose` masks
            known = np.stack([np.linalg.inv(posed(from_axis_angle(row[1:4]), row[4:])) for row in rows])
        found = {}
        for view in scene.views:
            pose = interpolated(rows[:, 0], known, view.key[0], SAME_TIME, MOST_GAP)
            found[view.number] = Pose(None, "no_pose_at_its_time") if pose is None else check_pose(pose)
        return found

    def read(self, scene: Scene, view: View, settings: Settings) -> Raw:
        """See `Layout`."""
        stamp, colour, depth_file, camera_file = view.key
        values = numbers_in(Path(camera_file)) if camera_file else None
        if values is None or values.size != 6 or not np.isfinite(values).all() or min(values[:4]) <= 0:
            raise Unusable(f"no intrinsics (.pincam) at {stamp:.3f}, or not six numbers in them")
        depth, problem = read_depth(Path(depth_file) if depth_file else None, None)
        if depth is not None and settings.confidence:
            depth, problem = masked(depth, self.files(scene, view)["confidence"], settings.confidence)
        size = target_size(scene.state, depth and depth.size, settings.picture)
        own = (int(values[0]), int(values[1]))
        return Raw(
            colour=read_bytes(Path(colour)),
            colour_size=scene.state,
            size=size,
            intrinsics=fitted(pinhole(*values[2:]), own, size),
            depth=depth,
            depth_problem=problem,
        )

    def files(self, scene: Scene, view: View) -> Mapping[str, Path | None]:
        """See `Layout`."""
        _, colour, depth, _ = view.key
        found: dict[str, Path | None] = {"colour": Path(colour), "depth": Path(depth) if depth else None}
        return found | ({"confidence": Path(scene.path) / "confidence" / Path(depth).name} if depth else {})

    def states(self, scene: Scene) -> list[str]:
        """Trajectory and cameras by content, pictures by size and time of change."""
        small = [Path(scene.path) / "lowres_wide.traj", *(Path(view.key[3]) for view in scene.views if view.key[3])]
        return states_of(small, (self.files(scene, view) for view in scene.views))

    def depth_unit(self, settings: Settings) -> float:
        """Millimetres."""
        return 0.001


def sky_direction(poses: list[np.ndarray]) -> str:
    """Where in the pictures the world's z axis points on average: up, left, right or down; up without poses."""
    if not poses:
        return "up"
    x, y, _ = np.mean([pose[:3, :3].T @ [0, 0, 1] for pose in poses], 0)
    found = {"up": -y, "left": -x, "right": x, "down": y}
    return max(found, key=found.get)


def _root(folder: Path, settings: Settings) -> Path | None:
    """The folder that holds the pictures: 3dod has one more level."""
    for place in (folder, folder / f"{folder.name}_frames"):
        if (place / settings.colour).is_dir():
            return place
    return None


def _by_stamp(folder: Path, suffix: str = ".png") -> dict[float, Path]:
    """Stamp -> file, in the order of time."""
    files = folder.glob(f"*{suffix}") if folder.is_dir() else ()
    stamped = ((_STAMP.search(path.name.removesuffix(suffix)), path) for path in files)
    return dict(sorted((float(found[1]), path) for found, path in stamped if found and not hidden(path)))


def _near(files: Mapping[float, Path], stamps: np.ndarray, stamp: float, limit: float) -> str:
    """The file whose stamp (of `stamps`, ascending) is nearest, within `limit` seconds; "" without one."""
    if not files:
        return ""
    after = int(np.searchsorted(stamps, stamp))
    best = min(stamps[max(after - 1, 0) : after + 1], key=lambda other: abs(other - stamp))
    return str(files[float(best)]) if abs(best - stamp) <= limit else ""


SOURCE = posed_source("arkitscenes", "3", Settings, ArkitScenes(), __file__)
