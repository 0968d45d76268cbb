"""The things that a question names in what a model reconstructed: errors, verdicts, and the pictures of a card."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipelines.records import Question
from data_pipelines.scene_objects import ObjectBox, instances, named_objects
from data_pipelines.transforms.decode import decode_views
from spatialsv_jax import geometry
from spatialsv_jax.evaluation import object_errors
from spatialsv_jax.evaluation.predictions import Outcome, spoken
from spatialsv_jax.report import images

TILE = 168  # longer side of a card's pictures
OUTLINE = (255, 64, 160)
MOST_PER_RECORD = 2  # cards


class RecordThings:
    """One record's reconstruction with its things.

    Args:
      outcome: of a model with a depth head.
      boxes: the record's things.
      seen: `diagnosis_rows.metric_views` of it.
    """

    def __init__(self, outcome: Outcome, boxes: Sequence[ObjectBox], seen):
        labels, maps, scale = outcome.labels, outcome.maps, float(outcome.labels["scene_scale_m"])
        depth, mask, intrinsics, world = seen
        views = len(depth)
        pose = labels["camera_to_world"][:views].astype(np.float64)
        cameras = labels["intrinsics"][:views].astype(np.float64), pose
        guess = maps["depth"][:views].astype(np.float64)
        if "points" in maps:
            cloud = maps["points"][:views].astype(np.float64)
        elif "ray" in maps:
            cloud = geometry.points_from_rays(maps["ray"][:views].astype(np.float64), guess)
        else:
            cloud = geometry.points_from_depth(guess, *cameras)
        metric_pose = pose.copy()
        metric_pose[:, :3, 3] *= scale
        true_world = geometry.points_from_depth(depth, intrinsics, world)
        self.boxes = boxes
        self._whole = object_errors.Scene(
            depth=depth,
            predicted_depth=guess * scale,
            points=geometry.points_from_depth(depth / scale, *cameras) * scale,
            predicted_points=cloud * scale,
            mask=mask,
            camera_to_world=metric_pose,
            things=instances(np.where(mask[..., None], true_world, np.nan), boxes),
        )

    def scene(self, views: Sequence[int]) -> object_errors.Scene:
        """Some of its views."""
        chosen = list(views)
        return object_errors.Scene(**{name: values[chosen] for name, values in vars(self._whole).items()})

    def about(self, question: Question, views: Sequence[int]) -> dict:
        """What a question names and what became of it; see `object_errors.OBJECTS_METHOD`.

        Returns:
          {"named": names, "named_by": "question" or "answer", "inside", "elsewhere", "pixels", "verdicts", "things": [{"name",
          "place", "text", ...}], "outside": named things of which no pixel is in sight}; None where nothing is named.
        """
        text, by = " ".join((spoken(question.text), *question.options)), "question"
        places = named_objects(text, self.boxes)
        if not places:
            places, by = named_objects(question.answer, self.boxes), "answer"
        if not places:
            return None
        scene, things = self.scene(views), []
        for place in places:
            found = object_errors.inspect(scene, place)
            if found["pixels"]:
                name = self.boxes[place].name
                text = object_errors.describe(name, found)
                found["view"] = int(views[found["view"]])
                things.append({"name": name, "place": place, **found, "text": text})
        shown = {thing["place"] for thing in things}
        return {
            "named": sorted({self.boxes[place].name for place in places}),
            "named_by": by,
            **object_errors.split_error(scene, places),
            "verdicts": [thing["verdict"] for thing in things],
            "things": things,
            "outside": [self.boxes[place].name for place in places if place not in shown],
        }


def choose_cards(rows: Sequence[dict], count: int) -> list[dict]:
    """The wrong answers whose named things are worst: missing or misplaced ones first, then by the error inside them.

    At most `MOST_PER_RECORD` of a record.
    """
    wrong = [row for row in rows if row["score"] < 1 and row["objects"] and row["objects"]["inside"] is not None]
    bad = lambda row: any(verdict not in ("fine", "not visible") for verdict in row["objects"]["verdicts"])
    wrong.sort(key=lambda row: (not bad(row), -row["objects"]["inside"], row["id"]))
    taken: dict[int, int] = {}
    chosen = []
    for row in wrong:
        if len(chosen) < count and taken.get(row["record"], 0) < MOST_PER_RECORD:
            taken[row["record"]] = taken.get(row["record"], 0) + 1
            chosen.append(row)
    return chosen


def card_pictures(outcome: Outcome, record: RecordThings, row: dict) -> list[tuple[str, np.ndarray]]:
    """(caption, uint8[h,w,3]) of the view that shows most of the named things, outlined: picture, true and lifted depth, error."""
    places = [thing["place"] for thing in row["objects"]["things"]]
    views = row["view_places"]
    whole = record.scene(range(len(outcome.record.view_ids)))
    own = whole.mask & np.isin(whole.things, places)
    view = max(views, key=lambda v: (int(own[v].sum()), -v))
    (picture,), _ = decode_views(outcome.record, (view,), with_depth=False)
    true, guess, mask, named = (array[view] for array in (whole.depth, whole.predicted_depth, whole.mask, own))
    covered = outcome.labels["covered"][view]
    scale = images.value_range((true, mask), (guess, covered))
    error = np.abs(guess - true) / np.where(mask, true, 1)
    same_shape = abs(picture.shape[0] / picture.shape[1] / (true.shape[0] / true.shape[1]) - 1) < 0.02
    maps = [
        (f"true depth, {scale[0]:.1f} to {scale[1]:.1f} m", images.colourise(true, mask, scale, "viridis")),
        ("lifted depth, same colours", images.colourise(guess, covered, scale, "viridis")),
        ("error, 0 to 50 %", images.colourise(error, mask, (0.0, 0.5), "inferno")),
    ]
    shown = [(f"view {view + 1}", _enlarged(picture, named if same_shape else None, Image.Resampling.LANCZOS))]
    return shown + [(name, _enlarged(_opaque(values), named, Image.Resampling.NEAREST)) for name, values in maps]


def _opaque(picture: np.ndarray) -> np.ndarray:
    share = picture[..., 3:].astype(np.float64) / 255
    return (picture[..., :3] * share + 225 * (1 - share)).astype(np.uint8)


def _enlarged(picture: np.ndarray, named: np.ndarray | None, how) -> np.ndarray:
    """The picture with a longer side of TILE and the named pixels' outline."""
    factor = TILE / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    result = np.array(Image.fromarray(picture).convert("RGB").resize(size, how))
    if named is not None:
        inside = np.asarray(Image.fromarray(named).resize(size, Image.Resampling.NEAREST))
        padded = np.pad(inside, 1)
        core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        result[inside & ~core] = OUTLINE
    return result
