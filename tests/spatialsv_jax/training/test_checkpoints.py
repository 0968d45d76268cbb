"""Checkpoints come back bit for bit, and damage is noticed and named."""

import contextlib
import dataclasses
import resource
import shutil
import threading
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialsv_jax.training import checkpoints as checkpoints_lib
from spatialsv_jax.training import checksums, sharding
from spatialsv_jax.training import state as state_lib
from spatialsv_jax.training.checkpoints import CheckpointError, Checkpoints, DiskFullError
from spatialsv_jax.training.checksums import verify
from spatialsv_jax.training.optimizer import OptimizerConfig, make_optimizer

AXES = {"backbone": {"language": {"kernel": ("embed", "mlp")}}, "lifting": {"bias": ("output",)}}


def _state(mesh_config, width=8, given=None):
    mesh = sharding.make_mesh(mesh_config)
    tx = make_optimizer(OptimizerConfig(), 10)

    def init():
        kernel = jax.random.normal(jax.random.key(3), (width, 4))
        return {"backbone": {"language": {"kernel": kernel}}, "lifting": {"bias": jnp.ones(3)}}

    shapes, _ = state_lib.state_shapes(init, tx, (), AXES, mesh)
    return shapes, state_lib.create_state(init, tx, (), shapes, given)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    _, state = _state(sharding.MeshConfig(data=8))
    checkpoints = Checkpoints(folder)
    checkpoints.save(state, {"data": {"x": "1"}})
    checkpoints.close()
    return folder, state


