"""A published teacher as one thing: whose licence, which sizes make it another, what it is asked to compute."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialsv_jax.teachers import networks
from spatialsv_jax.teachers.da3 import hf as da3_files
from spatialsv_jax.teachers.da3 import presets as da3_presets
from spatialsv_jax.teachers.vggt import presets as vggt_presets

WEIGHTS = Path(__file__).parents[2] / "goldens"


def test_published_names_state_their_licence(tmp_path, monkeypatch):
    """Where the sizes are those of the published model: a name alone makes other weights no cheaper."""
    for name, family, presets, licence, commercial in (
        ("DA3-SMALL", "da3", da3_presets, "Apache-2.0", True),
        ("DA3-LARGE-1.1", "da3", da3_presets, "CC BY-NC 4.0", False),
        ("VGGT-1B", "vggt", vggt_presets, "non-commercial", False),
        ("VGGT-1B-Commercial", "vggt", vggt_presets, "VGGT License v1", True),
    ):
        (tmp_path / name).symlink_to(WEIGHTS / family)
        found = networks.outline(family, tmp_path / name, process_res=70)
        assert found.licence == "" and not found.commercial
        key, own = name.upper().removesuffix("-1.1"), dataclasses.replace(found.model.sizes, dtype="float32")
        monkeypatch.setitem(presets.PUBLISHED, key, dataclasses.replace(presets.PUBLISHED[key], sizes=own))
        found = networks.outline(family, tmp_path / name)
        assert licence in found.licence and found.commercial == commercial


def test_the_metric_checkpoint_is_one_that_gives_metres(tmp_path, monkeypatch):
    for name in ("DA3MONO-LARGE", "DA3METRIC-LARGE"):
        (tmp_path / name).symlink_to(WEIGHTS / "da3_mono")
        own = dataclasses.replace(da3_files.load(WEIGHTS / "da3_mono").model.sizes)
        monkeypatch.setitem(da3_presets.PUBLISHED, name, dataclasses.replace(da3_presets.PUBLISHED[name], sizes=own))
    joined = networks.outline("da3", WEIGHTS / "da3", tmp_path / "DA3METRIC-LARGE", licence="mine")
    assert joined.is_metric and joined.licence == "mine" and not joined.commercial  # one of the two is not known
    with pytest.raises(
        ValueError, match="DA3MONO-LARGE gives relative depth, which has no unit: DA3METRIC-LARGE gives"
    ):
        networks.outline("da3", WEIGHTS / "da3", tmp_path / "DA3MONO-LARGE")
    with pytest.raises(ValueError, match="gives relative depth"):
        networks.outline("da3", "DA3-LARGE", "DA3MONO-LARGE")


def test_weights_and_sizes_make_the_checkpoint(tmp_path):
    """Sizes that config.json states decide what is predicted as the weights do."""
    whole = networks.load("vggt", WEIGHTS / "vggt").checkpoint
    shutil.copytree(WEIGHTS / "vggt", tmp_path / "other")
    assert networks.load("vggt", tmp_path / "other").checkpoint == whole and len(whole) == 64
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    assert config["dpt"]["intermediate_layer_idx"] != [0, 1, 2, 4]
    config["dpt"]["intermediate_layer_idx"] = [0, 1, 2, 4]
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    assert networks.load("vggt", tmp_path / "other").checkpoint != whole


def test_rays_are_handed_out_where_they_are_asked_for():
    for rays in (False, True):
        network = networks.outline("da3", WEIGHTS / "da3", rays=rays)
        found = jax.eval_shape(network.predict, network.params, networks.PIXELS)
        assert ("ray" in found) == ("ray_confidence" in found) == rays


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "HIGHEST"), ("bfloat16", "DEFAULT")])
def test_float32_products_are_asked_for(dtype, precision):
    """Accelerators multiply float32 in bfloat16 or TF32 unless told otherwise."""
    network = networks.outline("da3", WEIGHTS / "da3", dtype=dtype)
    text = jax.jit(network.predict).lower(network.params, networks.PIXELS).as_text()
    blocks = [line for line in text.splitlines() if "dot_general" in line and "<32x128x" in line]  # of the MLPs
    assert len(blocks) >= 3 and all(f"precision = [{precision}, {precision}]" in line for line in blocks)


def test_a_view_without_a_lens_has_no_say_in_the_scale():
    """A field of view of 0 is a focal length without end: its metres would outweigh all others'."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 3, (1, 3, 14, 14)).astype(np.float32)
    matrix = np.tile(np.float32([[20, 0, 7], [0, 20, 7], [0, 0, 1]]), (1, 3, 1, 1))
    matrix[0, 1, [0, 1], [0, 1]] = 7e6
    found = {
        "depth": depth, "depth_confidence": np.ones_like(depth), "intrinsics": matrix, "pose": np.zeros((1, 3, 9)),
        "camera_to_world": np.tile(np.eye(4, dtype=np.float32), (1, 3, 1, 1)), "ray": np.zeros((1, 3, 8, 8, 6)),
    }  # fmt: skip
    found, seen = jax.tree.map(jnp.asarray, (found, {"depth": 90 * depth, "sky": np.zeros_like(depth)}))
    stand_in = lambda given: SimpleNamespace(sizes=SimpleNamespace(dtype="float32"), apply=lambda *_, **__: given)
    how = dict(resize="", process_res=14, features=None, licence="", commercial=False, checkpoint="")
    network = networks.Network("da3", "n", stand_in(found), {"model": {}, "metric": {}}, stand_in(seen), **how)
    made = jax.jit(network.predict)(network.params, jnp.zeros((1, 3, 14, 14, 3)), jnp.array([[True, True, False]]))
    np.testing.assert_allclose(made["depth"], 6 * depth, rtol=1e-5)  # 90 f / 300 of the one view that counts
    made = jax.jit(network.predict)(network.params, jnp.zeros((1, 3, 14, 14, 3)), jnp.array([[False, True, False]]))
    assert not made["valid"].any() and not made["depth"].any()  # nothing says how long a metre is


@pytest.mark.parametrize(("family", "side", "message"), [
    ("da3", -5, "process_res is -5; for da3 it must be 14 or more, or 0 for 504"),
    ("da3", 13, "process_res is 13"),
    ("vggt", 500, "process_res is 500; for vggt it must be a multiple of 14, or 0 for 518"),
])  # fmt: skip
def test_sizes_that_no_patch_fits(family, side, message):
    with pytest.raises(ValueError, match=message):
        networks.outline(family, WEIGHTS / family, process_res=side)
