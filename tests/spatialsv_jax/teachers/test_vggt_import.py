"""VGGT's sizes, and its checkpoints as parameters: every tensor accounted for."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vggt_runs as runs
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from spatialsv_jax.interop.tensor_files import ConversionError
from spatialsv_jax.partitioning import names_of
from spatialsv_jax.teachers.key_tables import parameter_shapes
from spatialsv_jax.teachers.vggt import hf
from spatialsv_jax.teachers.vggt.model import VGGT
from spatialsv_jax.teachers.vggt.presets import PUBLISHED, VGGT_1B, Sizes, published

PIXELS = jax.ShapeDtypeStruct((1, 2, 28, 28, 3), jnp.float32)


@pytest.fixture
def copy(tmp_path):
    """Writes the checkpoint with changed tensors; None takes one away."""

    def write(changes, config=True):
        folder = tmp_path / "copy"
        folder.mkdir(exist_ok=True)
        tensors = {**load_file(runs.FOLDER / "model.safetensors"), **changes}
        save_file({name: x for name, x in tensors.items() if x is not None}, folder / "model.safetensors")
        if config:
            shutil.copy(runs.FOLDER / "config.json", folder)
        return folder

    return write


def millions(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6


def test_sizes_of_the_published_model():
    """Against the parameters and tensors counted in the published program (millions; 1,797 tensors, 394 of them for tracks)."""
    shapes = parameter_shapes(VGGT(VGGT_1B), PIXELS)
    pairs = shapes["aggregator"]["pairs"]["layers"]
    counted = {
        "encoder": (shapes["encoder"], 304.4),
        "within": (pairs["within"], 302.4),
        "across": (pairs["across"], 302.4),
        "camera head": (shapes["camera_head"], 216.2),
        "depth head": (shapes["depth_head"], 32.7),
        "point head": (shapes["point_head"], 32.7),
    }
    for name, (tree, wanted) in counted.items():
        assert abs(millions(tree) - wanted) <= 0.051, name
    assert abs(millions(shapes) - (1256.5 - 65.9)) < 0.11
    layers = lambda source: 1 if "{layer}" not in source else 4 if source.startswith("camera_head") else 24
    names = sum(layers(source) for source in {rule.source for rule in hf.rules()})
    assert names == 1797 - 394 - 1  # the mask token
    targets = traverse_util.flatten_dict(shapes, sep="/")
    assert {rule.target for rule in hf.rules()} == set(targets)
    assert targets["aggregator/pairs/layers/within/attention/q/kernel"].shape == (24, 1024, 1024)
    assert targets["encoder/tokens/position"].shape == (1370, 1024)


def test_every_parameter_names_its_axes():
    names = names_of(jax.eval_shape(VGGT(runs.imported().model.sizes).init, jax.random.key(0), PIXELS)["params"])
    flat = traverse_util.flatten_dict(names, sep="/")
    assert flat["aggregator/pairs/layers/across/mlp/up/kernel"] == ("layers", "embed", "mlp")
    assert flat["camera_head/rounds/trunk/layers/block/attention/o/kernel"] == ("layers", "heads", "embed")


def test_the_program_does_not_grow_with_depth():
    def lines(depth):
        sizes = Sizes(32, 2, depth, depth, 4, (1, 2, 3, depth - 1), 16, (8, 8, 8, 8))
        model = VGGT(sizes)
        params = parameter_shapes(model, PIXELS)
        return len(str(jax.make_jaxpr(lambda p, x: model.apply({"params": p}, x))(params, PIXELS)).splitlines())

    assert abs(lines(8) - lines(24)) <= 2


def test_licences():
    assert published("facebook/VGGT-1B") is PUBLISHED["VGGT-1B"] and not PUBLISHED["VGGT-1B"].commercial
    commercial = published("weights/VGGT-1B-Commercial/")
    assert commercial.commercial and "military" in commercial.licence and commercial.sizes == VGGT_1B
    assert published("facebook/VGGT-Omega") is None


def test_every_tensor_is_accounted_for():
    found = runs.imported()
    tensors = load_file(runs.FOLDER / "model.safetensors")
    assert found.conversion.carried == ("aggregator.patch_embed.mask_token",) and not found.conversion.new
    assert {name for entry in found.conversion.filled.values() for name in entry.sources} == set(tensors) - {
        "aggregator.patch_embed.mask_token"
    }
    count = sum(leaf.size for leaf in jax.tree.leaves(found.params))
    assert (len(tensors), count) == (397, 476_536 - 32)
    flat = traverse_util.flatten_dict(found.params, sep="/")
    for path, entry in found.conversion.filled.items():  # the way back gives the tensor, or its part
        ours = np.asarray(flat[path])
        for layer, name in enumerate(entry.sources):
            theirs = entry.rule.transform.to_theirs(ours[layer] if entry.rule.stacked else ours)
            np.testing.assert_array_equal(theirs, tensors[name][entry.rule.rows(tensors[name].shape)])


def test_the_track_head_is_left_out_by_name(copy):
    track = {f"track_head.{name}": np.zeros(3, np.float32) for name in ("x.weight", "tracker.y.bias")}
    found = hf.load(copy(track))
    assert set(found.conversion.carried) == {*track, "aggregator.patch_embed.mask_token"}


def test_tensors_that_do_not_fit_are_named(copy):
    missing, unknown = "camera_head.pose_branch.fc2.bias", "aggregator.frame_blocks.0.attn.gate"
    narrow = "depth_head.norm.weight"
    folder = copy({missing: None, unknown: np.zeros(2, np.float32), narrow: np.zeros(63, np.float32)})
    with pytest.raises(ConversionError) as caught:
        hf.load(folder)
    for name in ("camera_head/rounds/down/bias", unknown, narrow):
        assert name in str(caught.value)


def test_a_lost_layer_is_named(copy):
    with pytest.raises(ConversionError, match=r"lacks layers \[3\]"):
        hf.load(copy({"aggregator.global_blocks.3.ls1.gamma": None}))


def test_other_models_are_refused(copy, tmp_path):
    with pytest.raises(ConversionError, match="'aggregator.camera_token' is 32 wide; published is 1024"):
        hf.load(copy({}, config=False))
    other = tmp_path / "other"
    other.mkdir()
    save_file({"backbone.x": np.zeros(1, np.float32)}, other / "model.safetensors")
    with pytest.raises(ConversionError, match="no checkpoint of VGGT. It holds .'backbone.x'"):
        hf.load(other)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "model.pt").write_bytes(b"x")
    with pytest.raises(ConversionError, match="pickle"):
        hf.load(pickled)


def test_sizes_stated_in_the_config(copy):
    folder = copy({})
    values = json.loads((folder / "config.json").read_text())
    values["camera_head"]["num_heads"], values["patch_size"] = 8, 16
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConversionError, match="camera_head.num_heads is 8, built is 16; patch_size is 16, built is 14"):
        hf.load(folder)
    del values["aggregator"]["depth"]
    values["camera_head"]["num_heads"], values["patch_size"] = 16, 14
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConversionError, match="field 'depth' is missing"):
        hf.load(folder)
    for changed, message in (
        ({"dpt": [1, 2]}, "copy, config.json: 'dpt' must be a JSON object"),
        ({"embed_dim": 34}, "copy, config.json: these sizes make no model: width 34 over 2 heads"),
        ({"embed_dim": None}, "copy, config.json: these sizes make no model"),
    ):
        whole = json.loads((runs.FOLDER / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**whole, **changed}))
        with pytest.raises(ConversionError, match=message):
            hf.load(folder)


@pytest.mark.parametrize("changes, message", [
    (dict(taps=(0, 1, 2, 3)), "the last one pair 4"),
    (dict(channels=(8, 16, 24, 31)), "multiples of 4"),
    (dict(dtype="float16"), "'float32' or 'bfloat16'"),
    (dict(heads=3), "over 3 heads"),
])  # fmt: skip
def test_sizes_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(runs.imported().model.sizes, **changes)
