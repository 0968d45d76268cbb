"""Is the reconstruction wrong where a question looks? Errors inside the named things' pixels, what is missing or misplaced."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from spatialsv_jax.evaluation.correlation import rank_correlation
from spatialsv_jax.evaluation.statistics import mean_with_interval

FEWEST_PIXELS = 6  # of a thing in one view, to say anything of it
RING = 0.06  # width of the surroundings, as a share of the map's shorter side
LEAST_STEP = 0.05  # depth step to the surroundings, as a share of the thing's depth, below which none can be missing
LEAST_LEFT = 0.25  # of that step in the prediction, below which the thing is missing
NEAR_M, SHARE = 0.25, 0.15  # misplaced: by more than so many metres and by more than this share of its distance
OBJECTS_METHOD = (
    "Things whose names stand in the question (with its options; where there is none, in the true answer), by the boxes of the "
    "metadata; a pixel shows the thing whose box its true point lies in. inside = mean |d - g| / g over the pixels of all named "
    "things in the question's views, elsewhere = over the others. In the view that shows most of a thing "
    f"({FEWEST_PIXELS} pixels or more): missing = its step in depth to the pixels around it (median of a ring of {RING:.0%} of the "
    f"shorter side) is {LEAST_STEP:.0%} of its depth or more and the prediction keeps less than {LEAST_LEFT:.0%} of it; misplaced = the median "
    f"of its predicted points lies more than {NEAR_M} m and more than {SHARE:.0%} of its distance from that of its true ones. Points are the "
    "points head's, else of depth and rays, else of depth along the true rays, in the first view's frame, unaligned; beside stands "
    "how far the rest of that view is off. The thresholds are ours."
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Some views of one record: V maps of H x W pixels. Lengths in metres but for relative depth errors."""

    depth: np.ndarray  # float64[V,H,W], true z-depth
    predicted_depth: np.ndarray  # float64[V,H,W]
    points: np.ndarray  # float64[V,H,W,3], true, in one frame
    predicted_points: np.ndarray  # float64[V,H,W,3], in the same frame
    mask: np.ndarray  # bool[V,H,W], where the truth is known
    camera_to_world: np.ndarray  # float64[V,4,4], true, in the same frame
    things: np.ndarray  # int[V,H,W], the thing that a pixel shows, -1 = none


def split_error(scene: Scene, named: Sequence[int]) -> dict:
    """{"inside", "elsewhere": mean |d - g| / g or None, "pixels": inside}; see `OBJECTS_METHOD`."""
    error = np.abs(scene.predicted_depth - scene.depth) / np.where(scene.mask, scene.depth, 1)
    own = scene.mask & np.isin(scene.things, list(named))
    mean = lambda chosen: float(error[chosen].mean()) if chosen.any() else None
    return {"inside": mean(own), "elsewhere": mean(scene.mask & ~own), "pixels": int(own.sum())}


def inspect(scene: Scene, place: int) -> dict:
    """What became of one thing in the view that shows most of it (`OBJECTS_METHOD`).

    Returns:
      {"pixels", "view": among the scene's, "verdict": "not visible", "missing", "misplaced", "missing and misplaced" or "fine",
      "step": true relative step in depth, "step_left": share of it, "off_m": [right, down, forward], "rest_off_m": the
      rest of the view, "distance_m"}; numbers are None where there are too few pixels (step_left: or no step).
    """
    own = scene.mask & (scene.things == place)
    counts = own.sum((1, 2))
    view = int(counts.argmax()) if len(counts) else 0
    result = {
        "pixels": int(counts.max(initial=0)), "view": view, "verdict": "not visible", "step": None, "step_left": None,
        "off_m": None, "rest_off_m": None, "distance_m": None,
    }  # fmt: skip
    if result["pixels"] < FEWEST_PIXELS:
        return result
    inside, mask = own[view], scene.mask[view]
    rotation = scene.camera_to_world[view, :3, :3]
    centre = scene.camera_to_world[view, :3, 3]
    gaps = (scene.predicted_points[view] - scene.points[view]) @ rotation  # right, down, forward of that camera
    apart = lambda values, chosen: np.median(values[chosen], 0)
    true, found = apart(scene.points[view], inside), apart(scene.predicted_points[view], inside)
    off = (found - true) @ rotation
    result["off_m"], result["distance_m"] = off.tolist(), float(np.linalg.norm(true - centre))
    if (mask & ~inside).any():
        result["rest_off_m"] = apart(gaps, mask & ~inside).tolist()
    ring = _grown(inside, max(1, round(RING * min(inside.shape)))) & mask & ~inside
    if ring.any():
        depth = float(np.median(scene.depth[view][inside]))
        step, left = (
            float(np.median(values[view][ring]) - np.median(values[view][inside]))
            for values in (scene.depth, scene.predicted_depth)
        )
        result["step"] = step / depth
        if abs(step) >= LEAST_STEP * depth:
            result["step_left"] = left / step
    missing = result["step_left"] is not None and result["step_left"] < LEAST_LEFT
    misplaced = np.linalg.norm(off) > max(NEAR_M, SHARE * result["distance_m"])
    words = [word for word, true in (("missing", missing), ("misplaced", misplaced)) if true]
    result["verdict"] = " and ".join(words) or "fine"
    return result


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    from scipy.ndimage import binary_dilation

    return binary_dilation(mask, np.ones((3, 3), bool), iterations=pixels)


