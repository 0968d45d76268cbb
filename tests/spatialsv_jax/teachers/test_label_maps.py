"""A teacher's maps as labels on a device, part by part beside what the loader makes of label files in NumPy."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.collate import default_intrinsics, pad_views
from data_pipelines.labels.cameras import impossible_camera
from data_pipelines.labels.exports import pool_cells
from data_pipelines.labels.files import LabelFile
from data_pipelines.online import OnlinePictures, fields
from data_pipelines.transforms.features import file_to_measured, pool_features
from data_pipelines.transforms.geometry import keep_views, make_labels, resample_depth
from spatialsv_jax.geometry import possible_cameras
from spatialsv_jax.teachers import label_maps, online

SIZE = (42, 56)  # of the teacher's maps
LABEL, GRID = (18, 20), (3, 4)


def maps(rng, lead=(), size=SIZE):
    """Depth of slanted planes with steps, rough parts and holes, float32[...,h,w]."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, side) for side in size), indexing="ij")
    slopes = rng.uniform(-0.3, 0.3, (2, *lead, 1, 1))
    depth = 1 / (rng.uniform(0.4, 1.0, (*lead, 1, 1)) + slopes[0] * rows + slopes[1] * columns)
    depth = depth * np.where(columns > rng.uniform(-0.5, 0.5), 1.7, 1.0)
    rough = rng.random((*lead, *size)) < 0.05
    depth = np.where(rough, depth * rng.uniform(0.5, 2, depth.shape), depth)
    holes = rng.random(depth.shape) < 0.03
    return np.where(holes, 0, depth).astype(np.float32)


def pose(rng):
    quaternion = rng.normal(size=4)
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = rng.normal(size=3)
    return matrix


def camera(rng, size=SIZE):
    return np.array(
        [
            [size[1] * rng.uniform(0.6, 1.4), 0, size[1] / 2],
            [0, size[0] * rng.uniform(0.6, 1.4), size[0] / 2],
            [0, 0, 1],
        ]
    )


def grid_of(affine, label=LABEL):
    """`Grid` of one view's affine map, in a batch of one."""
    made = OnlinePictures(_teacher([affine]), SIZE).views([None], np.eye(2, 3)[None], label, GRID, "r")
    return label_maps.Grid(jnp.asarray(made.columns[None]), jnp.asarray(made.rows[None]))


def _teacher(to_teacher, covered=None):
    """A teacher whose maps lie so that identity in the picture is `to_teacher` in them."""
    inverse = [np.linalg.inv(np.vstack([affine, [0, 0, 1]]))[:2] for affine in to_teacher]
    prepared = SimpleNamespace(
        pictures=np.zeros((len(inverse), *SIZE, 3), np.uint8),
        label_affine=np.stack(inverse),
        covered=np.ones((len(inverse), *SIZE), bool) if covered is None else covered,
    )
    return SimpleNamespace(prepare=lambda images: prepared)


