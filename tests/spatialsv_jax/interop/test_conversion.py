"""A made-up family: names matched both ways, fused and stacked tensors, every problem in one message."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from spatialsv_jax.interop.arrays import read_parameters, write_checkpoint
from spatialsv_jax.interop.conversion import LINEAR, SAME, Rule, match, patches
from spatialsv_jax.interop.tensor_files import ConversionError, TensorFolder

LAYERS, WIDTH = 4, 8
RULES = (
    Rule("model.embed.weight", "embedding", SAME),
    Rule("model.patch.weight", "vision/patch/kernel", patches((2, 3, 3), channels_last=True)),
    Rule("model.layers.{layer}.norm.weight", "layers/norm/scale", SAME),
    Rule("model.layers.{layer}.qkv.weight", "layers/q/kernel", LINEAR, (0, 3)),
    Rule("model.layers.{layer}.qkv.weight", "layers/k/kernel", LINEAR, (1, 3)),
    Rule("model.layers.{layer}.qkv.weight", "layers/v/kernel", LINEAR, (2, 3)),
    Rule("model.layers.{layer}.qkv.bias", "layers/q/bias", SAME, (0, 3)),
    Rule("model.layers.{layer}.qkv.bias", "layers/k/bias", SAME, (1, 3)),
    Rule("model.layers.{layer}.qkv.bias", "layers/v/bias", SAME, (2, 3)),
    Rule("model.layers.{layer}.down.weight", "layers/down/kernel"),
)
TARGETS = {
    "embedding": (10, WIDTH),
    "vision/patch/kernel": (2 * 3 * 3 * 3, WIDTH),
    "layers/norm/scale": (LAYERS, WIDTH),
    **{f"layers/{name}/kernel": (LAYERS, WIDTH, WIDTH) for name in "qkv"},
    **{f"layers/{name}/bias": (LAYERS, WIDTH) for name in "qkv"},
    "layers/down/kernel": (LAYERS, 16, WIDTH),
    "lifting/head/kernel": (WIDTH, 2),
}
NEW, CARRIED = (r"lifting/.*",), (r".*\.inv_freq", r"model\.scale")


def tensors(layers=LAYERS):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
    values = {
        "model.embed.weight": draw(10, WIDTH),
        "model.patch.weight": draw(WIDTH, 3, 2, 3, 3),
        "model.rotary.inv_freq": np.arange(4, dtype=np.float32),
        "model.scale": np.array(0.5, np.float32),
    }
    for layer in range(layers):
        start = f"model.layers.{layer}"
        values[f"{start}.norm.weight"] = rng.standard_normal(WIDTH).astype(np.float16)
        values[f"{start}.qkv.weight"], values[f"{start}.qkv.bias"] = draw(3 * WIDTH, WIDTH), draw(3 * WIDTH)
        values[f"{start}.down.weight"] = draw(WIDTH, 16)
    return values


def write_folder(folder, values, files=2):
    """As transformers writes it: shards in order and an index."""
    folder.mkdir()
    if files == 1:
        save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
        return TensorFolder(folder)
    names, weight_map = list(values), {}
    for number in range(files):
        file = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        part = names[number * len(names) // files : (number + 1) * len(names) // files]
        save_file({name: values[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(value.nbytes for value in values.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return TensorFolder(folder)


def converted(folder):
    return match(RULES, folder.tensors, TARGETS, new=NEW, carried=CARRIED)


def expected(values):
    """Our parameters by plain NumPy, a loop per element of the layout."""
    f = {name: value.astype(np.float32) for name, value in values.items()}
    patch = np.empty((54, WIDTH), np.float32)
    for out in range(WIDTH):
        for place, (t, y, x, channel) in enumerate(np.ndindex(2, 3, 3, 3)):
            patch[place, out] = f["model.patch.weight"][out, channel, t, y, x]
    result = {"embedding": f["model.embed.weight"], "vision/patch/kernel": patch}
    over = lambda name: np.stack([f[f"model.layers.{layer}.{name}"] for layer in range(LAYERS)])
    result["layers/norm/scale"] = over("norm.weight")
    result["layers/down/kernel"] = over("down.weight").transpose(0, 2, 1)
    for number, name in enumerate("qkv"):
        rows = slice(number * WIDTH, (number + 1) * WIDTH)
        result[f"layers/{name}/kernel"] = over("qkv.weight")[:, rows].transpose(0, 2, 1)
        result[f"layers/{name}/bias"] = over("qkv.bias")[:, rows]
    return result


@pytest.mark.parametrize("files", [1, 3])
def test_import_and_export_are_bit_identical(tmp_path, files):
    values = tensors()
    folder = write_folder(tmp_path / "theirs", values, files)
    conversion = converted(folder)
    assert conversion.new == ("lifting/head/kernel",) and sorted(conversion.carried) == [
        "model.rotary.inv_freq",
        "model.scale",
    ]
    wanted = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in TARGETS.items()}
    ours = read_parameters(conversion, folder, wanted)
    for path, value in expected(values).items():
        assert ours[path].dtype == jnp.float32
        np.testing.assert_array_equal(ours[path], value, err_msg=path)
    assert ours.keys() == expected(values).keys()
    out = tmp_path / "back"
    out.mkdir()
    write_checkpoint(conversion, folder, ours, out)
    names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert sorted(path.name for path in out.iterdir()) == names
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name


def test_a_changed_parameter_changes_its_tensor_alone(tmp_path):
    folder = write_folder(tmp_path / "theirs", tensors())
    conversion = converted(folder)
    ours = {path: value.copy() for path, value in expected(tensors()).items()}
    ours["layers/k/kernel"][2, 3, 5] = 7.0
    (tmp_path / "back").mkdir()
    write_checkpoint(conversion, folder, ours, tmp_path / "back")
    old, new = ({}, {})
    for file in folder.files:
        old |= load_file(folder.directory / file)
        new |= load_file(tmp_path / "back" / file)
    different = [name for name in old if old[name].tobytes() != new[name].tobytes()]
    assert different == ["model.layers.2.qkv.weight"]
    assert new[different[0]][WIDTH + 5, 3] == 7.0


def test_parameters_are_read_where_they_live(tmp_path):
    """Sharded arrays hold the same values; each device has its part alone."""
    folder = write_folder(tmp_path / "theirs", tensors())
    mesh = jax.make_mesh((2, 4), ("layers", "width"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    conversion = converted(folder)
    specs = {path: PartitionSpec(*([None] * (len(shape) - 1)), "width") for path, shape in TARGETS.items()}
    specs["layers/down/kernel"] = PartitionSpec("layers", "width", None)
    wanted = {
        path: jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, specs[path]))
        for path, shape in TARGETS.items()
    }
    ours = read_parameters(conversion, folder, wanted)
    for path, value in expected(tensors()).items():
        assert ours[path].sharding == wanted[path].sharding and ours[path].dtype == jnp.bfloat16
        np.testing.assert_array_equal(ours[path].astype(jnp.float32), value.astype(ml_dtypes.bfloat16), err_msg=path)
    shard = ours["layers/down/kernel"].addressable_shards[0].data
    assert shard.shape == (LAYERS // 2, 4, WIDTH)
    (tmp_path / "back").mkdir()
    write_checkpoint(conversion, folder, ours, tmp_path / "back")
    for file in folder.files:
        old, new = load_file(folder.directory / file), load_file(tmp_path / "back" / file)
        for name, value in old.items():
            if value.dtype == ml_dtypes.bfloat16:  # float16 norms lose bits on their way through bfloat16
                np.testing.assert_array_equal(new[name], value, err_msg=name)


@pytest.mark.parametrize("kernel", [(2, 3, 3), (4, 4)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_patch_kernels_equal_the_convolution(kernel, channels_last):
    rng = np.random.default_rng(1)
    weight, patch = rng.standard_normal((5, 3, *kernel)), rng.standard_normal((3, *kernel))
    transform = patches(kernel, channels_last)
    flat = (np.moveaxis(patch, 0, -1) if channels_last else patch).reshape(-1)
    np.testing.assert_allclose(flat @ transform.to_ours(weight), (weight * patch).reshape(5, -1).sum(1), rtol=1e-12)
    np.testing.assert_array_equal(transform.to_theirs(transform.to_ours(weight)), weight)
    assert transform.shape(weight.shape) == (3 * int(np.prod(kernel)), 5)


def test_all_problems_stand_in_one_message(tmp_path):
    values = tensors()
    values["model.extra.weight"] = np.zeros(3, np.float32)
    del values["model.embed.weight"], values["model.layers.2.norm.weight"]
    values["model.layers.4.down.weight"] = np.zeros((WIDTH, 16), np.float32)
    values["model.patch.weight"] = np.zeros((WIDTH, 3, 1, 3, 3), np.float32)
    for layer in range(LAYERS):
        values[f"model.layers.{layer}.qkv.weight"] = np.zeros((3 * WIDTH, WIDTH + 1), np.float32)
        values[f"model.layers.{layer}.qkv.bias"] = np.zeros(3 * WIDTH + 1, np.float32)
    folder = write_folder(tmp_path / "theirs", values)
    with pytest.raises(ConversionError) as caught:
        match(RULES, folder.tensors, TARGETS, new=NEW, carried=CARRIED, where="Folder x")
    text = str(caught.value)
    for words in (
        "Folder x does not fit the model",
        "1 tensors that the model has no place for:\n  model.extra.weight",
        "1 parameters that no tensor fills:\n  embedding",
        "layers/norm/scale [4, 8]: model.layers.{layer}.norm.weight lacks layers [2]",
        "layers/down/kernel [4, 16, 8]: model.layers.{layer}.down.weight lacks layers [] and has [4] too many",
        "vision/patch/kernel [54, 8]: model.patch.weight [8, 3, 1, 3, 3] does not fit: kernel (1, 3, 3)",
        "layers/k/kernel [4, 8, 8]: model.layers.0.qkv.weight [24, 9] part 2 of 3 would give [9, 8]",
        "layers/q/bias [4, 8]: model.layers.0.qkv.bias [25] does not fit: first axis of (25,) is not divisible by 3",
    ):
        assert words in text, (words, text)


def test_the_report_names_every_parameter(tmp_path):
    folder = write_folder(tmp_path / "theirs", tensors())
    lines = converted(folder).report(folder.tensors)
    assert len(lines) == len(TARGETS) + 2
    assert (
        "layers/q/kernel [4, 8, 8] <- model.layers.0.qkv.weight ... (4 layers) bfloat16 in model-00001-of-00002.safetensors"
        in lines
    )
    assert "lifting/head/kernel new" in lines and "model.rotary.inv_freq carried along" in lines
