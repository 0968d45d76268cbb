"""The sources that `experiments.prepare` knows. A new data set = one file and one line here."""

from __future__ import annotations

from data_pipelines.sources import posed_rgbd, rooms
from data_pipelines.sources.base import Source

SOURCES: dict[str, Source] = {
    "rooms": rooms.SOURCE,
    "posed_rgbd": posed_rgbd.SOURCE,
}
