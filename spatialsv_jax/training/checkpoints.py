"""Orbax checkpoints: parameters, optimizer and data position, verified by checksums on restore.

Layout of DIR: `STEP/{params,optimizer,meta}` by Orbax (a step shows only once it is whole), and
`checksums/STEP.json` with the SHA-256 of every file of the step.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from spatialsv_jax.training.state import TrainState

FORMAT_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another format; the message names the path."""


class Checkpoints:
    """Saves and restores training states in a directory.

    Args:
      directory: the directory; made when `create`.
      keep: how many of the newest steps to keep.
      create: whether to make the directory and save into it, which all processes of a job do together. False: to
        read only, which each process does alone.
    """

    def __init__(self, directory: str | Path, keep: int = 2, create: bool = True):
        self.directory = Path(directory).absolute()
        if not create and not self.directory.is_dir():
            raise CheckpointError(f"No checkpoints at {self.directory}.")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=create,
            cleanup_tmp_directories=create,
            enable_async_checkpointing=create,
            multiprocessing_options=ocp.options.MultiprocessingOptions() if create else _alone(),
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._unsealed: int | None = None

    def latest_step(self) -> int | None:
        """The newest whole step, None when there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, meta: dict) -> None:
        """Writes the state in the background; an earlier save is finished and sealed first."""
        self.wait()
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                optimizer=ocp.args.StandardSave(
                    {"opt_state": state.opt_state, "step": state.step, "first_nonfinite": state.first_nonfinite}
                ),
                meta=ocp.args.JsonSave({"format_version": FORMAT_VERSION, **meta}),
            ),
        )
        self._unsealed = step

    def wait(self) -> None:
        """Waits for the save in flight and records its checksums."""
        self._manager.wait_until_finished()
        if self._unsealed is not None and jax.process_index() == 0:
            _write_checksums(self.directory, self._unsealed)
            kept = {f"{step}.json" for step in self._manager.all_steps()}
            for stale in (self.directory / "checksums").glob("*.json"):
                if stale.name not in kept:
                    stale.unlink()
        self._unsealed = None

    def restore(self, shapes: TrainState, step: int | None = None) -> tuple[TrainState, dict]:
        """The state of `step` (the newest by default) on the mesh of `shapes`, and its meta dict.

        Raises:
          CheckpointError: nothing there, a damaged file, or another architecture.
        """
        step = self._resolve(step)
        verify(self.directory, step)
        abstract = {"opt_state": shapes.opt_state, "step": shapes.step, "first_nonfinite": shapes.first_nonfinite}
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(shapes.params),
                    optimizer=ocp.args.StandardRestore(abstract),
                    meta=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"Checkpoint {self.directory}/{step} does not fit the configured model and optimizer: "
                f"{str(error)[:600]}. Use the configuration it was written with (config.json beside it)."
            ) from error
        _check_version(restored["meta"], self.directory / str(step))
        return TrainState(params=restored["params"], **restored["optimizer"]), restored["meta"]

    def saved_shapes(self, step: int | None = None) -> tuple[int, dict[str, Any]]:
        """(step, shapes and types of its parameters), its files verified but the parameters not read.

        Raises:
          CheckpointError: nothing there, a damaged file, or another format.
        """
        step = self._resolve(step)
        verify(self.directory, step)
        self._meta(step)
        with _reader() as reader:
            return step, _shapes_in(reader, self._params(step))

    def restore_params(
        self,
        step: int | None = None,
        place: Callable[[dict], dict | None] | None = None,
        verified: bool = False,
    ) -> tuple[dict[str, Any], dict, int]:
        """(parameters, meta, step): what inference, evaluation and a next phase need.

        Args:
          step: the newest by default.
          place: shapes and types as they are stored -> those that are wanted, with shardings: every device reads its
            part alone. None, where it returns None, or for a leaf without sharding: NumPy arrays as they are stored.
          verified: the files were verified already (`saved_shapes`).

        Raises:
          CheckpointError: nothing there, a damaged file, or another format; and what `place` raises.
        """
        step = self._resolve(step)
        if not verified:
            verify(self.directory, step)
        meta = self._meta(step)
        with _reader() as reader:
            saved = _shapes_in(reader, self._params(step))
            wanted = (place(saved) if place else None) or saved
            restore_args = jax.tree.map(_restore_args, wanted)
            return reader.restore(self._params(step), restore_args=restore_args), meta, step

    def _params(self, step: int) -> Path:
        return self.directory / str(step) / "params"

    def _meta(self, step: int) -> dict:
        meta = json.loads((self.directory / str(step) / "meta" / "metadata").read_text())
        _check_version(meta, self.directory / str(step))
        return meta

    def close(self) -> None:
        """Finishes the save in flight and frees the manager."""
        self.wait()
        self._manager.close()

    def _resolve(self, step: int | None) -> int:
        steps = self._manager.all_steps()
        if step is None:
            step = self._manager.latest_step()
        if step is None or step not in steps:
            raise CheckpointError(
                f"No checkpoint {'' if step is None else step} in {self.directory}; it has {sorted(steps)}."
            )
        return step


def _reader() -> ocp.Checkpointer:
    """Reads parameters, each process by itself."""
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone()), multiprocessing_options=_alone()
    )


def _shapes_in(reader: ocp.Checkpointer, folder: Path) -> dict[str, Any]:
    saved = reader.metadata(folder).item_metadata.tree
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype), saved)


def _restore_args(leaf: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
    if leaf.sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def _alone() -> ocp.options.MultiprocessingOptions:
    """Orbax's options for a process that does not wait for the others of its job."""
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"reader{own}"
    )


def _check_version(meta: dict, path: Path) -> None:
    version = meta.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"Checkpoint {path} has format {version}; this program reads {FORMAT_VERSION}.")


def _digests(directory: Path, step: int) -> dict[str, str]:
    root = directory / str(step)
    digests = {}
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        with open(file, "rb") as stream:
            digests[str(file.relative_to(root))] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def _write_checksums(directory: Path, step: int) -> None:
    folder = directory / "checksums"
    folder.mkdir(exist_ok=True)
    partial = folder / f".{step}.json.partial"
    partial.write_text(json.dumps(_digests(directory, step), indent=1))
    os.replace(partial, folder / f"{step}.json")


def verify(directory: Path, step: int) -> bool:
    """Compares a step's files with their recorded checksums.

    Returns:
      False when no checksums were recorded (the run was killed right after the save).

    Raises:
      CheckpointError: naming the first file that is missing or differs.
    """
    file = directory / "checksums" / f"{step}.json"
    if not file.exists():
        return False
    recorded, found = json.loads(file.read_text()), _digests(directory, step)
    for name, digest in recorded.items():
        if found.get(name) != digest:
            state = "is missing" if name not in found else "differs from its checksum"
            raise CheckpointError(
                f"Checkpoint file {directory / str(step) / name} {state}. "
                f"Delete {directory / str(step)} to go on from the step before it."
            )
    return True


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """How often to save and how many steps to keep."""

    every: int = 500
    keep: int = 2

    def __post_init__(self):
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"config.checkpoint.{name} is {getattr(self, name)}, expected 1 or more.")
