"""Checkpoint folders that cannot be read are refused with the reason."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_conversion import tensors, write_folder

from spatialsv_jax.interop.tensor_files import INDEX, SINGLE, ConversionError, TensorFolder, write_tensors


def refused(folder, message):
    with pytest.raises(ConversionError, match=message):
        TensorFolder(folder)


def test_headers_and_parts(tmp_path):
    values = tensors()
    folder = write_folder(tmp_path / "a", values, files=3)
    assert folder.tensors.keys() == values.keys() and len(folder.files) == 3
    for name, value in values.items():
        assert folder.tensors[name].shape == value.shape and folder.tensors[name].dtype == value.dtype
        assert folder.tensors[name].nbytes == value.nbytes
        np.testing.assert_array_equal(folder.read(name), value)
    np.testing.assert_array_equal(
        folder.read("model.embed.weight", (slice(2, 5), slice(1, 3))), values["model.embed.weight"][2:5, 1:3]
    )
    assert set(map(str, folder.metadata.values())) == {"{'format': 'pt'}"}


def test_a_number_without_axes_is_a_tensor(tmp_path):
    save_file({"step": np.array(3.0, np.float32)}, tmp_path / SINGLE)
    folder = TensorFolder(tmp_path)
    assert folder.read("step") == 3.0 and folder.tensors["step"].shape == ()


def test_pickles_are_refused_with_the_reason(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    refused(tmp_path, r"pickle alone \(pytorch_model.bin\).*can run any code")


def test_folders_without_weights(tmp_path):
    refused(tmp_path / "nowhere", "is no folder")
    refused(tmp_path, "has no model.safetensors and no model.safetensors.index.json")
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "model-00001-of-00002.safetensors")
    refused(tmp_path, r"has \['model-00001-of-00002.safetensors'\], but neither")


def test_missing_truncated_and_foreign_files(tmp_path):
    folder = write_folder(tmp_path / "a", tensors(), files=3).directory
    second = folder / "model-00002-of-00003.safetensors"
    data = second.read_bytes()
    second.unlink()
    refused(folder, r"1 of 3 files of model.safetensors.index.json are missing: \['model-00002-of-00003.safetensors'\]")
    for broken in (data[:-1], data[:20], b""):
        second.write_bytes(broken)
        refused(folder, "model-00002-of-00003.safetensors is truncated or no safetensors file")
    second.write_bytes((folder / "model-00001-of-00003.safetensors").read_bytes())
    refused(folder, "tensor 'model.*' stands in model-00001-of-00003.safetensors and in model-00002")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda index: index.pop("weight_map"), "is no index of a checkpoint"),
        (lambda index: index["weight_map"].update({"model.embed.weight": 3}), "must map names"),
        (lambda index: index["weight_map"].update({"ghost": "model-00001-of-00002.safetensors"}), "disagree on 1 .*'ghost'"),
        (lambda index: index["weight_map"].pop("model.embed.weight"), "disagree on 1 tensors.*'model.embed.weight'"),
        (lambda index: index["weight_map"].update({"x": "../model.safetensors"}), "names files outside the folder"),
    ],
)  # fmt: skip
def test_a_wrong_index_is_explained(tmp_path, change, message):
    folder = write_folder(tmp_path / "a", tensors()).directory
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))
    refused(folder, message)
    (folder / INDEX).write_text("{")
    refused(folder, "is no index of a checkpoint")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_tensors(tmp_path, {SINGLE: iter([("a", np.ones(3, np.float32))])}, {})

    def failing():
        yield "a", np.zeros(3, np.float32)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_tensors(tmp_path, {SINGLE: failing()}, {})
    np.testing.assert_array_equal(TensorFolder(tmp_path).read("a"), np.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
