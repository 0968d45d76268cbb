"""Whether depth and cameras of a scene's views belong together: what one view measures, another must see there too."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipelines.labels.arrival import agreement_of
from data_pipelines.sources.posed.cameras import scaled
from data_pipelines.sources.posed.pictures import Frame, nearest

DOUBTFUL = 0.8  # agreement below which poses or depth are probably read in another way than they were written
_SIDE = 160  # longest side of the maps that are compared
_VIEWS = 8  # of a record that are compared


def agreement_of_frames(frames: Sequence[Frame], unit: float) -> float | None:
    """The agreement of the first views of a record that have depth and pose, None where no view sees another.

    Args:
      frames: of one record.
      unit: length of a depth step, in the unit of the poses.
    """
    used = [frame for frame in frames if frame.depth and frame.pose_valid][:_VIEWS]
    if len(used) < 2:
        return None
    steps = [np.asarray(Image.open(io.BytesIO(frame.depth))) for frame in used]
    sizes = [one.shape[::-1] for one in steps]
    factor = min(1.0, _SIDE / max(sizes[0]))
    size = tuple(max(1, round(side * factor)) for side in sizes[0])
    depth = np.stack([nearest(one, size) for one in steps]) * unit
    intrinsics = [scaled(frame.intrinsics, own, size) for frame, own in zip(used, sizes, strict=True)]
    return agreement_of(depth, np.stack(intrinsics), np.stack([frame.camera_to_world for frame in used]), depth > 0)
