"""A trained model as a Hugging Face folder: `python -m experiments.export_hf --model DIR --out DIR`.

The folder has the base checkpoint's files, names, shapes and types, so transformers and vLLM load it as the
base model; the lifting heads go to OUT/spatialsv_lifting, which they ignore.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from experiments import reporting, stopping


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = argparse.ArgumentParser(prog="python -m experiments.export_hf", description="Exports a model.")
    result.add_argument("--model", required=True, help="a run, a phase's workdir, or checkpoints/STEP")
    result.add_argument("--out", required=True, help="new folder to write into")
    result.add_argument(
        "--adapters", action="store_true", help="LoRA adapters in PEFT's layout instead of the merged model"
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 2 for a mistake in its arguments or files."""
    flags = parser().parse_args(argv)

    def work() -> None:
        with stopping.Stopping():
            from spatialsv_jax import exporting, loading

            exporting.export(loading.load(flags.model, on_host=True), flags.out, flags.adapters, progress=True)
        print(f"wrote {flags.out}")

    try:
        return reporting.exit_code(work)
    except stopping.Interrupted:
        print(f"Interrupted. The same command writes {flags.out} anew.", file=sys.stderr)
        return stopping.RESUMABLE


if __name__ == "__main__":
    sys.exit(main())
