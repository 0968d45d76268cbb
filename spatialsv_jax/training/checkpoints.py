"""Orbax checkpoints: parameters, optimizer and data position, verified by checksums on restore.

Layout of DIR: `STEP/{params,optimizer,meta}` by Orbax (a step shows only once it is whole), and
`checksums/STEP.json` with the SHA-256 of every file of the step, written in the background once it is whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import multihost

from spatialsv_jax.training.checksums import CheckpointError, Seals, verify
from spatialsv_jax.training.state import BEGINNINGS, TrainState

FORMAT_VERSION = 3  # 3: skipped steps and recent gradient norms in the state
_STATES_READABLE = (2, 3)
_PARAMETERS_READABLE = (1, 2, 3)  # formats whose parameters are laid out alike
_LONGEST_WAIT_S = 24 * 3600  # for the first process, which reads a whole checkpoint
_WHOLE = "whole"
_verifications = itertools.count()


class DiskFullError(OSError):
    """A checkpoint could not be written for want of space; those before it are whole."""


class Checkpoints:
    """Saves and restores training states in a directory.

    Args:
      directory: the directory; made when `create`.
      keep: how many of the newest steps to keep.
      create: whether to make the directory and save into it, which all processes of a job do together. False: to
        read only, which each process does alone.
      say: told by the first process what is not as it should be.
      afterwards: called in a thread once a save is over, on every process.
    """

    def __init__(
        self,
        directory: str | Path,
        keep: int = 2,
        create: bool = True,
        say: Callable[[str], None] = print,
        afterwards: Callable[[], None] = lambda: None,
    ):
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
        self._create, self._say = create, say
        self._saving: int | None = None
        self._seals = Seals(self.directory, say, jax.process_index() == 0, afterwards)

    def latest_step(self) -> int | None:
        """The newest whole step, None when there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, meta: dict) -> None:
        """Writes the state and then its checksums in the background; an earlier save is finished first.

        Raises:
          DiskFullError: no space for this state or the one before.
        """
        self.wait()
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._saving = step
        with self._space_needed(step):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    optimizer=ocp.args.StandardSave(_all_but_params(state)),
                    meta=ocp.args.JsonSave({"format_version": FORMAT_VERSION, **meta}),
                ),
            )
        # Of this save alone: the manager's answer is that of the newest one, and stays true where one fails at its beginning.
        self._seals.add(step, lambda: self._saving == step and self._manager.is_saving_in_progress())

    def wait(self) -> None:
        """Waits until the save in flight is whole; its checksums may come later.

        Raises:
          DiskFullError: no space for it.
        """
        with self._space_needed(self._saving):
            self._manager.wait_until_finished()
        self._saving = None

    @contextlib.contextmanager
    def _space_needed(self, step: int | None) -> Iterator[None]:
        """Names what could not be written and what to do; what was begun is removed, so that it takes no space."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # TensorStore's are ValueErrors
            self._saving = None
            if not _is_full(error):
                raise
            if jax.process_index() == 0:
                for begun in self.directory.glob(f"{step}.orbax-checkpoint-tmp*"):
                    shutil.rmtree(begun, ignore_errors=True)
            steps = sorted(int(path.name) for path in self.directory.glob("[0-9]*") if path.name.isdigit())
            newest = f"The checkpoint of step {steps[-1]} is whole" if steps else "There is no earlier checkpoint"
            size = sum(file.stat().st_size for file in (self.directory / str(steps[-1])).rglob("*")) if steps else 0
            needed = f" (one takes {size / 2**20:.0f} MiB)" if size else ""
            raise DiskFullError(
                errno.ENOSPC,
                f"No space for the checkpoint of step {step}{needed}: {_cause(error)}. {newest}. Make room or lower "
                "checkpoint.keep, then the same command goes on from there",
                str(self.directory),
            ) from error

    def verify_together(self, step: int | None = None) -> int:
        """Compares a step's files with their checksums on the first process, for all of the job: all call it.

        Returns:
          The step, the newest by default.

        Raises:
          CheckpointError: on all of them: nothing there, or the first file that is missing or differs.
        """
        step = self._resolve(step)
        if jax.process_count() == 1:
            self._verify(step)
            return step
        client, key = multihost.get_jax_distributed_client(), f"spatialsv/verified/{next(_verifications)}"
        if jax.process_index() > 0:
            found = client.blocking_key_value_get(key, _LONGEST_WAIT_S * 1000)
            if found != _WHOLE:
                raise CheckpointError(found)
            return step
        try:
            self._verify(step)
        except (CheckpointError, OSError) as error:
            client.key_value_set(key, str(error))
            raise
        client.key_value_set(key, _WHOLE)
        return step

    def _verify(self, step: int) -> None:
        if verify(self.directory, step) or jax.process_index() > 0:
            return
        self._say(
            f"WARNING: checkpoint {self.directory / str(step)} has no checksums: its program ended between writing it "
            "and recording them, or is at it. It cannot be told whether its files are as they were written."
            + (" They are recorded as they are now." if self._create else "")
        )
        if self._create:
            self._seals.add(step)

    def restore(self, shapes: TrainState, step: int | None = None) -> tuple[TrainState, dict]:
        """The state of `step` (default: the newest) on the mesh of `shapes`, and its meta dict; all processes call it.

        Raises:
          CheckpointError: nothing there, a damaged file, or another architecture.
        """
        step = self.verify_together(step)
        meta = self.read_meta(step)
        _check_version(meta, self.directory / str(step), _STATES_READABLE)
        wanted, begun = _all_but_params(shapes), {}
        if meta["format_version"] == 2:
            begun = {name: _everywhere(value, wanted.pop(name).sharding) for name, value in BEGINNINGS.items()}
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(shapes.params),
                    optimizer=ocp.args.StandardRestore(wanted),
                    meta=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"Checkpoint {self.directory}/{step} does not fit the configured model and optimizer: "
                f"{str(error)[:600]}. Use the configuration it was written with (config.json beside it)."
            ) from error
        return TrainState(params=restored["params"], **restored["optimizer"], **begun), restored["meta"]

    def saved_shapes(self, step: int | None = None) -> tuple[int, dict[str, Any]]:
        """(step, shapes and types of its parameters), its files neither verified nor the parameters read.

        Raises:
          CheckpointError: nothing there, or another format.
        """
        step = self._resolve(step)
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
          verified: the files were verified already (`verify_together`).

        Raises:
          CheckpointError: nothing there, a damaged file, or another format; and what `place` raises.
        """
        step = self._resolve(step)
        if not verified:
            self._verify(step)
        meta = self._meta(step)
        with _reader() as reader:
            saved = _shapes_in(reader, self._params(step))
            wanted = (place(saved) if place else None) or saved
            restore_args = jax.tree.map(_restore_args, wanted)
            return reader.restore(self._params(step), restore_args=restore_args), meta, step

    def _params(self, step: int) -> Path:
        return self.directory / str(step) / "params"

    def read_meta(self, step: int) -> dict:
        """What was saved beside the state of a step; its files are not verified.

        Raises:
          CheckpointError: it cannot be read.
        """
        file = self.directory / str(step) / "meta" / "metadata"
        try:
            return json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"Checkpoint file {file} is missing or damaged ({error}). Delete {self.directory / str(step)} to go on from "
                "the step before it."
            ) from error

    def _meta(self, step: int) -> dict:
        meta = self.read_meta(step)
        _check_version(meta, self.directory / str(step), _PARAMETERS_READABLE)
        return meta

    def close(self) -> None:
        """Finishes the save in flight, then its checksums, and frees the manager."""
        self.wait()
        self._manager.close()
        self._seals.wait()

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


_FULL = {
    errno.ENOSPC: "No space left",
    errno.EDQUOT: "Disk quota exceeded",
    errno.EFBIG: "File too large",
}


def _is_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in _FULL or any(words in str(error) for words in _FULL.values())


def _cause(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    return _FULL.get(number) or next(words for words in _FULL.values() if words in str(error))


def _all_but_params(state: TrainState) -> dict:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name != "params"}


def _everywhere(value: np.ndarray, sharding) -> jax.Array:
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def _check_version(meta: dict, path: Path, readable: tuple[int, ...]) -> None:
    version = meta.get("format_version")
    if version not in readable:
        raise CheckpointError(
            f"Checkpoint {path} has format {version}; this program goes on from "
            f"{', '.join(map(str, _STATES_READABLE))} and reads the parameters "
            f"of {', '.join(map(str, _PARAMETERS_READABLE))}. Start a new --workdir, from it by config.init_from if need be."
        )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """How often to save and how many steps to keep."""

    every: int = 500
    keep: int = 2

    def __post_init__(self):
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"config.checkpoint.{name} is {getattr(self, name)}, expected 1 or more.")
