"""The sources that `experiments.prepare` knows. A new data set = one file and one line here."""

from __future__ import annotations

from data_pipelines.sources.base import Source


def posed_sources() -> dict[str, Source]:
    """Sources of posed frames, whose scenes can give questions their geometry."""
    from data_pipelines.sources import arkitscenes, colmap, nerfstudio, posed_rgbd, scannet, scannetpp, sevenscenes, tum

    return {
        "posed_rgbd": posed_rgbd.SOURCE,
        "scannet": scannet.SOURCE,
        "scannetpp": scannetpp.SOURCE,
        "arkitscenes": arkitscenes.SOURCE,
        "sevenscenes": sevenscenes.SOURCE,
        "tum": tum.SOURCE,
        "nerfstudio": nerfstudio.SOURCE,
        "colmap": colmap.SOURCE,
    }


def _all() -> dict[str, Source]:
    from data_pipelines.sources import llava, messages, mindcube, pictures, rooms

    questions = {"mindcube": mindcube.SOURCE, "llava": llava.SOURCE, "messages": messages.SOURCE}
    return {"rooms": rooms.SOURCE, **posed_sources(), **questions, "pictures": pictures.SOURCE}


SOURCES: dict[str, Source] = _all()