def test_cameras_are_refused_alike():
    rng, cases = np.random.default_rng(0), []
    for _ in range(20):
        cases.append((camera(rng), pose(rng)))
    changes = [
        ("fx", lambda k, p: k.__setitem__((0, 0), 0.04 * SIZE[1])), ("fy", lambda k, p: k.__setitem__((1, 1), 101 * SIZE[0])),
        ("cx", lambda k, p: k.__setitem__((0, 2), 0.8 * SIZE[1])), ("negative", lambda k, p: k.__setitem__((0, 0), -30.0)),
        ("aspect", lambda k, p: k.__setitem__((0, 0), 5 * k[1, 1])), ("skew", lambda k, p: k.__setitem__((0, 1), 0.2 * k[0, 0])),
        ("lower", lambda k, p: k.__setitem__((1, 0), 0.1)), ("last", lambda k, p: k.__setitem__((2, 2), 2.0)),
        ("nan", lambda k, p: k.__setitem__((0, 0), np.nan)), ("inf", lambda k, p: p.__setitem__((0, 3), np.inf)),
        ("zero", lambda k, p: p.__setitem__(slice(None), 0)), ("mirrored", lambda k, p: p.__setitem__((slice(3), 0), -p[:3, 0])),
        ("scaled", lambda k, p: p.__setitem__((slice(3), slice(3)), 1.1 * p[:3, :3])),
        ("nearly", lambda k, p: p.__setitem__((slice(3), slice(3)), 1.001 * p[:3, :3])),
        ("large", lambda k, p: p.__setitem__((0, 0), 3.0)), ("row", lambda k, p: p.__setitem__((3, 0), 1e-3)),
        ("far", lambda k, p: p.__setitem__((0, 3), 2e9)),
    ]  # fmt: skip
    for _, change in changes:
        cases.append((camera(rng), pose(rng)))
        change(*cases[-1])
    wanted = np.array([not impossible_camera(*case, SIZE) for case in cases])
    assert wanted[:20].all() and not wanted[20:].all() and wanted.sum() == 21
    intrinsics, poses = (np.stack(part) for part in zip(*cases, strict=True))
    np.testing.assert_array_equal(possible_cameras(intrinsics, poses, *SIZE), wanted)
    single = (jnp.asarray(part, jnp.float32) for part in (intrinsics, poses))
    np.testing.assert_array_equal(jax.jit(possible_cameras, static_argnums=(2, 3))(*single, *SIZE), wanted)


@pytest.mark.parametrize("kind", ["even", "ties", "flat", "negative", "few"])
def test_the_least_confident_pixels_are_those_of_label_files(kind):
    rng, lead = np.random.default_rng(1), (4, 3)
    confidence = {
        "even": 1 + rng.exponential(size=(*lead, *SIZE)),
        "ties": 1 + rng.integers(0, 3, (*lead, *SIZE)),
        "flat": np.ones((*lead, *SIZE)),
        "negative": rng.normal(size=(*lead, *SIZE)),
        "few": 1 + rng.random((*lead, *SIZE)),
    }[kind].astype(np.float32)
    valid = rng.random((*lead, *SIZE)) < (0.001 if kind == "few" else 0.7)
    valid[3] = False
    quantile = np.array([0.3, 0.0, 0.55, 0.2], np.float32)
    found = jax.jit(label_maps.confident)(confidence, valid, quantile)
    for row in range(4):
        labels = SimpleNamespace(
            depth=np.ones((3, *SIZE), np.float32), valid=valid[row], confidence=confidence[row],
            intrinsics=np.zeros((3, 3, 3)), camera_to_world=np.zeros((3, 4, 4)), pose_valid=np.ones(3, bool),
            label_affine=np.tile(np.eye(2, 3), (3, 1, 1)), metric=False,
        )  # fmt: skip
        measured = file_to_measured(labels, [0, 1, 2], labels.label_affine, float(quantile[row]))
        np.testing.assert_array_equal(found[row], np.stack(measured.depths) > 0, err_msg=str(row))


@pytest.mark.parametrize(
    "affine",
    [
        [[2.8, 0, 0], [0, 42 / 18, 0]],
        [[2.0, 0, 3.0], [0, 2.0, 1.0]],  # on the borders of pixels
        [[2.0, 0, 0.5], [0, 2.0, 0.5]],  # on their centres
        [[4.1, 0, -7.3], [0, 3.3, -5.2]],  # beyond the map
        [[0.31, 0, 20.2], [0, 0.4, 17.7]],  # enlarged
    ],
)
def test_depth_is_resampled_as_the_loader_does(affine):
    rng, affine = np.random.default_rng(2), np.array(affine)
    depth = maps(rng, (1, 1))
    wanted = resample_depth(depth, affine, *LABEL)
    found = np.asarray(jax.jit(label_maps.resample_depth)(depth, grid_of(affine)))
    np.testing.assert_array_equal(found > 0, wanted > 0)
    np.testing.assert_allclose(found, wanted, rtol=2e-5)


