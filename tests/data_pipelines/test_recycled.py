"""Memory of batches is used again, and never while somebody holds it."""

import threading

import jax.numpy as jnp
import numpy as np

from data_pipelines.loader import make_loader
from data_pipelines.recycled import SMALLEST, Memory
from tests.data_pipelines import loader_fakes as fakes

SHAPE = (4, SMALLEST // 4)


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_once_nobody_holds_a_view():
    memory = Memory()
    first = memory.empty(SHAPE, np.float32)
    first[:] = 1
    where, part = address(first), first[2:, ::2]
    del first
    other = memory.empty(SHAPE, np.float32)
    assert address(other) != where  # a slice of a slice still shows it
    other[:] = 2
    assert (part == 1).all()
    del part
    assert address(memory.empty(SHAPE, np.float32)) == where
    assert memory.empty(SHAPE, np.float32).flags.writeable and memory.empty((3,), np.int32).base is None


def test_an_array_on_the_device_holds_it():
    memory = Memory()
    given = memory.empty(SHAPE, np.float32)
    given[:] = 3
    there = jnp.asarray(given)  # shares memory on CPU, or copies
    del given
    for value in (4, 5):
        memory.empty(SHAPE, np.float32)[:] = value
    assert (np.asarray(there) == 3).all()


def test_threads_never_share():
    memory, held, barrier = Memory(), [], threading.Barrier(4)

    def draw():
        barrier.wait()
        for _ in range(20):
            held.append(memory.empty(SHAPE, np.float32))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({address(array) for array in held}) == len(held) == 80


def test_a_batch_that_is_held_stays_what_it_is(monkeypatch):
    monkeypatch.setattr("data_pipelines.recycled.SMALLEST", 1)
    loader = make_loader(fakes.one_source(verify=0), fakes.processor(), records=[fakes.RECORDS])
    kept = loader.batch(0)
    copies = {name: value.copy() for name, value in kept.items()}
    where = address(loader.batch(1)["pixel_values"])
    assert address(loader.batch(2)["pixel_values"]) == where  # nobody held batch 1
    for name, value in copies.items():
        np.testing.assert_array_equal(kept[name], value)
