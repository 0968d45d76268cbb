"""Any damage to any file of a raw data set: a message, or something left out; never a crash, never nonsense."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_layouts import LAYOUTS, STATED, made

from data_pipelines.manifest import PrepareError
from data_pipelines.transforms.decode import decode_views

FUZZED = {
    "posed_rgbd": ("posed_rgbd", "scannet/exported", dict(views=2)),
    "scannet": ("scannet", "scannet", dict(views=2)),
    "iphone": ("scannetpp", "scannetpp", dict(views=2, picture="depth")),
    "dslr": ("scannetpp", "scannetpp", dict(views=2, device="dslr")),
    "arkitscenes": ("arkitscenes", "arkitscenes/raw", dict(views=2)),
    "sevenscenes": ("sevenscenes", "sevenscenes", dict(views=2, **STATED)),
    "tum": ("tum", "tum", dict(views=2, **STATED)),
    "nerfstudio": ("nerfstudio", "nerfstudio", dict(views=2, metric=True)),
    "colmap": ("colmap", "colmap", dict(views=2)),
    "llava": ("llava", "conversations", dict(frames=2)),
    "mindcube": ("mindcube", "mindcube/data", {}),
}
WORDS = (b"inf", b"nan", b"-1", b"0", b"1e308", b"9" * 30, b"null", b"[]", b"x", b"\xff", b"../../x", b'"', b"Infinity")


def damaged(data, draw):
    """Cut short, with other bytes, or with another word."""
    kind = draw.choice(("cut", "bytes", "word"))
    if kind == "cut":
        return data[: draw.randrange(len(data) + 1)]
    if kind == "bytes":
        changed = bytearray(data)
        for _ in range(draw.choice((1, 3, 20))):
            changed[draw.randrange(min(len(changed), draw.choice((40, 400, 10**9))))] = draw.randrange(256)
        return bytes(changed)
    place = draw.randrange(len(data))
    start, stop = data.rfind(b" ", 0, place) + 1, data.find(b" ", place)
    return data[:start] + draw.choice(WORDS) + data[max(stop, start) :]


@pytest.mark.parametrize("name", FUZZED)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_file_is_named_or_left_out(name, tmp_path_factory, seed):
    """No damage makes a source fail otherwise, and what it still makes can be read."""
    source, layout, arguments = FUZZED[name]
    draw, raw = random.Random(seed), tmp_path_factory.getbasetemp() / f"damaged_{name}"
    shutil.rmtree(raw, ignore_errors=True)
    shutil.copytree(LAYOUTS / layout, raw)
    file = draw.choice(sorted(path for path in raw.rglob("*") if path.is_file()))
    file.write_bytes(damaged(file.read_bytes(), draw))
    try:
        records, _, _ = made(source, raw, **arguments)
    except PrepareError as error:
        assert str(error)
        return
    for record in records:
        decode_views(record, tuple(range(len(record.view_ids))))
        posed = record.camera_to_world[:, :3, :3]
        assert (
            np.abs(posed.swapaxes(1, 2) @ posed - np.eye(3)).max(initial=0) < 0.05
            and (record.intrinsics[:, [0, 1], [0, 1]] > 0).all()
        )
