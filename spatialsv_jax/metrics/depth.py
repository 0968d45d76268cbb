"""Depth errors after a named alignment. float64, no jax."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Depths are not taken below this, predictions before and after alignment: ratios and logarithms need it.
DEPTH_FLOOR = 1e-6
_KEYS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "delta_1", "delta_2", "delta_3")
PER = ("sequence", "image")


def _none(prediction, target):
    del target
    return prediction


def _median_ratio(prediction, target):
    return prediction * (np.median(target) / np.median(prediction))


def _median_of_ratios(prediction, target):
    return prediction * np.median(target / prediction)


def _scale(prediction, target):
    unit = prediction / prediction.max()  # the squares of very large numbers would not be finite
    return unit * ((unit @ target) / (unit @ unit))


def _scale_shift(prediction, target):
    # Of equal predictions the minimum-norm solution is taken: the mean target.
    design = np.stack([prediction / prediction.max(), np.ones_like(prediction)], axis=-1)
    return design @ np.linalg.lstsq(design, target, rcond=None)[0]


def _scale_shift_disparity(prediction, target):
    aligned = _scale_shift(1 / prediction, 1 / target)
    # A fitted disparity may be 0 or negative; nothing is placed beyond the farthest target.
    return 1 / np.maximum(aligned, 1 / target.max())


# Each maps valid prediction and target [N] to the aligned prediction [N]. The two medians go by two names each.
ALIGNMENTS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "none": _none,  # as predicted
    "median_ratio": _median_ratio,  # times median(g) / median(d)
    "median": _median_ratio,
    "median_of_ratios": _median_of_ratios,  # times median(g / d)
    "ratio_median": _median_of_ratios,
    "scale": _scale,  # times <d,g> / <d,d>
    "scale_shift": _scale_shift,  # least squares s d + t
    "scale_shift_disparity": _scale_shift_disparity,  # least squares in 1 / d, depth capped at max(g)
}


PER_IMAGE = "_per_image"


def parse_alignment(name: str) -> tuple[str, str]:
    """(alignment, per) for `depth_metrics` of a name as results carry it: "scale", or "scale_per_image".

    Raises:
      ValueError: an unknown alignment.
    """
    alignment = name.removesuffix(PER_IMAGE)
    if alignment not in ALIGNMENTS:
        raise ValueError(
            f"Unknown depth alignment {name!r}. Known: {', '.join(ALIGNMENTS)}, each also with {PER_IMAGE} at its end."
        )
    return alignment, "sequence" if alignment == name else "image"


def align_depth(prediction, target, mask, alignment: str) -> np.ndarray:
    """The whole prediction after the alignment that is fitted where `mask`, in float64.

    Args, alignments and errors as `depth_metrics`.

    Returns:
      The shape of `prediction`, unaligned where not `mask`.
    """
    prediction, target, mask = _checked(prediction, target, mask, alignment)
    aligned = prediction.copy()
    if mask.any():
        aligned[mask] = _aligned(prediction[mask], np.maximum(target[mask], DEPTH_FLOOR), alignment)
    return aligned


def depth_metrics(
    prediction, target, mask, alignment: str = "none", per: str = "sequence"
) -> dict[str, float | int | None]:
    """Depth errors over the valid pixels of whatever is passed: an image, a sequence, a data set.

    abs_rel = mean |d - g| / g; sq_rel = mean (d - g)^2 / g; rmse; rmse_log (natural logarithm);
    log10 = mean |log10 d - log10 g|; delta_k = share with max(d / g, g / d) < 1.25^k. Predictions
    are floored at 1e-6 before and after alignment, targets once.

    Args:
      prediction: depth d of any shape.
      target: depth g > 0, the same shape.
      mask: bool, the same shape. What lies outside is not read.
      alignment: a name in `ALIGNMENTS`.
      per: "sequence": one alignment is fitted to all pixels together, and errors are over all of them. "image": the
        first axis counts images; each is aligned and scored by itself, and errors are the mean over the images that
        have a valid pixel (so rmse is a mean of roots).

    Returns:
      The eight errors (None without a valid pixel) and n, the number of valid pixels; with "image" also n_images.

    Raises:
      ValueError: shapes that differ, an unknown alignment or `per`, "image" for arrays of fewer than three axes,
        non-finite predictions or non-positive targets where `mask`.
    """
    prediction, target, mask = _checked(prediction, target, mask, alignment)
    if per not in PER:
        raise ValueError(f"'per' is {per!r}, expected one of {', '.join(PER)}.")
    if per == "image":
        if prediction.ndim < 3:
            raise ValueError(
                f"'prediction' has shape {prediction.shape}; per image it must be [images, height, width]."
            )
        images = [_errors(*image, alignment) for image in zip(prediction, target, mask, strict=True)]
        scored = [image for image in images if image["n"]]
        means = {key: float(np.mean([image[key] for image in scored])) if scored else None for key in _KEYS}
        return {**means, "n": int(mask.sum()), "n_images": len(scored)}
    return _errors(prediction, target, mask, alignment)


def _errors(prediction, target, mask, alignment: str) -> dict[str, float | int | None]:
    number = int(mask.sum())
    if not number:
        return {**dict.fromkeys(_KEYS), "n": 0}
    g = np.maximum(target[mask], DEPTH_FLOOR)
    d = _aligned(prediction[mask], g, alignment)
    ratio = np.maximum(d / g, g / d)
    log_error = np.log(d) - np.log(g)
    errors = {
        "abs_rel": np.mean(np.abs(d - g) / g),
        "sq_rel": np.mean((d - g) ** 2 / g),
        "rmse": np.sqrt(np.mean((d - g) ** 2)),
        "rmse_log": np.sqrt(np.mean(log_error**2)),
        "log10": np.mean(np.abs(log_error)) / np.log(10),
        **{f"delta_{k}": np.mean(ratio < 1.25**k) for k in (1, 2, 3)},
    }
    return {**{key: float(value) for key, value in errors.items()}, "n": number}


def _aligned(prediction: np.ndarray, target: np.ndarray, alignment: str) -> np.ndarray:
    fitted = ALIGNMENTS[alignment](np.maximum(prediction, DEPTH_FLOOR), target)
    return np.maximum(fitted, DEPTH_FLOOR)


def _checked(prediction, target, mask, alignment: str):
    prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise ValueError(f"'mask' must be bool, not {mask.dtype}.")
    for name, array in (("target", target), ("mask", mask)):
        if array.shape != prediction.shape:
            raise ValueError(f"'{name}' has shape {array.shape}, but 'prediction' has {prediction.shape}.")
    if alignment not in ALIGNMENTS:
        raise ValueError(f"Unknown alignment {alignment!r}. Known: {', '.join(ALIGNMENTS)}.")
    wrong = int((~np.isfinite(prediction[mask])).sum())
    if wrong:
        raise ValueError(f"'prediction' is not finite at {wrong} of {int(mask.sum())} valid pixels.")
    wrong = int((~(np.isfinite(target[mask]) & (target[mask] > 0))).sum())
    if wrong:
        raise ValueError(f"'target' is not a finite depth > 0 at {wrong} of {int(mask.sum())} valid pixels.")
    return prediction, target, mask
