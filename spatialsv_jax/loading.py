"""One way to name a model: a run, a phase's workdir, one of its checkpoint steps, or a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np

from data_pipelines.paths import local_path
from spatialsv_jax import assembly, hf_models, processing
from spatialsv_jax.interop import hub
from spatialsv_jax.interop.tensor_files import TensorFolder
from spatialsv_jax.loaded_model import LoadedModel
from spatialsv_jax.picture_sizes import PictureSize, trained_sizes
from spatialsv_jax.training import sharding
from spatialsv_jax.training.checkpoints import CheckpointError, Checkpoints


@dataclasses.dataclass(frozen=True)
class Location:
    """A phase's folder and a step of it (None = the newest)."""

    workdir: Path
    step: int | None


def locate(path: str | Path) -> Location:
    """Tells a run (run.json), a phase (config.json) and a checkpoint step apart by content.

    A run stands for its last phase.

    Raises:
      FileNotFoundError: nothing at the path that can be loaded, with what was expected.
      ValueError: a path into an object store.
    """
    path = local_path(path, "The model")
    if (path / "run.json").exists():
        phases = json.loads((path / "run.json").read_text())["phases"]
        trained = [path / folder for folder in phases.values() if (path / folder / "config.json").exists()]
        models = [
            folder for folder in trained if json.loads((folder / "config.json").read_text()).get("model") == "mllm"
        ]
        if models:
            return Location(models[-1], None)
    if (path / "config.json").exists() and (path / "checkpoints").is_dir():
        return Location(path, None)
    if path.name.isdigit() and path.parent.name == "checkpoints" and (path.parent.parent / "config.json").exists():
        return Location(path.parent.parent, int(path.name))
    raise FileNotFoundError(
        f"No model at {path}. Give the folder of a run (run.json), of a phase (config.json and checkpoints/), "
        "one of its steps (checkpoints/STEP), or a Hugging Face checkpoint (config.json with a model_type)."
    )


def load_processor(path: str | Path) -> processing.Processor:
    """The processor that was saved with the model at `path`."""
    return processing.load_processor(locate(path).workdir / "processor")


def load(
    path: str | Path, mesh: sharding.MeshConfig | None = None, dtype: str | None = None, on_host: bool = False
) -> LoadedModel:
    """Loads the model at `path`: of ours (see `locate`), or a Hugging Face folder, which has no heads.

    Parameters go straight to where they are used: each device reads its part, in the type that is asked for.

    Args:
      path: the model.
      mesh: how to split its parameters over the devices of this process; None = one, or all where they take more than
        half of one's memory.
      dtype: "float32" or "bfloat16" parameters; None = as they are stored.
      on_host: leave the parameters of a model of ours in the host's memory, as NumPy arrays.

    Raises:
      FileNotFoundError, CheckpointError, ValueError: with the path and what was expected.
    """
    if dtype not in (None, "float32", "bfloat16"):
        raise ValueError(f"dtype is '{dtype}'; choose 'float32', 'bfloat16' or None.")
    if hub.is_checkpoint(path):
        return _load_checkpoint(hub.open_checkpoint(path), mesh, dtype)
    location = locate(path)
    config = json.loads((location.workdir / "config.json").read_text())
    settings = assembly.read_settings(config, f"{location.workdir}/config.json")
    processor = processing.load_processor(location.workdir / "processor")
    label_hw = tuple(config["data"]["label_size"])
    own = PictureSize(processor.image_size, label_hw)
    loaded = LoadedModel(
        assembly.build_model(settings, processor),
        {},
        config,
        settings,
        processor,
        label_hw,
        location.workdir,
        0,
        {},
        trained_sizes(location.workdir, own),
    )

    devices = None

    def place(saved: dict) -> dict | None:
        nonlocal devices
        _check_shapes(loaded, saved)
        if on_host:
            return None
        wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype), saved)
        devices = _mesh_for(wanted, mesh)
        return _placed(loaded, wanted, devices)

    checkpoints = Checkpoints(location.workdir / "checkpoints", create=False)
    params, meta, step = checkpoints.restore_params(location.step, place)
    return dataclasses.replace(loaded, params=params, meta=meta, step=step, mesh=devices)


def _mesh_for(shapes: dict, mesh: sharding.MeshConfig | None) -> jax.sharding.Mesh | None:
    """The devices that parameters are split over; None = this process's first one, which holds them."""
    own, memory = jax.local_devices(), _device_memory()
    if mesh is not None:
        return sharding.make_mesh(mesh, own)
    needed = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(shapes))
    if len(own) == 1 or memory is None or needed <= memory / 2:  # the other half is for activations and caches
        return None
    return sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=len(own)), own)


def _device_memory() -> int | None:
    """Bytes that programs may use of a device of this process; None where it does not say, as a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def _placed(loaded: LoadedModel, shapes: dict, mesh: jax.sharding.Mesh | None) -> dict:
    """The shapes with shardings over the mesh, as in training; None = on this process's first device."""
    if mesh is None:
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return sharding.with_shardings(shapes, jax.tree.map(lambda _: place, shapes))
    batch = loaded.inputs([np.zeros((8, 8, 3), np.uint8)], ())
    axes = loaded.model.logical_axes(batch, label_hw=loaded.label_hw)
    axes = {name: axes[name] for name in shapes}
    places, _ = sharding.parameter_shardings(shapes, axes, mesh)
    return sharding.with_shardings(shapes, places)


def _load_checkpoint(checkpoint: hub.Checkpoint, mesh: sharding.MeshConfig | None, dtype: str | None) -> LoadedModel:
    """A Hugging Face folder; parameters keep its type of numbers unless another is asked for."""
    if checkpoint.vision is None:
        raise ValueError(
            f"{checkpoint.directory} holds a language model alone. Train it with pictures first: "
            "experiments/configs/smol.py with config.init_from."
        )
    processor = hf_models.processor_of(checkpoint)
    dtype = dtype or hf_models.own_type(TensorFolder(checkpoint.directory))
    settings = hf_models.settings_of(checkpoint, dtype)
    label_hw = hf_models.label_size(processor)
    loaded = LoadedModel(
        assembly.build_model(settings, processor),
        {},
        hf_models.as_config(settings, label_hw),
        settings,
        processor,
        label_hw,
        checkpoint.directory,
        0,
        {},
    )
    batch = loaded.inputs([np.zeros((8, 8, 3), np.uint8)], ())
    shapes = hub.parameter_shapes(loaded.model, batch, label_hw)
    typed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)
    devices = _mesh_for(typed, mesh)
    shapes = _placed(loaded, shapes, devices)
    params, _, _ = hf_models.read_parameters(checkpoint, shapes, dtype)
    return dataclasses.replace(loaded, params=params, mesh=devices)


def _check_shapes(loaded: LoadedModel, saved: dict) -> None:
    """Compares the checkpoint's tree with the model's: Linen would silently ignore extra parameters."""
    batch = loaded.inputs([np.zeros((8, 8, 3), np.uint8)], ())
    shapes = lambda tree: {
        jax.tree_util.keystr(p): tuple(x.shape) for p, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    want, have = shapes(hub.parameter_shapes(loaded.model, batch, loaded.label_hw)), shapes(saved)
    wrong = [
        f"{name}: checkpoint {have.get(name)}, model {want.get(name)}"
        for name in sorted({*want, *have})
        if want.get(name) != have.get(name)
    ]
    if wrong:
        raise CheckpointError(f"The checkpoint in {loaded.path} does not fit its config.json:\n  " + "\n  ".join(wrong))