def test_features_are_pooled_as_those_of_label_files():
    rng, patches = np.random.default_rng(3), (32, 29)  # more than label files keep
    size = tuple(14 * side for side in patches)
    features = rng.normal(size=(2, *patches, 5)).astype(np.float32)
    affines = np.array([[[20.0, 0, 0], [0, 21.0, 0]], [[13.1, 0, 40.0], [0, 17.3, -20.0]]])
    labels = LabelFile(
        depth=np.ones((2, *size), np.float32), confidence=np.ones((2, *size), np.float32), intrinsics=np.zeros((2, 3, 3)),
        camera_to_world=np.zeros((2, 4, 4)), valid=np.ones((2, *size), bool), label_affine=np.tile(np.eye(2, 3), (2, 1, 1)),
        view_ids=("a", "b"), teacher="t", checkpoint="c", images_hash="h", features=pool_cells(features),
    )  # fmt: skip
    wanted = pool_features(labels, [0, 1], affines, LABEL, GRID)
    prepared = SimpleNamespace(
        pictures=np.zeros((2, *size, 3), np.uint8), label_affine=labels.label_affine, covered=np.ones((2, *size), bool)
    )
    pictures = OnlinePictures(SimpleNamespace(prepare=lambda images: prepared), size, 5)
    made = pictures.views([None, None], affines, LABEL, GRID, "r")
    found = label_maps.pool_features(features[None], made.pool_rows[None], made.pool_columns[None])[0]
    np.testing.assert_allclose(found, wanted, atol=1e-3)  # files keep float16
    assert np.abs(wanted).max() > 0.1


class Predicts:
    """Stands for a network: says what it was made with."""

    def __init__(self, found, metric):
        self.found, self.is_metric = found, metric

    def normalise(self, pictures):
        return pictures.astype(jnp.float32)

    def predict(self, params, pixels, view_valid):
        return jax.tree.map(jnp.asarray, self.found)


