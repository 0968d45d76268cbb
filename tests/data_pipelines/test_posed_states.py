"""Every file that a layout of posed frames looks at stands in its states: a change is noticed by a finished data set."""

from __future__ import annotations

import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from raw_layouts import LAYOUTS, STATED

from data_pipelines.manifest import PrepareError
from data_pipelines.sources import SOURCES
from data_pipelines.sources.base import Tally
from data_pipelines.sources.posed.scene import Unusable
from experiments.prepare import prepare

CASES = {
    "posed_rgbd": ("posed_rgbd", "scannet/exported", {}),
    "scannet": ("scannet", "scannet", dict(align=True)),
    "iphone": ("scannetpp", "scannetpp", {}),
    "dslr": ("scannetpp", "scannetpp", dict(device="dslr")),
    "arkitscenes": ("arkitscenes", "arkitscenes/raw", {}),
    "sevenscenes": ("sevenscenes", "sevenscenes", STATED),
    "tum": ("tum", "tum", STATED),
    "nerfstudio": ("nerfstudio", "nerfstudio", {}),
    "colmap": ("colmap", "colmap", {}),
    "pictures": ("pictures", "conversations/images", dict(views=1)),
}
_opened: set[str] | None = None  # names of the files that are opened, while a test listens


def _listen(event, arguments):
    if _opened is not None and event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        _opened.add(os.fspath(arguments[0]))


sys.addaudithook(_listen)  # sees every open() of Python, whoever calls it


def reads(layout, folder, settings):
    """(the scene, files below `folder` that opening it, its poses and its frames read)."""
    global _opened
    _opened = set()
    try:
        scene = layout.open(folder, settings)
        layout.poses(scene, settings)
        for view in scene.views:
            try:
                layout.read(scene, view, settings)
            except Unusable:
                pass
        return scene, sorted(name for name in _opened if name.startswith(str(folder)))
    finally:
        _opened = None


@pytest.mark.parametrize("name", CASES)
def test_every_file_that_is_read_is_in_the_states(name, tmp_path):
    source, where, arguments = CASES[name]
    raw = shutil.copytree(LAYOUTS / where, tmp_path / "raw")
    if name == "dslr":
        place = raw / "data/0a0a0a0a0a/dslr"
        (place / "render_depth").mkdir()
        for picture in (place / "resized_images").iterdir():
            Image.fromarray(np.full((48, 64), 900, np.uint16)).save(place / "render_depth" / f"{picture.stem}.png")
    layout, settings = SOURCES[source].layout, SOURCES[source].settings(raw=str(raw), **arguments)
    folder = layout.folders(raw, settings)[0]
    scene, files = reads(layout, folder, settings)
    assert len(files) >= (2 if name == "scannet" else 4)
    kinds = {
        "dslr": "resized_anon_masks",
        "arkitscenes": "confidence",
        "posed_rgbd": "intrinsic_",
        "iphone": "depth.bin",
    }
    assert any(kinds.get(name, "") in file for file in files)
    before = layout.states(scene)
    for file in files:
        with open(file, "rb") as data:
            content, state = data.read(), os.stat(file)
        with open(file, "ab") as data:
            data.write(b"\n")
        assert layout.states(scene) != before, f"a change of {file} is not noticed"
        with open(file, "wb") as data:
            data.write(content)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert layout.states(scene) == before


def picture(folder, name, value, kind=np.uint16):
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.full((48, 64), value, kind)).save(folder / name)


# Files that come to a finished data set, or go: what they change in its records, and so what must be noticed.
CHANGES = {
    "arkit_confidence": ("arkitscenes", "arkitscenes/raw", {}, lambda raw: [
        picture(path.parent, path.name, 0, np.uint8) for path in raw.rglob("confidence/*.png")]),
    "registered_depth": ("sevenscenes", "sevenscenes", STATED, lambda raw: [
        picture(path.parent, path.name.replace(".color.", ".depth.proj."), 700) for path in raw.rglob("*.color.png")]),
    "exported_camera": ("posed_rgbd", "scannet/exported", {}, lambda raw: [
        path.write_text(path.read_text().replace("58", "57")) for path in raw.rglob("intrinsic_depth.txt")]),
    "iphone_mask": ("scannetpp", "scannetpp", dict(picture="depth"), lambda raw: [
        picture(path.parents[1] / "rgb_masks", f"{path.stem}.png", 0, np.uint8) for path in raw.rglob("rgb/*.jpg")]),
    "rendered_depth": ("scannetpp", "scannetpp", dict(device="dslr"), lambda raw: [
        picture(path.parents[1] / "render_depth", f"{path.stem}.png", 900) for path in raw.rglob("resized_images/*.JPG")]),
    "marked_bad": ("scannetpp", "scannetpp", dict(device="dslr", views=3), lambda raw: [
        path.write_text(path.read_text().replace("false", "true", 1)) for path in raw.rglob("transforms.json")]),
}  # fmt: skip


def bytes_of(source, settings):
    plan = SOURCES[source].plan(settings)
    records = [record for k in range(plan.items["train"]) for record in SOURCES[source].make(plan, "train", k, Tally())]
    return [(r.id, r.images, r.depths, r.intrinsics.tobytes(), r.camera_to_world.tobytes()) for r in records]


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_records_is_refused_by_a_finished_data_set(name, tmp_path):
    source, where, arguments, change = CHANGES[name]
    raw = shutil.copytree(LAYOUTS / where, tmp_path / "raw")
    settings = SOURCES[source].settings(raw=str(raw), **arguments)
    prepare(source, settings, tmp_path / "out", workers=None, progress=False)
    layout = SOURCES[source].layout
    before, states = bytes_of(source, settings), layout.states(layout.open(layout.folders(raw, settings)[0], settings))
    change(raw)
    assert bytes_of(source, settings) != before
    assert layout.states(layout.open(layout.folders(raw, settings)[0], settings)) != states  # what --geometry compares
    with pytest.raises(PrepareError, match="content_of_raw"):
        prepare(source, settings, tmp_path / "out", workers=None, progress=False)
