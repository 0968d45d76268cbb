"""The sources that `experiments.prepare` knows. A new data set = one file and one line here."""

from __future__ import annotations

from data_pipelines.sources import (
    arkitscenes,
    colmap,
    nerfstudio,
    posed_rgbd,
    rooms,
    scannet,
    scannetpp,
    sevenscenes,
    tum,
)
from data_pipelines.sources.base import Source

SOURCES: dict[str, Source] = {
    "rooms": rooms.SOURCE,
    "posed_rgbd": posed_rgbd.SOURCE,
    "scannet": scannet.SOURCE,
    "scannetpp": scannetpp.SOURCE,
    "arkitscenes": arkitscenes.SOURCE,
    "sevenscenes": sevenscenes.SOURCE,
    "tum": tum.SOURCE,
    "nerfstudio": nerfstudio.SOURCE,
    "colmap": colmap.SOURCE,
}