@pytest.fixture(scope="module")
def whole():
    """A batch of six rows with the teacher's predictions, and of each row the labels by way of a label file."""
    rng, rows, views = np.random.default_rng(4), 6, 3
    shown = np.array([3, 2, 3, 3, 3, 3])
    quantile, weighted = (0.0, 0.25), (True, False)
    source = np.array([0, 1, 1, 0, 1, 0], np.int32)
    depth = maps(rng, (rows, views))
    confidence = 1 + rng.exponential(size=depth.shape).astype(np.float32)
    confidence[2, 0, :9] = np.nan
    poses = np.stack([[pose(rng) for _ in range(views)] for _ in range(rows)])
    intrinsics = np.stack([[camera(rng) for _ in range(views)] for _ in range(rows)])
    intrinsics[1, 0, 0, 0] = 1e-3  # no lens: the second view is the reference
    depth[3, 0] = 0  # no depth: so too here
    depth[4, :, :, 2:] = 0  # too few pixels
    poses[5, 2] = np.nan
    scale = np.array([LABEL[1] / SIZE[1], LABEL[0] / SIZE[0]])
    zoom = rng.uniform(0.7, 1.3, (rows, views, 2)) / scale
    shift = rng.uniform(-8, 8, (rows, views, 2))
    affine = np.zeros((rows, views, 2, 3))
    affine[..., 0, 0], affine[..., 1, 1], affine[..., 0, 2], affine[..., 1, 2] = (
        *np.moveaxis(zoom, -1, 0),
        *np.moveaxis(shift, -1, 0),
    )
    inside = np.zeros((rows, views, *SIZE), bool)
    inside[..., 3:, : SIZE[1] - 5] = True
    covered = np.ones((rows, views, *LABEL), bool)
    covered[..., -2:] = False
    found = {"depth": depth, "valid": depth > 0, "confidence": confidence, "intrinsics": intrinsics.astype(np.float32)}
    found["camera_to_world"] = poses.astype(np.float32)
    batch, wanted = [], []
    for row in range(rows):
        count = shown[row]
        pictures = OnlinePictures(_teacher(affine[row, :count], inside[row, :count]), SIZE)
        made = pictures.views([None] * count, np.tile(np.eye(2, 3), (count, 1, 1)), LABEL, GRID, "r")
        good = inside[row, :count] & (depth[row, :count] > 0) & np.isfinite(confidence[row, :count])
        cameras = zip(found["intrinsics"][row, :count], found["camera_to_world"][row, :count], strict=True)
        labels = LabelFile(
            depth=np.where(good, depth[row, :count], 0), confidence=np.nan_to_num(confidence[row, :count]), valid=good,
            intrinsics=found["intrinsics"][row, :count], camera_to_world=poses[row, :count],
            label_affine=np.stack([np.linalg.inv(np.vstack([one, [0, 0, 1]]))[:2] for one in affine[row, :count]]),
            view_ids=tuple(map(str, range(count))), teacher="t", checkpoint="c", images_hash="h", metric=True,
            pose_valid=np.array([not impossible_camera(*one, SIZE) for one in cameras]),
        )  # fmt: skip
        own = dict(quantile=quantile[source[row]], weights=weighted[source[row]])
        measured = file_to_measured(labels, list(range(count)), np.tile(np.eye(2, 3), (count, 1, 1)), **own)
        measured = dataclasses.replace(
            measured, camera_to_world=np.where(np.isnan(measured.camera_to_world), 0, measured.camera_to_world)
        )
        wanted.append(keep_views(make_labels(measured, covered[row, :count], "r"), count))
        batch.append(fields(made, views, pictures.blank(views, LABEL, GRID)))
    batch = {name: np.stack([one[name] for one in batch]) for name in batch[0]}
    given = rng.normal(size=(rows, views, *LABEL)).astype(np.float32)
    batch |= {
        "view_valid": np.arange(views) < shown[:, None], "source_index": source, "covered": covered,
        "depth": given, "label_weight": given, "valid": given > 0, "has_geometry": np.ones(rows, bool),
        "intrinsics": given[..., :3, :3], "camera_to_world": given[..., :4, :4], "scene_scale_m": given[:, 0, 0, 0],
        "pose_valid": given[..., 0, 0] > 0, "depth_valid": given[..., 1, 0] > 0,
    }  # fmt: skip
    takes = online.Wanted((True, True), (False, False), quantile, weighted)
    return Predicts(found, True), takes, batch, wanted


def test_labels_of_a_batch_are_those_of_label_files(whole):
    network, takes, batch, wanted = whole
    made = jax.jit(lambda batch: online.make_labels(network, takes, {}, batch))(batch)
    made = jax.tree.map(np.asarray, made)
    assert [labels.has_geometry for labels in wanted] == [True, True, True, True, False, True]
    for row, labels in enumerate(wanted):
        weight = np.where(labels.valid, 1.0 if labels.weight is None else labels.weight, 0)
        expected = {
            "depth": pad_views(labels.depth, 3), "valid": pad_views(labels.valid, 3), "label_weight": pad_views(weight, 3),
            "intrinsics": pad_views(labels.intrinsics, 3, default_intrinsics(*LABEL)),
            "camera_to_world": pad_views(labels.camera_to_world, 3, np.eye(4)),
            "pose_valid": pad_views(labels.pose_valid, 3), "depth_valid": pad_views(labels.depth_valid, 3),
            "has_geometry": labels.has_geometry, "scene_scale_m": labels.scene_scale_m,
        }  # fmt: skip
        for name, value in expected.items():
            np.testing.assert_allclose(made[name][row], value, atol=2e-5, rtol=2e-5, err_msg=f"{row} {name}")


def test_rows_of_other_sources_stay_as_they_are(whole):
    network, takes, batch, _ = whole
    takes = dataclasses.replace(takes, geometry=(False, True))
    made = jax.jit(lambda batch: online.make_labels(network, takes, {}, batch))(batch)
    for name, value in made.items():
        same = [np.array_equal(value[row], batch[name][row]) for row in range(6)]
        assert [same[row] for row in (0, 3, 5)] == [True] * 3, name
    assert not np.array_equal(made["depth"][1], batch["depth"][1])
