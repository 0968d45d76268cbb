"""Which frames of a scene make a record: the named samplers. The frames' numbers are kept in each record's metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from data_pipelines.sources.posed.cameras import Pose
from data_pipelines.sources.posed.pictures import Frame
from data_pipelines.sources.posed.scene import PosedSettings, View

Read = Callable[[View], Frame | None]  # None: the frame cannot be used
PoseOf = Callable[[View], Pose]


def windows(
    views: Sequence[View], settings: PosedSettings, read: Read, pose: PoseOf, offset: int = 0
) -> Iterator[list[Frame]]:
    """Every `stride`-th usable frame in runs of `views`, starting anew every `hop` views."""
    hop, held, ahead = settings.hop or settings.views, [], 0
    for view in views[offset :: settings.stride]:
        if ahead:  # a hop wider than the views passes over frames
            ahead -= 1
            continue
        frame = read(view)
        if frame is not None:
            held.append(frame)
        if len(held) == settings.views:
            yield list(held)
            del held[:hop]
            ahead = max(0, hop - settings.views)


def interleaved(views, settings: PosedSettings, read: Read, pose: PoseOf) -> Iterator[list[Frame]]:
    """The windows of every starting frame: each frame is used once."""
    for offset in range(settings.stride):
        yield from windows(views, settings, read, pose, offset)


def uniform(views, settings: PosedSettings, read: Read, pose: PoseOf) -> Iterator[list[Frame]]:
    """Records whose views are spread evenly over the frames; each slot gives its first usable frame."""
    count, wanted = len(views), settings.views
    records = min(settings.records_per_scene, count // wanted)
    edges = [int(slot * count / (wanted * records)) for slot in range(wanted * records + 1)] if records else []
    for record in range(records):
        frames = []
        for view in range(wanted):
            slot = view * records + record
            candidates = (read(view) for view in views[edges[slot] : edges[slot + 1]])
            frames.append(next((frame for frame in candidates if frame is not None), None))
        if all(frames):
            yield frames


def first(views, settings: PosedSettings, read: Read, pose: PoseOf) -> Iterator[list[Frame]]:
    """One record of the first usable frames."""
    frames = []
    for view in views:
        if (frame := read(view)) is not None:
            frames.append(frame)
        if len(frames) == settings.views:
            yield frames
            return


def spread(views, settings: PosedSettings, read: Read, pose: PoseOf) -> Iterator[list[Frame]]:
    """Records of views that lie far apart and look different ways, in the order of their numbers.

    Record r begins with a frame at its share of the scene and adds, again and again, the frame whose least distance
    to those chosen is largest: metres over the scene's extent plus the angle between the views over 180 degrees. Each
    frame is used once; frames without a pose are left out.
    """
    views = [view for view in views if pose(view).matrix is not None]
    if len(views) < settings.views:
        return
    poses = np.stack([pose(view).matrix for view in views])
    centres, forward = poses[:, :3, 3], poses[:, :3, 2]
    extent = max(float(np.linalg.norm(np.ptp(centres, 0))), 1e-9)
    free = np.ones(len(views), bool)
    records = min(settings.records_per_scene, len(views) // settings.views)
    for record in range(records):
        least, chosen, start = np.full(len(views), np.inf), [], record * len(views) // records
        while len(chosen) < settings.views and free.any():
            # The first of the record: the next free frame from its start on; ties go to the lower number.
            place = int(np.argmax(np.roll(free, -start)) + start) % len(views) if not chosen else int(
                np.argmax(np.where(free, least, -1.0))
            )  # fmt: skip
            free[place] = False
            frame = read(views[place])
            if frame is None:
                continue
            chosen.append((place, frame))
            cosine = np.clip(forward @ forward[place], -1, 1)
            distance = np.linalg.norm(centres - centres[place], axis=1) / extent + np.arccos(cosine) / np.pi
            least = np.minimum(least, distance)
        if len(chosen) == settings.views:
            yield [frame for _, frame in sorted(chosen, key=lambda entry: entry[0])]


SAMPLERS = {"windows": windows, "stride": interleaved, "uniform": uniform, "first": first, "spread": spread}
WHOLE_SCENE = ("uniform", "first", "spread")  # samplers that a scene cannot be cut into stretches for


def visited(frames: int, settings: PosedSettings) -> int:
    """How many of `frames` a sampler opens, for the progress bar."""
    if settings.sampler == "first":
        return min(settings.views, frames)
    if settings.sampler in WHOLE_SCENE:
        return min(settings.records_per_scene, frames // settings.views) * settings.views
    return frames if settings.sampler == "stride" else -(-frames // settings.stride)