def test_round_trip_onto_another_mesh_is_exact(saved):
    folder, state = saved
    shapes, _ = _state(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    restored, meta = Checkpoints(folder).restore(shapes)
    assert meta["data"] == {"x": "1"}
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(old, new)
    kernel = restored.params["backbone"]["language"]["kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec("fsdp", "tensor")


def test_params_alone_come_back_as_numpy(saved):
    folder, state = saved
    params, _, step = Checkpoints(folder, create=False).restore_params()
    assert step == 0 and isinstance(params["lifting"]["bias"], np.ndarray)
    np.testing.assert_array_equal(
        params["backbone"]["language"]["kernel"], state.params["backbone"]["language"]["kernel"]
    )


def test_another_architecture_is_one_clear_error(saved):
    shapes, _ = _state(sharding.MeshConfig(data=8), width=16)
    with pytest.raises(CheckpointError, match="does not fit the configured model"):
        Checkpoints(saved[0]).restore(shapes)


def _flip(step):
    """Flips a bit in the middle of the largest file of a step's parameters."""
    victim = max((step / "params").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else -1)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    return victim


def test_damage_names_the_file(saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(saved[0], folder)
    assert verify(folder, 0)
    victim = _flip(folder / "0")
    with pytest.raises(CheckpointError, match=f"{victim.name} differs from its checksum"):
        Checkpoints(folder, create=False).restore_params()
    victim.unlink()
    with pytest.raises(CheckpointError, match=f"{victim.name} is missing"):
        Checkpoints(folder, create=False).restore_params()


def _wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_a_checkpoint_is_sealed_without_another_save(tmp_path):
    """So what kill -9 leaves can be verified: nothing but the save is called."""
    shapes, state = _state(sharding.MeshConfig(data=8))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {"data": {}})
    _wait_until((tmp_path / "checksums/0.json").exists)
    victim = _flip(tmp_path / "0")
    with pytest.raises(CheckpointError, match=f"{victim.name} differs from its checksum"):
        Checkpoints(tmp_path).restore(shapes)
    checkpoints.close()


def test_saving_does_not_wait_for_checksums_but_the_end_does(tmp_path, monkeypatch):
    go_on, write = threading.Event(), checksums.write
    monkeypatch.setattr(checksums, "write", lambda *given: go_on.wait(20) and write(*given))
    said = []
    _, state = _state(sharding.MeshConfig(data=8))
    checkpoints = Checkpoints(tmp_path, keep=1, say=lambda text: (said.append(text), go_on.set()))
    for step in range(3):
        checkpoints.save(dataclasses.replace(state, step=state.step + step), {"data": {}})
    checkpoints.wait()
    assert not (tmp_path / "checksums").exists()
    checkpoints.close()
    assert said == [f"The checkpoint in {tmp_path} is whole; recording its checksums."]
    assert verify(tmp_path, 2) and [file.name for file in (tmp_path / "checksums").iterdir()] == ["2.json"]


def test_each_save_is_followed_by_what_was_asked_for(tmp_path):
    """In training, memory is given back: when the save is over, not while its threads still hold it."""
    _, state = _state(sharding.MeshConfig(data=8))
    found = []

    def afterwards():
        found.append((checkpoints._manager.is_saving_in_progress(), verify(tmp_path, len(found))))

    checkpoints = Checkpoints(tmp_path, keep=2, afterwards=afterwards)
    for step in range(2):
        checkpoints.save(dataclasses.replace(state, step=state.step + step), {"data": {}})
        _wait_until(lambda done=step + 1: len(found) == done)
    checkpoints.close()
    assert found == [(False, True), (False, True)]


def test_a_process_that_records_nothing_need_not_see_the_checkpoint(tmp_path):
    """A network file system shows a new folder late."""
    answers, called = iter([True, True, False]), threading.Event()
    seals = checksums.Seals(tmp_path, print, records=False, afterwards=called.set)
    seals.add(3, lambda: next(answers))
    assert called.wait(20) and next(answers, None) is None and not list(tmp_path.iterdir())


def test_checksums_keep_up_with_saves_that_follow_each_other_at_once(tmp_path):
    """So what kill -9 leaves can be verified."""
    _, state = _state(sharding.MeshConfig(data=8))
    checkpoints = Checkpoints(tmp_path, keep=2)
    lag = []
    for step in range(12):
        checkpoints.save(dataclasses.replace(state, step=state.step + step), {"data": {}})
        lag.append(sum(thread.name.startswith("checksums of") for thread in threading.enumerate()))
    checkpoints.close()
    assert max(lag) < 8
    assert verify(tmp_path, 10) and verify(tmp_path, 11)


def test_a_save_that_fails_at_its_beginning_does_not_keep_the_end_waiting(tmp_path, monkeypatch):
    """Orbax goes on saying that it saves."""
    go_on, write = threading.Event(), checksums.write
    monkeypatch.setattr(checksums, "write", lambda *given: go_on.wait(20) and write(*given))
    _, state = _state(sharding.MeshConfig(data=8))
    checkpoints = Checkpoints(tmp_path, say=lambda text: None)
    checkpoints.save(state, {"data": {}})
    checkpoints.wait()
    monkeypatch.setattr(checkpoints._manager._checkpointer, "save", mock.Mock(side_effect=MemoryError("no such luck")))
    with pytest.raises(MemoryError):
        checkpoints.save(dataclasses.replace(state, step=state.step + 1), {"data": {}})
    assert checkpoints._manager.is_saving_in_progress()
    go_on.set()
    closing = threading.Thread(target=checkpoints.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive() and verify(tmp_path, 0)


def test_a_checkpoint_without_checksums_is_told_and_sealed(saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(saved[0], folder)
    shutil.rmtree(folder / "checksums")
    said = []
    Checkpoints(folder, create=False, say=said.append).restore_params()
    assert len(said) == 1 and f"checkpoint {folder}/0 has no checksums" in said[0]
    assert not (folder / "checksums").exists()  # one that only reads writes nothing
    shapes, _ = _state(sharding.MeshConfig(data=8))
    checkpoints = Checkpoints(folder, say=said.append)
    checkpoints.restore(shapes)
    checkpoints.close()
    assert "has no checksums" in said[1] and "They are recorded as they are now." in said[1]
    assert verify(folder, 0)


class _Store:
    """What the coordinator keeps."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value):
        self.values[key] = value

    def blocking_key_value_get(self, key, milliseconds):
        return self.values[key]


@pytest.mark.parametrize("damaged", [False, True])
def test_the_first_of_several_processes_verifies_for_all(saved, tmp_path, monkeypatch, damaged):
    shutil.copytree(saved[0], tmp_path / "copy")
    store, read = _Store(), []
    checkpoints = Checkpoints(tmp_path / "copy", create=False)
    victim = _flip(tmp_path / "copy/0") if damaged else None
    monkeypatch.setattr(checkpoints_lib.multihost, "get_jax_distributed_client", lambda: store)
    monkeypatch.setattr(checkpoints_lib.jax, "process_count", lambda: 3)
    digest = checksums._digest
    monkeypatch.setattr(checksums, "_digest", lambda file: read.append(process) or digest(file))
    for process in range(3):
        monkeypatch.setattr(checkpoints_lib.jax, "process_index", lambda: process)
        monkeypatch.setattr(checkpoints_lib, "_verifications", iter([7]))  # each counts by itself
        fails = pytest.raises(CheckpointError, match=f"{victim.name} differs") if damaged else contextlib.nullcontext()
        with fails:
            assert checkpoints.verify_together() == 0
    assert set(read) == {0}


@contextlib.contextmanager
def _files_up_to(size):
    """The kernel refuses to write files longer than `size` bytes, as a full disk or a quota would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_says_so_and_leaves_the_checkpoint_before_whole(tmp_path):
    mesh = sharding.MeshConfig(data=8)
    shapes, state = _state(mesh, width=65536)  # 1 MiB
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {"data": {}})
    checkpoints.wait()
    later = dataclasses.replace(state, step=state.step + 1)
    with _files_up_to(100_000), pytest.raises(DiskFullError) as caught:
        checkpoints.save(later, {"data": {}})
        checkpoints.wait()
    text = str(caught.value)
    assert (
        "No space for the checkpoint of step 1 (one takes" in text
        and "File too large" in text
        and str(tmp_path) in text
    )
    assert "The checkpoint of step 0 is whole. Make room or lower checkpoint.keep" in text
    assert not list(tmp_path.glob("1*")), "what was begun takes space"
    checkpoints.close()
    again = Checkpoints(tmp_path)  # the same command, with room
    restored, _ = again.restore(shapes)
    np.testing.assert_array_equal(
        restored.params["backbone"]["language"]["kernel"], state.params["backbone"]["language"]["kernel"]
    )
    again.save(later, {"data": {}})
    again.close()
    assert again.latest_step() == 1 and verify(tmp_path, 1)


def test_missing_step_lists_those_present(saved):
    with pytest.raises(CheckpointError, match=r"No checkpoint 7 .*\[0\]"):
        Checkpoints(saved[0], create=False).restore_params(7)
    with pytest.raises(CheckpointError, match="No checkpoints at"):
        Checkpoints(saved[0] / "nowhere", create=False)


def test_starting_parameters_must_fit_except_what_is_new():
    mesh = sharding.MeshConfig(data=8)
    shapes, _ = _state(mesh)
    kernel = np.full((8, 4), 7, np.float16)
    given = state_lib.place(
        {"backbone": {"language": {"kernel": kernel}}, "lifting": {"bias": np.zeros(5)}}, shapes.params, ("lifting",)
    )
    _, new = _state(mesh, given=given)
    np.testing.assert_array_equal(new.params["backbone"]["language"]["kernel"], kernel)
    assert new.params["backbone"]["language"]["kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(new.params["lifting"]["bias"], np.ones(3))
    with pytest.raises(ValueError, match=r"(?s)missing: backbone/language/kernel.*unexpected: backbone/other"):
        state_lib.place({"backbone": {"other": kernel}}, shapes.params, ("lifting",))


def test_a_state_of_format_2_is_gone_on_from(tmp_path, monkeypatch):
    shapes, state = _state(sharding.MeshConfig(data=8))
    all_fields = checkpoints_lib._all_but_params
    old = lambda state: {k: v for k, v in all_fields(state).items() if k not in state_lib.BEGINNINGS}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_lib, "FORMAT_VERSION", 2)
        patch.setattr(checkpoints_lib, "_all_but_params", old)
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(state, {})
        checkpoints.close()
    restored, meta = Checkpoints(tmp_path).restore(shapes)
    assert meta["format_version"] == 2
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(restored.skipped) == 0 and float(restored.recent_norms.max()) == -1
