"""A published teacher's model on reference inputs, every intermediate under the reference's name and in its order."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from spatialsv_jax.teachers.da3 import hf
from spatialsv_jax.teachers.dpt import add_sine

GOLDENS = Path(__file__).parent / "goldens"
STEP, SHIFT = (
    7,
    3,
)  # of what the committed references hold: values SHIFT, SHIFT + STEP, ..., and the largest absolute one


@functools.cache
def imported(folder, **changes):
    """The checkpoint in `folder` of the goldens (or a path), products in full float32."""
    return hf.load(GOLDENS / folder, **{"head_precision": "highest"} | changes)


def reference(folder, file="reference.npz"):
    """The arrays of a reference file."""
    with np.load(GOLDENS / folder / file) as values:
        return {name: values[name] for name in values.files}


def run(found, pixels, **inputs):
    """(predictions, intermediates) of one call, everything traced with full float32 products."""
    with jax.default_matmul_precision("highest"):
        predictions, seen = _calls(found.model)(found.params, jnp.asarray(pixels), inputs)
    return jax.tree.map(np.asarray, (predictions, seen["intermediates"]))


@functools.cache
def _calls(model):
    options = {"capture_intermediates": True, "mutable": ["intermediates"]}
    return jax.jit(lambda params, pixels, inputs: model.apply({"params": params}, pixels, **inputs, **options))


def predict(found, pixels, *names, **inputs):
    """The named predictions of one call; "features" are those of the last tap. Without maps the program is small."""
    with jax.default_matmul_precision("highest"):
        made = _predictions(found.model, names)(found.params, jnp.asarray(pixels), inputs)
    return jax.tree.map(np.asarray, made)


@functools.cache
def _predictions(model, names):
    def call(params, pixels, inputs):
        made = model.apply({"params": params}, pixels, **inputs, features=3)
        return {name: made[name] for name in names}

    return jax.jit(call)


def out(seen, path):
    """What a module gave, by its path."""
    for name in path.split("/"):
        seen = seen[name]
    return seen["__call__"][0]


def any_view_states(found, predictions, seen):
    """name -> array of an any-view run, as the reference names, orders and lays out its arrays."""
    sizes, params = found.model.sizes, found.params
    states = {
        "patch_embed": out(seen, "backbone/tokens/patch"),
        "tokens_in": out(seen, "backbone/tokens"),
        "ref_idx": predictions["reference"],
    }
    blocks = list(out(seen, "backbone/plain/layers/block"))
    if sizes.alt_start % 2:
        blocks.append(out(seen, "backbone/lone"))
    pairs = [out(seen, f"backbone/pairs/layers/{part}") for part in ("within", "across")]
    blocks += [pair[number] for number in range(len(pairs[0])) for pair in pairs]
    states["ref_select_input"] = blocks[sizes.alt_start - 2][:, :, 0]
    for number, block in enumerate(blocks):
        moved = number >= sizes.alt_start - 1
        states[f"block_{number:02d}"] = in_processing_order(block, predictions["reference"]) if moved else block
    grids, rows, _ = out(seen, "backbone")
    for number, (tap, grid) in enumerate(zip(sizes.taps, grids, strict=True)):
        states[f"tap_{number}_patch"] = grid.reshape(*grid.shape[:2], -1, grid.shape[-1])
        states[f"tap_{number}_camera"] = np.concatenate([blocks[tap - 1][:, :, 0], blocks[tap][:, :, 0]], -1)
    np.testing.assert_array_equal(rows, states["tap_3_camera"])
    aspect = predictions["depth"].shape[-1] / predictions["depth"].shape[-2]
    states |= head_states(params["head"], seen["head"], aspect)
    for level in range(1, 4):
        states[f"head_refinenet{level + 1}_aux"] = maps(out(seen, f"head/ray_pyramid/level_{level}"))
    states["head_output_conv1_aux_3"] = maps(out(seen, "head/ray_neck_4"))
    poses = predictions["camera_to_world"]
    states |= {
        "depth": predictions["depth"],
        "depth_conf": predictions["depth_confidence"],
        "ray": np.concatenate([predictions["ray"][..., 3:], predictions["ray"][..., :3]], -1),
        "ray_conf": predictions["ray_confidence"],
        "pose_enc": predictions["pose"],
        "c2w": poses[..., :3, :],
        "extrinsics_w2c": np.linalg.inv(poses.astype(np.float64))[..., :3, :],
        "intrinsics": predictions["intrinsics"],
    }
    if "camera_encoder" in seen:
        states["cam_enc_token"] = out(seen, "camera_encoder")
    return states


def mono_states(found, predictions, seen):
    """name -> array of a run of the mono form, likewise."""
    blocks = out(seen, "backbone/plain/layers/block")
    states = {f"block_{number:02d}": block for number, block in enumerate(blocks)}
    for number, grid in enumerate(out(seen, "backbone")):
        states[f"tap_{number}_patch"] = grid.reshape(*grid.shape[:2], -1, grid.shape[-1])
    states |= head_states(found.params["head"], seen["head"], None)
    return states | {"depth_raw": predictions["depth"], "sky": predictions["sky"]}


def head_states(params, seen, aspect):
    """Maps of a head's first part, [n,c,h,w]."""
    states = {}
    for level, factor in ((0, 4), (1, 2)):  # before the pixels of a token are laid out
        x = out(seen, f"reassembly/resize_{level}")
        number, rows, columns, channels = x.shape
        x = x.reshape(number, rows, columns, factor, factor, -1).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(number, rows * factor, columns * factor, channels // factor**2)
        states[f"head_resized_{level + 1}"] = maps(x + np.asarray(params["reassembly"][f"resize_{level}_bias"]))
    third = out(seen, "reassembly/project_2")
    states["head_resized_3"] = maps(third if aspect is None else np.asarray(add_sine(jnp.asarray(third), aspect)))
    states["head_resized_4"] = maps(out(seen, "reassembly/resize_3"))
    states["head_layer4_rn"] = maps(out(seen, "reassembly/reduce_3"))
    for level in range(1, 4):
        states[f"head_refinenet{level + 1}"] = maps(out(seen, f"pyramid/level_{level}"))
    states["head_output_conv1"] = maps(out(seen, "neck"))
    return states


def maps(x):
    """[n,h,w,c] as [n,c,h,w]."""
    return np.moveaxis(x, -1, 1)


def in_processing_order(x, reference):
    """[B,S,...] with each sample's reference view first, the others in order."""
    return np.stack([
        np.concatenate([rows[first : first + 1], rows[:first], rows[first + 1 :]])
        for rows, first in zip(x, reference, strict=True)
    ])  # fmt: skip


def cut(values):
    """What a committed reference holds of an array: every `STEP`-th value, and the largest absolute one."""
    flat = np.ravel(values)
    return np.append(flat[SHIFT::STEP], np.abs(flat).max()).astype(np.float32)


def error(found, wanted):
    """Largest difference over the largest absolute value of the reference."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)
