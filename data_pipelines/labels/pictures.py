"""Where pictures lie in what Depth Anything 3 or VGGT saw of them: each package's preprocessing, of all pictures of a set.

It is not recorded in what they export, so it is worked out from the sizes of the pictures and of the maps, and refused where
no setting of the package makes these maps of those pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipelines.labels.files import LabelError
from spatialsv_jax.processing import da3_pictures, vggt_pictures
from spatialsv_jax.processing.vggt_pictures import Place, Scaled

SIDES = {
    "da3": da3_pictures.SIDE,
    "vggt": vggt_pictures.SIDE,
}  # the side that each package scales pictures to by default
# The first is each package's default; "resize" and "crop" of DA3 stand for both bounds.
RESIZES = {
    "da3": (
        "resize",
        "crop",
        *da3_pictures.METHODS,
    ),
    "vggt": ("crop", "pad"),
}
_CELLS = 16  # a side of the pictures when they are compared
_APART = 10.0  # mean difference (of 255) above which pictures are others; resampling makes about 1


def picture_places(
    teacher: str,
    sizes: Sequence[tuple[int, int]],
    processed: tuple[int, int],
    resize: str,
    side: int = 0,
    where: str = "",
) -> list[Place]:
    """Where each picture of a set lies in the teacher's maps.

    Args:
      teacher: "da3" or "vggt".
      sizes: (width, height) of all pictures that the teacher saw together, in order.
      processed: (H, W) of the maps.
      resize: one of `RESIZES[teacher]`.
      side: the package's process_res (DA3) or target size (VGGT); 0 = its default or what the maps' sides say.
      where: for messages.

    Raises:
      LabelError: the package does not make such maps of such pictures, or the settings leave open where they lie.
    """
    if teacher == "vggt":
        asked = [(resize, side or processed[1])]
    else:
        methods = [resize] if "_" in resize else [f"{bound}_{resize}" for bound in ("upper_bound", "lower_bound")]
        sides = dict.fromkeys([side] if side else [SIDES["da3"], *sorted(processed, reverse=True)])
        asked = [(method, one) for one in sides for method in methods]
    vggt = lambda method, side: vggt_pictures.MODES[method](sizes, side)
    made = {one: vggt(*one) if teacher == "vggt" else da3_pictures.places(sizes, *one) for one in asked}
    fitting = {one: scaled for one, (shape, scaled) in made.items() if shape == tuple(processed)}
    if not fitting:
        shapes = sorted({f"{rows} x {columns}" for (rows, columns), _ in made.values()})
        raise LabelError(
            f"{where}: the maps are {processed[0]} x {processed[1]}, but of pictures of {sorted(set(sizes))} (width, height) "
            f"{teacher} makes {' or '.join(shapes)} by '{resize}'. The export is of other pictures, or was made otherwise: "
            "see --resize and --process_res."
        )
    (method, used), first = next(iter(fitting.items()))
    if used != SIDES[teacher] and any(_differ(first, other) for other in fitting.values()):
        raise LabelError(
            f"{where}: maps of {processed[0]} x {processed[1]} may have been made by any of {list(fitting)}, which place the "
            "pictures differently. State the bound in --resize and the size in --process_res."
        )
    return [scaled.place(size, processed) for size, scaled in zip(sizes, first, strict=True)]


def _differ(first: Sequence[Scaled], second: Sequence[Scaled]) -> bool:
    """Whether a corner of any picture lies more than half a pixel elsewhere."""
    corners = [np.array([(s.left, s.top, s.left + s.width, s.top + s.height) for s in one]) for one in (first, second)]
    return bool(np.abs(corners[0] - corners[1]).max() > 0.5)


def check_pictures(stored: np.ndarray, pictures: Sequence[np.ndarray], places: Sequence[Place], where: str) -> None:
    """Compares the pictures that an export carries with the record's, coarsely.

    Args:
      stored: uint8[V,H,W,3], or float[V,3,H,W] of 0..1.
      pictures: uint8[h,w,3] each, in order.
      places: of `picture_places`.
      where: for messages.

    Raises:
      LabelError: they are others, or in another order.
    """
    if stored.dtype.kind == "f":
        stored = np.clip(np.nan_to_num(stored) * 255, 0, 255).astype(np.uint8)
    if stored.ndim == 4 and stored.shape[1] == 3 and stored.shape[-1] != 3:
        stored = stored.transpose(0, 2, 3, 1)
    wanted = (len(places), *places[0].inside.shape, 3)
    if stored.shape != wanted or stored.dtype != np.uint8:
        raise LabelError(f"{where} are {stored.dtype}{list(stored.shape)}, expected {list(wanted)} beside these maps.")
    own = [_coarse(picture, place) for picture, place in zip(pictures, places, strict=True)]
    for view, place in enumerate(places):
        rows, columns = (np.flatnonzero(place.inside.any(axis)) for axis in (1, 0))
        shown = stored[view, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        shown = np.asarray(Image.fromarray(shown).resize((_CELLS, _CELLS), Image.Resampling.BOX), np.float64)
        apart = [float(np.abs(shown - other).mean()) for other in own]
        nearest = int(np.argmin(apart))
        if apart[view] > _APART or apart[view] > 2 * apart[nearest] + 1:
            raise LabelError(
                f"{where}: picture {view} differs from the record's by {apart[view]:.0f} of 255 on the mean (nearest is picture "
                f"{nearest}: {apart[nearest]:.0f}). The export was made of other pictures, or in another order; make it again."
            )


def _coarse(picture: np.ndarray, place: Place) -> np.ndarray:
    """float64[_CELLS,_CELLS,3] of the part of a picture that the map shows."""
    rows, columns = (np.flatnonzero(place.inside.any(axis)) for axis in (1, 0))
    corners = place.affine @ np.array([[columns[0], rows[0], 1.0], [columns[-1] + 1.0, rows[-1] + 1.0, 1.0]]).T
    limits = np.array([picture.shape[1], picture.shape[0]])[:, None]
    (left, right), (top, bottom) = np.clip(corners, 0, limits)
    shown = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(shown.resize((_CELLS, _CELLS), Image.Resampling.BOX, box=(left, top, right, bottom)), np.float64)
