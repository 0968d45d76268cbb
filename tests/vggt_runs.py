"""VGGT on reference inputs, every intermediate under the reference's name and in its layout."""

import dataclasses
import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from teacher_runs import head_states, out

from spatialsv_jax.geometry import invert_pose, quaternion_of
from spatialsv_jax.teachers.position_tables import resize_table
from spatialsv_jax.teachers.vggt import hf
from spatialsv_jax.teachers.vggt.model import MEAN, STD
from spatialsv_jax.teachers.vggt.presets import TABLE_SIDE

FOLDER = Path(__file__).parent / "goldens/vggt"
STEP, SHIFT = 7, 3  # of a large array, flat: values SHIFT, SHIFT + STEP, ...
SMALL = 600  # numbers of an array that is kept whole


def cut(values):
    """What the committed reference holds of an array: all of a small one, else a part and the largest absolute value."""
    values = np.asarray(values)
    if values.size <= SMALL:
        return values
    flat = values.ravel()
    return np.append(flat[SHIFT::STEP], np.abs(flat).max()).astype(values.dtype)


@functools.cache
def imported(**changes):
    """The small random checkpoint, products in full float32."""
    return hf.load(FOLDER, **{"head_precision": "highest"} | changes)


@functools.cache
def reference():
    """The arrays of the reference file."""
    with np.load(FOLDER / "reference.npz") as values:
        return {name: values[name] for name in values.files}


def pictures():
    """float32[1,3,56,70,3] in 0..1: the reference's scene of three views."""
    return reference()["images_uint8"].astype(np.float32) / np.float32(255)


@functools.cache
def _program(model, intermediates):
    options = dict(capture_intermediates=True, mutable=["intermediates"]) if intermediates else {}
    return jax.jit(lambda params, pixels, inputs: model.apply({"params": params}, pixels, **inputs, **options))


def run(found, pixels, **inputs):
    """(predictions, intermediates) of one call, everything traced with full float32 products."""
    with jax.default_matmul_precision("highest"):
        predictions, seen = _program(found.model, True)(found.params, jnp.asarray(pixels), inputs)
    return jax.tree.map(np.asarray, (predictions, seen["intermediates"]))


def predict(found, pixels, **inputs):
    """The predictions alone."""
    with jax.default_matmul_precision("highest"):
        return jax.tree.map(np.asarray, _program(found.model, False)(found.params, jnp.asarray(pixels), inputs))


@functools.cache
def reference_run():
    """`run` of the reference's scene."""
    return run(imported(), pictures())


def with_params(found, change):
    """The same model with changed parameters (a function of a copy of the tree, in place)."""
    params = jax.tree.map(lambda leaf: leaf, found.params)
    change(params)
    return dataclasses.replace(found, params=params)


def states(found, predictions, seen):
    """name -> array of everything that the reference names."""
    params, sizes = found.params, found.model.sizes
    table = params["encoder"]["tokens"]["position"]
    rows, columns = (side // 14 for side in predictions["depth"].shape[2:])
    resized = resize_table(table[1:], TABLE_SIDE, (rows, columns), "antialiased")
    named = {
        "images_normalised": (pictures() - np.float32(MEAN)) / np.float32(STD),
        "dino_pos_embed_resized": np.concatenate([table[:1], resized])[None],
        "dino_tokens_in": out(seen, "encoder/tokens"),
        "dino_norm": out(seen, "encoder/norm"),
        "aggregator_tokens_in": out(seen, "aggregator/special"),
        "camera_token_normed": out(seen, "camera_head/token_norm"),
        "camera_trunk_out_iterations": out(seen, "camera_head/rounds/trunk").x[:, :, :, 0],
        "patch_start_idx": np.array(sizes.special),
    }
    for name, path in (
        ("dino_block", "encoder/blocks/layers/block"),
        ("frame_block", "aggregator/pairs/layers/within"),
        ("global_block", "aggregator/pairs/layers/across"),
    ):
        named |= {f"{name}_{number:02d}": block for number, block in enumerate(out(seen, path))}
    first_part = head_states(params["depth_head"], seen["depth_head"], columns / rows)
    named |= {f"depth_{name}": value for name, value in first_part.items()}
    return named | outputs(predictions)


def outputs(predictions):
    """The predictions in the reference's conventions."""
    world_to_camera = invert_pose(predictions["camera_to_world"].astype(np.float64))
    focal = predictions["intrinsics"][..., (1, 0), (1, 0)].astype(np.float64)
    fields = 2 * np.arctan(np.array(predictions["depth"].shape[2:]) / 2 / focal)
    encoded = [world_to_camera[..., :3, 3], quaternion_of(world_to_camera[..., :3, :3]), fields]
    return {
        "pose_enc_iterations": predictions["pose_rounds"],
        "pose_enc": predictions["pose_rounds"][-1],
        "pose_enc_roundtrip": np.concatenate(encoded, -1),
        "extrinsics_w2c": world_to_camera[..., :3, :],
        "intrinsics": predictions["intrinsics"],
        "depth": predictions["depth"][..., None],
        "depth_conf": predictions["depth_confidence"],
        "world_points": predictions["points"],
        "world_points_conf": predictions["points_confidence"],
        "world_points_from_depth": unprojected(predictions),
    }


def unprojected(predictions):
    """World points of depth and cameras as the published program makes them, through whole pixel numbers; float64."""
    depth, matrix = predictions["depth"].astype(np.float64), predictions["intrinsics"].astype(np.float64)
    v, u = np.indices(depth.shape[2:])
    entry = lambda row, column: matrix[..., row, column][..., None, None]
    x, y = (u - entry(0, 2)) / entry(0, 0), (v - entry(1, 2)) / entry(1, 1)
    local = np.stack([x * depth, y * depth, depth], -1)
    poses = predictions["camera_to_world"].astype(np.float64)
    return np.einsum("bsij,bshwj->bshwi", poses[..., :3, :3], local) + poses[..., None, None, :3, 3]


def epsilons(model, pixels):
    """Path of every LayerNorm -> its epsilon, as the modules hold them."""
    seen = {}

    def watch(call, arguments, keywords, context):
        if isinstance(context.module, nn.LayerNorm):
            seen["/".join(context.module.path)] = context.module.epsilon
        return call(*arguments, **keywords)

    with nn.intercept_methods(watch):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(pixels, jnp.float32))
    return seen