def describe(name: str, found: Mapping) -> str:
    """One sentence about a thing."""
    if found["verdict"] == "not visible":
        return f"{name}: not visible in these views ({found['pixels']} pixels)."
    parts = []
    if found["step_left"] is None:
        parts.append("stands out too little in depth to be missed")
    elif "missing" in found["verdict"]:
        parts.append(f"missing: {max(0.0, found['step_left']):.0%} of its step in depth is left")
    else:
        parts.append(f"there: {found['step_left']:.0%} of its step in depth")
    away = float(np.linalg.norm(found["off_m"]))
    place = (
        f"{'misplaced' if 'misplaced' in found['verdict'] else 'off'} by {away:.2f} m at {found['distance_m']:.1f} m"
    )
    words = _directions(found["off_m"])
    if words:
        place += f" ({words}"
        if found["rest_off_m"] is not None:
            place += f"; the rest of the view {float(np.linalg.norm(found['rest_off_m'])):.2f} m"
        place += ")"
    return f"{name}: {', '.join([*parts, place])}."


def _directions(off: Sequence[float]) -> str:
    names = (("right", "left"), ("low", "high"), ("far", "near"))
    return ", ".join(
        f"{abs(value):.2f} m too {positive if value > 0 else negative}" if positive in ("far", "low") else
        f"{abs(value):.2f} m to the {positive if value > 0 else negative}"
        for value, (positive, negative) in zip(off, names, strict=True)
        if abs(value) >= 0.05
    )  # fmt: skip


def summarise(rows: Sequence[Mapping], resamples: int = 1000) -> dict:
    """Right answers against wrong ones: errors inside named things and elsewhere, and what is missing or misplaced.

    Args:
      rows: of questions: scene, question_type, views, form, score and "objects": {"inside", "elsewhere", "verdicts": list} or
        None.
      resamples: of the correlations' intervals.

    Returns:
      {"questions", "left_out": without a visible named thing, "right", "wrong": {"n", "inside", "elsewhere", "excess", "missing",
      "misplaced"}, "correlation": {"inside", "elsewhere", "inside_at_fixed_elsewhere"}}; means with intervals by scene.
    """
    exact = [row for row in rows if row["form"] != "number"]
    known = [row for row in exact if row["objects"] and row["objects"]["inside"] is not None]
    known = [row for row in known if row["objects"]["elsewhere"] is not None]
    result: dict = {"questions": len(known), "left_out": len(exact) - len(known)}
    for name, chosen in (
        ("right", [r for r in known if r["score"] == 1]),
        ("wrong", [r for r in known if r["score"] != 1]),
    ):
        scenes = [row["scene"] for row in chosen]
        has = lambda word, chosen=chosen: [float(any(word in v for v in row["objects"]["verdicts"])) for row in chosen]
        result[name] = {
            "n": len(chosen),
            "inside": mean_with_interval([row["objects"]["inside"] for row in chosen], scenes, error=True),
            "elsewhere": mean_with_interval([row["objects"]["elsewhere"] for row in chosen], scenes, error=True),
            "excess": mean_with_interval(
                [row["objects"]["inside"] - row["objects"]["elsewhere"] for row in chosen], scenes
            ),
            "missing": mean_with_interval(has("missing"), scenes, share=True),
            "misplaced": mean_with_interval(has("misplaced"), scenes, share=True),
        }
    inside, elsewhere = ([row["objects"][key] for row in known] for key in ("inside", "elsewhere"))
    score, scenes = [row["score"] for row in known], [row["scene"] for row in known]
    strata = [(row["question_type"], row["views"]) for row in known]
    result["correlation"] = {
        "inside": rank_correlation(inside, score, scenes, strata, resamples=resamples),
        "elsewhere": rank_correlation(elsewhere, score, scenes, strata, resamples=resamples),
        "inside_at_fixed_elsewhere": rank_correlation(
            inside, score, scenes, strata, {"elsewhere": elsewhere}, resamples
        ),
    }
    return result
