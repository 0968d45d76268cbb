"""Depth Anything 3's second way to cameras: from the ray map, by RANSAC over homographies. NumPy, float64, on the host.

Slower than the camera decoder, and said by the project to be more accurate for some models. `geometry.solve_camera` solves the same
problem by weighted least squares without a search for outliers.
"""

from __future__ import annotations

import numpy as np

from spatialsv_jax.geometry import pose_matrix
from spatialsv_jax.geometry.cameras import CameraFit

SAMPLES, SAMPLE_SIZE = 100, 8
CANDIDATES = 0.3  # share of the rays, the most confident ones, that samples are drawn from
INLIER = 0.2  # distance in the plane at depth 1
MOST_INLIERS, MOST_CONFIDENT = 8000, 0.95
LEAST_Z = 1e-4


def cameras_from_rays(
    ray: np.ndarray,
    confidence: np.ndarray,
    size: tuple[int, int],
    *,
    samples: np.ndarray | None = None,
    seed: int = 0,
    centred: bool = True,
) -> CameraFit:
    """Cameras of ray maps, as the published program decodes them.

    Args:
      ray: [...,h,w,6] = [origin, direction] in the world, directions of any positive length.
      confidence: [...,h,w] weights.
      size: (H, W) of the picture whose intrinsics are wanted.
      samples: int[n,8] numbers of candidates (0 = the most confident), the same for all views; None: 100 drawn with `seed`.
      seed: of the draws.
      centred: True factors the homography as the published program does, which takes the principal point to be the picture's
        centre: one elsewhere comes back mirrored, and turns the rotation by a degree or two. False factors it exactly.

    Returns:
      CameraFit of intrinsics in pixels of H x W, camera_to_world, and `ok`: False (and identities) where fewer than 8 rays have
      weight.

    Raises:
      ValueError: shapes that do not fit.
    """
    ray, confidence = np.asarray(ray, np.float64), np.asarray(confidence, np.float64)
    if ray.ndim < 3 or ray.shape[-1] != 6 or confidence.shape != ray.shape[:-1]:
        raise ValueError(f"ray {ray.shape} and confidence {confidence.shape}: expected [..., h, w, 6] and [..., h, w].")
    lead, (height, width) = ray.shape[:-3], ray.shape[-3:-1]
    candidates = max(SAMPLE_SIZE, int(CANDIDATES * height * width))
    if height * width < SAMPLE_SIZE:
        raise ValueError(f"a ray map of {height} x {width} holds fewer than {SAMPLE_SIZE} rays.")
    draws = np.random.default_rng(seed)
    if samples is None:
        samples = np.stack([draws.choice(candidates, SAMPLE_SIZE, replace=False) for _ in range(SAMPLES)])
    x, y = ((2 * np.arange(count) + 1) / count - 1 for count in (width, height))
    grid = np.stack([*np.meshgrid(x, y), np.ones((height, width))], -1).reshape(-1, 3)
    maps = zip(ray.reshape(-1, height * width, 6), confidence.reshape(-1, height * width), strict=True)
    found = [_camera(grid, *one, np.asarray(samples), candidates, draws, centred) for one in maps]
    half = np.array([size[1] / 2, size[0] / 2])
    intrinsics = np.zeros((len(found), 3, 3))
    for number, (matrix, _, ok) in enumerate(found):
        intrinsics[number] = matrix
        if ok:
            intrinsics[number, :2] *= half[:, None]
            intrinsics[number, :2, 2] += half
    poses, good = np.stack([pose for _, pose, _ in found]), np.array([ok for _, _, ok in found])
    return CameraFit(intrinsics.reshape(*lead, 3, 3), poses.reshape(*lead, 4, 4), good.reshape(lead))


def _camera(grid, ray, confidence, samples, candidates, draws, centred):
    """(intrinsics in half pictures from the centre, camera_to_world, ok) of one map."""
    depth = ray[:, 5]
    usable = np.abs(depth) > LEAST_Z
    weight = np.where(usable & (confidence > 0), confidence, 0.0)
    if np.count_nonzero(weight) < SAMPLE_SIZE:
        return np.eye(3), np.eye(4), False
    target = ray[:, 3:5] / np.where(usable, depth, 1.0)[:, None]
    order = np.argsort(-weight, kind="stable")
    picked = order[:candidates][samples]
    best, highest = None, -1.0
    for matrix in _homographies(grid[picked], target[picked], weight[picked]):
        inside = _inliers(matrix, grid, target)
        score = weight[inside].sum()
        if score > highest:
            best, highest = inside, score
    inliers = np.flatnonzero(best & (weight > 0))
    if len(inliers) > MOST_INLIERS:
        confident = inliers[np.argsort(-weight[inliers], kind="stable")][: int(MOST_CONFIDENT * len(inliers))]
        inliers = draws.choice(confident, min(MOST_INLIERS, len(confident)), replace=False)
    if len(inliers) < SAMPLE_SIZE:
        inliers = order[:candidates]
    matrix = _homographies(grid[inliers][None], target[inliers][None], weight[inliers][None])[0]
    matrix = matrix if np.linalg.det(matrix) > 0 else -matrix
    rotation, intrinsics = (_centred if centred else _exact)(matrix)
    centre = (weight[:, None] * ray[:, :3]).sum(0) / weight.sum()
    return intrinsics, pose_matrix(rotation, centre), True


def _homographies(source: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """float64[n,3,3]: the weighted direct linear transform of source [n,m,3] to target [n,m,2], last entry 1."""
    zero = np.zeros_like(source)
    x = np.concatenate([source, zero, -target[..., :1] * source], -1)
    y = np.concatenate([zero, source, -target[..., 1:] * source], -1)
    rows = np.concatenate([x, y], 1) * np.sqrt(np.concatenate([weight, weight], 1))[..., None]
    vectors = np.linalg.svd(rows, full_matrices=rows.shape[1] < 9)[2]
    found = vectors[:, -1].reshape(-1, 3, 3)
    return found / np.where(found[:, 2:, 2:] == 0, 1e-12, found[:, 2:, 2:])


def _inliers(matrix: np.ndarray, grid: np.ndarray, target: np.ndarray) -> np.ndarray:
    image = grid @ matrix.T
    away = np.abs(image[:, 2]) > 1e-12
    place = image[:, :2] / np.where(away, image[:, 2], 1.0)[:, None]
    return away & (np.linalg.norm(place - target, axis=-1) < INLIER)


def _centred(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R and K of matrix ~ R L, L lower triangular: focal lengths 1/L11, 1/L22, principal point L31, L32."""
    rotation, upper = _positive_qr(matrix[:, ::-1])
    rotation, lower = rotation[:, ::-1], upper[::-1, ::-1]
    lower = lower / lower[2, 2]
    intrinsics = np.array([[1 / lower[0, 0], 0, lower[2, 0]], [0, 1 / lower[1, 1], lower[2, 1]], [0, 0, 1]])
    return rotation, intrinsics


def _exact(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R and K of matrix ~ R K^-1, K upper triangular."""
    rotation, upper = _positive_qr(matrix)
    intrinsics = np.linalg.inv(upper)
    return rotation, intrinsics / intrinsics[2, 2]


def _positive_qr(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rotation, upper = np.linalg.qr(matrix)
    signs = np.where(np.diag(upper) < 0, -1.0, 1.0)
    return rotation * signs, signs[:, None] * upper
