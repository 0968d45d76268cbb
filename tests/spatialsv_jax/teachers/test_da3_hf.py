"""Which tensors Depth Anything 3's checkpoints hold, whose model they are, and what is refused."""

import json

import da3_tensors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import teacher_runs as runs
from flax import traverse_util
from safetensors.numpy import load_file

from spatialsv_jax.interop.arrays import write_checkpoint
from spatialsv_jax.interop.conversion import match
from spatialsv_jax.interop.tensor_files import ConversionError, TensorFolder, TensorInfo
from spatialsv_jax.teachers.da3 import hf, presets
from spatialsv_jax.teachers.key_tables import parameter_shapes

# Millions of parameters and numbers of tensors as counted from the published configurations (GIANT without its Gaussian head).
COUNTED = {
    "DA3-SMALL": ({"backbone": 22.1, "head": 3.9, "cam_dec": 1.2, "cam_enc": 7.2}, 34.3, 437),
    "DA3-BASE": ({"backbone": 86.6, "head": 15.4, "cam_dec": 4.7, "cam_enc": 28.7}, 135.4, 437),
    "DA3-LARGE": ({"backbone": 304.4, "head": 47.2, "cam_dec": 8.4, "cam_enc": 50.9}, 410.9, 637),
    "DA3-GIANT": ({"backbone": 1136.5, "head": 50.1, "cam_dec": 18.9, "cam_enc": 114.5}, 1355.7 - 35.6, None),
    "DA3MONO-LARGE": ({}, 334.2, 406),
}


def infos(shapes):
    return {name: TensorInfo(tuple(shape), np.dtype(np.float32), "model.safetensors") for name, shape in shapes.items()}


def shapes_of(sizes):
    model = hf.AnyViewModel(sizes) if sizes.any_view else hf.MonoModel(sizes)
    shapes = parameter_shapes(model, jax.ShapeDtypeStruct((1, 1, 28, 28, 3), jnp.float32))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()}


def matched(sizes, tensors, prefix="model."):
    return match(
        hf.rules(sizes), infos(tensors), shapes_of(sizes), carried=hf.carried(sizes, prefix),
        rename=lambda name: hf.spelt(name, prefix, sizes),
    )  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_published_sizes(name):
    """Every tensor has its place, and the numbers of parameters are the published configurations'."""
    parts, total, number = COUNTED[name]
    sizes = presets.published(name).sizes
    tensors = da3_tensors.tensors(sizes)
    assert number in (None, len(tensors))
    assert abs(da3_tensors.count(tensors) / 1e6 - total) < 0.06
    for part, millions in parts.items():
        counted = da3_tensors.count({key: shape for key, shape in tensors.items() if key.startswith(f"model.{part}.")})
        assert abs(counted / 1e6 - millions) < 0.06, part
    conversion = matched(sizes, tensors)
    assert not conversion.new
    used = {source for entry in conversion.filled.values() for source in entry.sources}
    assert used | set(conversion.carried) == set(tensors) and not used & set(conversion.carried)
    assert len(conversion.carried) == (3 * (5 * 2 + 2 * 2) if sizes.any_view else 0)
    ours = sum(int(np.prod(shape)) for shape in shapes_of(sizes).values())
    assert ours == da3_tensors.count(tensors) - da3_tensors.count({key: tensors[key] for key in conversion.carried})


def test_the_committed_checkpoints_have_these_tensors():
    for folder in ("da3", "da3_mono"):
        found = runs.imported(folder)
        values = load_file(runs.GOLDENS / folder / "model.safetensors")
        assert {name: value.shape for name, value in values.items()} == da3_tensors.tensors(found.model.sizes)


def test_written_again_every_byte_is_the_same(tmp_path):
    for folder in ("da3", "da3_mono"):
        found = runs.imported(folder)
        params = traverse_util.flatten_dict(found.params, sep="/")
        (tmp_path / folder).mkdir()
        write_checkpoint(found.conversion, TensorFolder(runs.GOLDENS / folder), params, tmp_path / folder)
        name = "model.safetensors"
        written = load_file(tmp_path / folder / name)
        for key, value in load_file(runs.GOLDENS / folder / name).items():
            np.testing.assert_array_equal(written[key], value)


def folder_of(tmp_path, tensors, **config):
    values = da3_tensors.random_values(tensors)
    da3_tensors.write(tmp_path, values)
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


TINY = presets.Sizes(32, 10, 2, 128, 2, (3, 5, 7, 9), 8, (4, 8, 8, 12))
STATED = {
    "backbone": {
        "embed_dim": 32, "depth": 10, "num_heads": 2, "ffn": "mlp", "out_layers": [3, 5, 7, 9], "alt_start": 2,
        "qknorm_start": 2, "rope_start": 2,
    },
    "head": {"features": 8, "out_channels": [4, 8, 8, 12]},
}  # fmt: skip
TINY_MONO = presets.Sizes(32, 6, 2, 128, 0, (1, 2, 4, 5), 8, (4, 8, 8, 12))


