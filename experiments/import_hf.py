"""A Hugging Face folder as a model of ours: `python -m experiments.import_hf --checkpoint DIR --out DIR`.

Not needed for training: config.init_from and --model take the folder itself. It is for looking at what was read from
where, and for a model that is to be kept as a checkpoint of ours. One process makes it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import reporting


def import_checkpoint(checkpoint: str | Path, out: str | Path, dtype: str = "auto") -> None:
    """Writes config.json, processor/, checkpoints/0 and import.txt (what was read from where).

    Args:
      checkpoint: a folder with config.json, safetensors and tokenizer.
      out: a new or empty folder.
      dtype: of the parameters: "float32", "bfloat16", or "auto" = the checkpoint's.

    Raises:
      ConversionError, ValueError: a folder that cannot be read, or does not fit, everything in one message.
      FileExistsError: `out` holds something.
    """
    import jax.numpy as jnp
    import numpy as np

    from spatialsv_jax import assembly, hf_models
    from spatialsv_jax.interop import hub
    from spatialsv_jax.interop.base_record import write_record
    from spatialsv_jax.interop.tensor_files import TensorFolder
    from spatialsv_jax.loaded_model import LoadedModel
    from spatialsv_jax.training import sharding
    from spatialsv_jax.training.checkpoints import Checkpoints
    from spatialsv_jax.training.state import BEGINNINGS, TrainState

    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty. Choose a new --out.")
    found = hub.open_checkpoint(checkpoint)
    processor = hf_models.processor_of(found)
    own = hf_models.own_type(TensorFolder(checkpoint))
    settings = hf_models.settings_of(found, own if dtype == "auto" else dtype)
    model, label_hw = assembly.build_model(settings, processor), hf_models.label_size(processor)
    config = hf_models.as_config(settings, label_hw)
    empty = LoadedModel(model, {}, config, settings, processor, label_hw, out, 0, {})
    batch = empty.inputs([np.zeros((8, 8, 3), np.uint8)], ())
    shapes = hub.parameter_shapes(model, batch, label_hw)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=-1))
    places, _ = sharding.parameter_shardings(shapes, model.logical_axes(batch, label_hw=label_hw), mesh)
    shapes = sharding.with_shardings(shapes, places)
    params, conversion, folder = hf_models.read_parameters(found, shapes, settings.language.dtype, progress=True)
    out.mkdir(parents=True, exist_ok=True)
    processor.save(out / "processor")
    write_record(folder, conversion.carried, conversion.mirrored, out / "processor")
    (out / "import.txt").write_text("\n".join(conversion.report(folder.tensors)) + "\n", encoding="utf-8")
    checkpoints = Checkpoints(out / "checkpoints")
    zero = jnp.zeros((), jnp.int32)
    checkpoints.save(TrainState(zero, params, {}, zero - 1, {}, {}, **BEGINNINGS), {"data": {}, "objective": "none"})
    checkpoints.close()
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")  # last: now it is a model
    print(
        f"{found.family}: {hf_models.count(params) / 1e6:.1f} M parameters in {settings.language.dtype}, {out}/import.txt"
    )


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = argparse.ArgumentParser(prog="python -m experiments.import_hf", description="Imports a checkpoint.")
    result.add_argument(
        "--checkpoint", required=True, help="a Hugging Face folder: config.json, *.safetensors, tokenizer"
    )
    result.add_argument("--out", required=True, help="new folder to write into")
    result.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of the parameters; auto: the checkpoint's",
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 2 for a mistake in its arguments or files."""
    flags = parser().parse_args(argv)
    return reporting.exit_code(lambda: import_checkpoint(flags.checkpoint, flags.out, flags.dtype))


if __name__ == "__main__":
    sys.exit(main())
