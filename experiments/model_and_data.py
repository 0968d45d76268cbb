"""Which model and which data a command is about: what `evaluate`, `diagnose` and `probe` ask alike."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path


def config_of(model: str) -> dict:
    """config.json of a run, a phase or a checkpoint step of ours.

    Raises:
      FileNotFoundError: no such model.
    """
    from spatialsv_jax import loading

    return json.loads((loading.locate(model).workdir / "config.json").read_text())


def training_data(config: Mapping) -> str:
    """Path of the first source of a model's config, in the order of their names."""
    sources = config["data"]["sources"]
    return sources[min(sources)]["path"]


def is_ours(loaded) -> bool:
    """Whether a loaded model is one of ours, in a phase's folder, and not a Hugging Face checkpoint."""
    return (loaded.path / "checkpoints").is_dir()


def need_of_others(path: str | Path, **flags: str | None) -> None:
    """Refuses a checkpoint of others without the flags for what lies beside a run of ours.

    Args:
      path: of the checkpoint.
      flags: name of a flag -> what was given for it.

    Raises:
      ValueError: one of them was not given.
    """
    if not all(flags.values()):
        names = " and ".join(f"--{name}" for name in flags)
        raise ValueError(f"{path} is a checkpoint of others, with no data or results beside it: give {names}.")


def check_names(models: Sequence[str], names: Sequence[str]) -> None:
    """Looks whether there is a name for each model, or none at all.

    Raises:
      ValueError: another number of them.
    """
    if names and len(names) != len(models):
        raise ValueError(f"--names has {len(names)} names, expected one for each of the {len(models)} models.")


def distinct_names(models: Sequence[str], names: Sequence[str]) -> list[str]:
    """What to call the models: `names`, by default their folders' names.

    Raises:
      ValueError: another number of names, or two alike.
    """
    check_names(models, names)
    found = list(names) or [Path(model).absolute().name for model in models]
    if len(set(found)) != len(found):
        raise ValueError(f"Two models are called alike ({', '.join(found)}); tell them apart with --names.")
    return found


def unused_name(name: str, step: int, taken: Collection[str]) -> str:
    """The name, with its step or a number where another model is called the same."""
    names = [name, f"{name}, step {step}", *(f"{name}, step {step} ({number})" for number in range(2, len(taken) + 3))]
    return next(one for one in names if one not in taken)


def use_compile_cache(folder: Path) -> None:
    """Keeps compiled programs in `folder/.jax_cache`, unless jax was told another place."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(folder / ".jax_cache"))


def typed_command() -> str:
    """This process's command line, to be recorded."""
    return shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])