def test_missing_and_unknown_tensors_are_named(tmp_path):
    tensors = da3_tensors.tensors(TINY)
    del tensors["model.backbone.pretrained.blocks.4.attn.q_norm.weight"]
    tensors["model.backbone.pretrained.register_tokens"] = (1, 4, 32)
    tensors["model.head.scratch.output_conv2_aux.3.5.weight"] = (6, 32, 1, 1)
    with pytest.raises(ConversionError) as error:
        hf.load(folder_of(tmp_path, tensors, **STATED))
    text = str(error.value)
    assert "model.backbone.pretrained.register_tokens" in text
    assert "within.{layer}.attn.q_norm.weight lacks layers [1]" in text
    assert "head/ray_output/predict/kernel" in text and "[6, 32, 1, 1]" in text


def test_what_is_left_aside(tmp_path):
    """The Gaussian head and copies of the shared norm, nothing else."""
    tensors = da3_tensors.tensors(TINY) | {
        "model.gs_head.x.weight": (3,),
        "model.head.scratch.output_conv2_aux.2.2.bias": (32,),
    }
    found = hf.load(folder_of(tmp_path, tensors, **STATED))
    assert {"model.gs_head.x.weight", "model.head.scratch.output_conv2_aux.2.2.bias"} <= set(found.conversion.carried)


def test_the_nested_pair(tmp_path):
    """Two models in one file, by their prefixes."""
    tensors = da3_tensors.tensors(TINY, "model.da3.") | da3_tensors.tensors(TINY_MONO, "model.da3_metric.")
    for part, sizes, prefix in (("any_view", TINY, "model.da3."), ("metric", TINY_MONO, "model.da3_metric.")):
        conversion = matched(sizes, tensors, prefix)
        assert hf.prefix_of(tensors, part) == prefix
        assert all(name.startswith(prefix) for entry in conversion.filled.values() for name in entry.sources)
    named = hf.recognise({"model_name": "da3nested-giant-large-1.1"}, infos(tensors), "model.da3.")
    assert named == presets.GIANT
    assert hf.recognise({"model_name": "da3nested-giant-large"}, infos(tensors), "model.da3_metric.") == presets.MONO


@pytest.mark.parametrize("name", ["DA3-SMALL", "DA3-BASE", "DA3-LARGE", "DA3-GIANT", "DA3MONO-LARGE"])
def test_recognised_by_name_and_by_shapes(name):
    sizes = presets.published(name).sizes
    tensors = infos(da3_tensors.tensors(sizes))
    for values in ({"model_name": name.lower()}, {"model_name": "unheard of"}, {}):
        assert hf.recognise(values, tensors, hf.prefix_of(tensors)) == sizes


def test_names_and_licences():
    assert presets.published("depth-anything/DA3-LARGE-1.1") is presets.PUBLISHED["DA3-LARGE"]
    assert presets.published("weights/da3-giant/") is presets.PUBLISHED["DA3-GIANT"]
    assert presets.published("dinov2") is None
    free = {name for name, one in presets.PUBLISHED.items() if one.commercial}
    assert free == {"DA3-SMALL", "DA3-BASE", "DA3MONO-LARGE", "DA3METRIC-LARGE"}
    assert {one.licence for one in presets.PUBLISHED.values()} == {"Apache-2.0", "CC BY-NC 4.0"}


def test_refusals(tmp_path):
    with pytest.raises(ConversionError, match="State its sizes in config.json"):
        hf.load(folder_of(tmp_path / "a", da3_tensors.tensors(TINY_MONO)))
    with pytest.raises(ConversionError, match="no checkpoint of Depth Anything 3"):
        hf.load(folder_of(tmp_path / "b", {"model.visual.patch": (3, 3)}))
    broken = {**STATED, "backbone": {**STATED["backbone"], "rope_start": 4}}
    with pytest.raises(ConversionError, match="rope_start equal"):
        hf.load(folder_of(tmp_path / "c", da3_tensors.tensors(TINY), **broken))
    with pytest.raises(ConversionError, match="'out_channels'"):
        hf.load(folder_of(tmp_path / "d", da3_tensors.tensors(TINY), **{**STATED, "head": {"features": 8}}))
    for number, (changed, message) in enumerate((
        ({"backbone": "dinov2"}, "config.json: 'backbone' must be a JSON object"),
        ({"backbone": {**STATED["backbone"], "out_layers": 9}}, "config.json: fields of 'backbone' or 'head' make no model"),
        ({"backbone": {**STATED["backbone"], "out_layers": [2, 5, 7, 9]}}, "config.json: .* make no model: taps .* odd blocks behind"),
    )):  # fmt: skip
        with pytest.raises(ConversionError, match=f"{number}, {message}"):
            hf.load(folder_of(tmp_path / str(number), da3_tensors.tensors(TINY), **{**STATED, **changed}))
    with pytest.raises(ValueError, match="any_view"):
        hf.prefix_of({}, "both")
    for wrong, words in (
        ({"taps": (3, 5, 7, 8)}, "the last one block 9"),
        ({"taps": (2, 5, 7, 9)}, "odd blocks behind"),
        ({"alt_start": 1}, "2 or more"),
        ({"channels": (4, 8, 8, 10)}, "multiples of 4"),
        ({"dtype": "float16"}, "'float32' or 'bfloat16'"),
    ):
        with pytest.raises(ValueError, match=words):
            presets.Sizes(**{**TINY.__dict__, **wrong})
