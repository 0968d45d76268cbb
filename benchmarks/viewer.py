"""The report's viewer at size: `python -m benchmarks.viewer --out DIR [--scenes 32] [--side 224]`.

Makes a page of generated rooms (4 views of side x side pixels, at most 200,000 points a cloud; the truth and two predicted
clouds with smooth and with pixel noise), opens it in headless Chromium with software rendering, and prints as JSON: bytes of
the page's files (exports are not written), seconds from opening the page until the first scene is on the screen, and
seconds until another scene is, for every scene once. `--shot FILE` keeps a picture of the window.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.browser import Browser
from data_pipelines.rooms.config import RoomsConfig
from data_pipelines.rooms.generate import make_record
from data_pipelines.scene_objects import instances, named_objects, object_boxes
from data_pipelines.transforms.decode import decode_views
from spatialsv_jax import geometry
from spatialsv_jax.evaluation.predictions import spoken
from spatialsv_jax.report import markup, viewer_data
from spatialsv_jax.report.figure import Geometry, SceneFigure
from spatialsv_jax.report.scene_section import write_scene

# On the screen: the browser has drawn, and reading a pixel back waits until that is done.
DRAWN = """(() => {
  const section = document.getElementById('viewer');
  if (section?.dataset.state !== 'ready' || (%s && section.dataset.scene !== %s)) return false;
  const gl = spatialsvViewer.stage.renderer.getContext();
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  return true;
})()"""


def room_figure(index: int, side: int) -> SceneFigure:
    """Room number `index` of the test split, with what a fair model would say of it."""
    record, _ = make_record(RoomsConfig(size=side, views=4, mix="walk=1"), "test", index)
    pictures, depths = decode_views(record, (0, 1, 2, 3), with_depth=True)
    depth, intrinsics, poses = np.stack(depths).astype(np.float64), record.intrinsics, record.camera_to_world
    boxes = object_boxes(record)
    things = instances(geometry.points_from_depth(depth, intrinsics, poses), boxes)
    poses = np.linalg.inv(poses[0]) @ poses
    scale = float(np.linalg.norm(geometry.points_from_depth(depth, intrinsics, poses), axis=-1).mean())
    depth, poses = depth / scale, poses.copy()
    poses[:, :3, 3] /= scale
    true = geometry.points_from_depth(depth, intrinsics, poses)
    everywhere, ok = np.ones(depth.shape, bool), np.ones(4, bool)
    rng = np.random.default_rng(index)
    wave = gaussian_filter(rng.normal(size=(2, *depth.shape)), (0, 0, side / 16, side / 16)) * side / 16 * 0.15
    guess = depth * (1 + wave[0] + 0.003 * rng.normal(size=depth.shape))
    points = geometry.points_from_depth(depth * (1 + wave[1]), intrinsics, poses)
    clouds = {
        "depth + rays": geometry.points_from_depth(guess, intrinsics, poses),
        "points head": points + 0.004 * rng.normal(size=points.shape),
    }
    sure = {name: 1 + np.exp(-20 * np.abs(one)) for name, one in zip(clouds, wave, strict=True)}
    questions = []
    for asked in record.questions:
        right = bool(rng.random() < 0.6)
        questions.append(
            {
                "question": spoken(asked.text),
                "question_type": asked.type,
                "prediction": asked.answer if right else "no idea",
                "ground_truth": asked.answer,
                "correct": right,
                "views": list(asked.views) or None,
                "objects": named_objects(asked.text, boxes),
            }
        )
    return SceneFigure(
        title=record.id,
        tags=("rooms", "walk"),
        note="",
        images=pictures,
        predicted=Geometry(
            guess, everywhere, everywhere, intrinsics, poses, ok, clouds, sure["depth + rays"], cloud_confidence=sure
        ),
        true=Geometry(depth, depth > 0, depth > 0, intrinsics, poses, ok, {"true": true}),
        questions=questions,
        scene_scale_m=scale,
        abs_rel=float(np.abs(guess / depth - 1).mean()),
        objects=tuple(box.name for box in boxes),
        instances=things,
    )


def write_page(out: Path, scenes: int, side: int) -> dict:
    """Writes the page and returns its size by kind of file, in bytes."""
    out.mkdir(parents=True, exist_ok=True)
    entries, cards = [], []
    for index in range(scenes):
        card, entry = write_scene(room_figure(index, side), out, f"scene{index + 1}", ())
        cards.append(card)
        entries += entry
    viewer = viewer_data.write_runs(out, [{"name": "rooms", "scenes": entries}])
    (out / "index.html").write_text(markup.document("viewer", viewer + "".join(cards)), "utf-8")
    sizes = {"page": (out / "index.html").stat().st_size, "viewer": (out / "viewer.js").stat().st_size}
    sizes["scenes"] = sum(path.stat().st_size for path in (out / "scenes").iterdir())
    sizes["all"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return sizes


def measure(page: Path, shot: Path | None = None) -> dict:
    """Seconds until the first scene, and until each of the others after it was chosen."""
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile) / "profile") as browser:
        began = time.perf_counter()
        browser.open(page)
        browser.wait(DRAWN % ("false", "''"), 120)
        first = time.perf_counter() - began
        names = browser.run("spatialsvViewer.scenes.map((scene) => scene.id)")
        points = browser.run("spatialsvViewer.loaded[0].clouds.map((cloud) => cloud.count)")
        switches = []
        for place, name in enumerate(names[1:], 1):
            began = time.perf_counter()
            browser.run(f"document.querySelectorAll('#viewer .scenes .list button')[{place}].click()")
            browser.wait(DRAWN % ("true", json.dumps(name)), 120)
            switches.append(time.perf_counter() - began)
        if shot:
            shot.write_bytes(browser.screenshot())
        problems = browser.problems
    return {
        "points": points,
        "first_scene_s": round(first, 2),
        "switch_median_s": round(float(np.median(switches)), 2) if switches else None,
        "switch_worst_s": round(max(switches), 2) if switches else None,
        "problems": problems,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.viewer", description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder of the page")
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--side", type=int, default=224, help="pixels of a side of a view's maps")
    parser.add_argument("--shot", type=Path, help="PNG file of the window at the end")
    flags = parser.parse_args(argv)
    out = Path(flags.out)
    sizes = write_page(out, flags.scenes, flags.side)
    result = {"scenes": flags.scenes, "side": flags.side, "bytes": sizes, **measure(out / "index.html", flags.shot)}
    print(
        json.dumps(
            {**result, "cores": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()[0]}, indent=1
        )
    )


if __name__ == "__main__":
    main()
