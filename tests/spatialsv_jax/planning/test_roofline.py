"""Times follow from work and the chip's numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from spatialsv_jax.planning.chips import parse_topology
from spatialsv_jax.planning.hlo import Collective
from spatialsv_jax.planning.roofline import roofline
from spatialsv_jax.training import flops
from spatialsv_jax.training.flops import Cost

SLICE = parse_topology("v5e:2x2")


def test_each_limit_in_turn():
    work = {"language": Cost(matrix=4 * 197e12), "losses": Cost(bytes=4 * 819e9 * 0.5)}
    times = roofline(work, {}, SLICE, 0.0)
    assert times.seconds == pytest.approx(1.5) and times.mfu == pytest.approx(1 / 1.5) and times.bound == "arithmetic"
    moved = {"all-gather": Collective(1, 0.0, 200e9 * 4, 0.0)}
    times = roofline(work, moved, SLICE, 0.0)
    assert times.seconds == pytest.approx(4) and times.seconds_without_overlap == pytest.approx(5.5)
    assert times.bound == "communication"


def test_slices_talk_over_the_slow_network():
    """200 GB/s over the links of a v5e, 6.4 Tbit/s for 256 of them between slices; one after the other."""
    work = {"language": Cost(matrix=8 * 197e12)}
    moved = {"all-reduce": Collective(1, 0.0, 200e9), "all-reduce between slices": Collective(1, 0.0, 6.4e12 / 8 / 256)}
    two = dataclasses.replace(SLICE, slices=2)
    assert (two.devices, two.hosts, str(two), two.name) == (8, 2, "2 slices of v5e:2x2", "v5e:2x2")
    times = roofline(work, moved, two, 0.0)
    assert times.network == pytest.approx(2) and times.seconds == pytest.approx(2) and times.compute == pytest.approx(1)


def test_what_is_rematerialised_is_not_useful():
    times = roofline({"language": Cost(matrix=4 * 197e12, recomputed=197e12)}, None, SLICE, 0.0)
    assert times.seconds == pytest.approx(1) and times.mfu == pytest.approx(0.75)


def test_every_device_reads_a_weight_whole():
    """Rows of 32 a device on 64 devices, times a weight over fsdp: the weight is most of what a device reads."""
    rows, wide, narrow = 64 * 32, 11008, 2048

    def product(x, w):
        with jax.named_scope("language"):
            return x @ w

    shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((rows, narrow), (narrow, wide))]
    costs = flops.costs(jax.make_jaxpr(product)(*shapes), [None, 1.0])
    times = roofline(costs, {}, parse_topology("v5e:8x8"), 0.0)
    assert times.memory == pytest.approx((32 * narrow + narrow * wide + 32 * wide) * 2 / 819e9)
    assert times.bound == "memory traffic" and times.seconds == times.memory > 7 * times.compute


def test_the_update_takes_memory_traffic():
    times = roofline({"optimizer": Cost()}, None, SLICE, 4 * 819e9 * 2)
    assert times.seconds == pytest.approx(2) and times.bound == "memory traffic"


def test_nothing_is_said_of_simulated_devices():
    times = roofline({"language": Cost(matrix=1e12)}, {}, parse_topology("cpu:4"), 0.0)
    assert times.seconds is None and times.mfu is None


def test_further_passes_take_time_and_are_no_work():
    times = roofline({"head": Cost(matrix=4 * 197e12, passes=8 * 197e12)}, None, SLICE, 0.0)
    assert times.seconds == pytest.approx(3) and times.mfu == pytest.approx(1 / 3)
