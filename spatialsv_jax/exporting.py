"""A trained model as a Hugging Face folder again: the base model's exact layout, the lifting heads apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from flax import traverse_util

from spatialsv_jax.interop import lora
from spatialsv_jax.interop.arrays import write_checkpoint
from spatialsv_jax.interop.base_record import CARRIED, RECORD, BaseRecord
from spatialsv_jax.interop.conversion import Conversion
from spatialsv_jax.interop.hub import open_checkpoint
from spatialsv_jax.interop.tensor_files import INDEX, write_tensors
from spatialsv_jax.model import drop_lifting
from spatialsv_jax.processing.pretrained import side_files

LIFTING_FOLDER = "spatialsv_lifting"


def export(loaded, out: str | Path, adapters: bool = False, progress: bool = False) -> None:
    """Writes a model (`LoadedModel`) that was started from a Hugging Face checkpoint.

    `out` gets the base's files: weights under the same names, shapes, types and files, and everything else as
    it was; LoRA adapters are merged. With `adapters` it gets them in PEFT's layout, with the
    trained projector (see `lora.write_peft`). Trained lifting heads go to `out`/spatialsv_lifting with a card; nothing else knows of them. The
    folder is filled under another name and shows once it is whole.

    Raises:
      ConversionError: the model did not come from such a checkpoint.
      ValueError: `adapters` of a model that has none.
      FileExistsError: `out` is there and not empty.
      OSError: the disk refuses; nothing is left under `out`.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not empty. Choose a new --out.")
    source = loaded.processor.directory
    base, checkpoint = BaseRecord(source), open_checkpoint(source)
    trained = traverse_util.flatten_dict(drop_lifting(loaded.params), sep="/")
    adapter_config = loaded.settings.language.lora
    parameters = lora.merge(trained, adapter_config)
    conversion = checkpoint.match(base.tensors, {path: leaf.shape for path, leaf in parameters.items()})
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if adapters:
            rules = checkpoint.layout.rules(checkpoint.vision, checkpoint.language)
            base_name, modules = str(loaded.config["init_from"]), checkpoint.layout.modules
            projector = _projector(conversion, parameters)
            lora.write_peft(trained, adapter_config, rules, modules, base_name, partial, projector)
        else:
            write_checkpoint(conversion, base, parameters, partial, progress)
            _copy_side_files(source, base, partial)
        if "lifting" in loaded.params:
            _write_lifting(loaded, partial / LIFTING_FOLDER)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_side_files(source: Path, base: BaseRecord, out: Path) -> None:
    for path in side_files(source):
        if path.name not in (RECORD, CARRIED):
            shutil.copyfile(path, out / path.name)
    if base.index is not None:
        (out / INDEX).write_text(base.index, encoding="utf-8")


def _projector(conversion: Conversion, parameters: dict) -> dict[str, np.ndarray]:
    """The trained projector under the base's names."""
    return {
        entry.sources[0]: entry.rule.transform.to_theirs(np.asarray(parameters[path]))
        for path, entry in conversion.filled.items()
        if path.startswith("backbone/projector/")
    }


def _write_lifting(loaded, folder: Path) -> None:
    """The heads as one safetensors file in our own names, their settings, and a card."""
    folder.mkdir()
    flat = traverse_util.flatten_dict(loaded.params["lifting"], sep="/")
    write_tensors(folder, {"lifting.safetensors": ((name, np.asarray(value)) for name, value in flat.items())}, {})
    settings = {name: loaded.config[name] for name in ("family", "lifting", "vision")}
    settings |= {"label_size": list(loaded.label_hw), "taps": list(loaded.model.taps)}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    heads = ", ".join(loaded.settings.lifting.heads) or "feature distillation alone"
    (folder / "README.md").write_text(
        "# Lifting heads of SpatialSV\n\n"
        f"Trained with the model in the folder above ({heads}; step {loaded.step}; objective "
        f"'{loaded.settings.objective_name}'). The model answers without them at its own cost; no other program reads "
        "this folder.\n\n"
        f"They read the hidden states {list(loaded.model.taps)} of the language model at the visual tokens and give "
        "depth, rays and points in units of the scene scale (mean distance of the points from the first camera), OpenCV "
        "cameras, the first view's frame. `config.json` holds their settings, `lifting.safetensors` their parameters "
        "(names of SpatialSV-JAX, matrices [in, out]).\n",
        encoding="utf-8",
    )
