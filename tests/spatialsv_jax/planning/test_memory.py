"""The compiler's refusals are read, and the quick estimate follows what is alive."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from spatialsv_jax.planning import memory
from spatialsv_jax.planning.chips import CHIPS, GIB, parse_topology
from spatialsv_jax.planning.liveness import Division, peak_bytes
from spatialsv_jax.training.sharding import MeshConfig, make_mesh
from spatialsv_jax.training.state import TrainState

ALONE = Division({}, 1.0)


def test_messages_of_the_compiler():
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 22.69G of 15.75G hbm. Exceeded hbm capacity by 6.94G."
    found, available = memory.refused((GIB, GIB, 0), message)
    assert (found.peak, available) == (int(22.69 * GIB), int(15.75 * GIB)) and found.source == "compiler refused"
    assert found.temporaries == found.peak - 2 * GIB
    # Of a v5e program with 14.25 GiB of inputs and a temporary of 2 GiB (libtpu 0.0.42.1): the figure is that of both.
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (16.25G) exceeds "
        "available HBM (15.75G)."
    )
    found, available = memory.refused((int(14.25 * GIB), 0, 0), message)
    assert (found.temporaries, found.peak) == (2 * GIB, int(16.25 * GIB)) and available == CHIPS["v5e"].memory_bytes
    assert memory.refused((0, 0, 0), "INTERNAL: something else") is None


@pytest.mark.parametrize("source, peak, available, fits", [
    ("estimate", 4.5, 10.0, True),
    ("estimate", 5.0, 10.0, None),  # compiled it may need 11
    ("estimate", 10.0, 10.0, None),
    ("estimate", 16.0, 10.0, None),  # or just fit
    ("estimate", 16.1, 10.0, False),
    ("estimate", 5.0, 0, None),
    ("compiler", 10.0, 10.0, True),
    ("compiler", 10.1, 10.0, False),
    ("compiler", 5.0, 0, None),
    ("compiler refused", 5.0, 10.0, False),
])  # fmt: skip
def test_an_estimate_near_the_limit_says_nothing(source, peak, available, fits):
    found = memory.Memory(1, 1, 1, 1, 0, int(peak * GIB), source)
    assert memory.fits(found, int(available * GIB)) is fits


def test_the_compiler_s_figures_add_up():
    """What is donated counts once: outputs take the place of inputs."""
    stats = SimpleNamespace(
        argument_size_in_bytes=10_000, output_size_in_bytes=2_000, alias_size_in_bytes=300, temp_size_in_bytes=40,
        generated_code_size_in_bytes=5,
    )  # fmt: skip
    found = memory.compiled((6_000, 3_000, 1_000), stats)
    assert found == memory.Memory(6_000, 3_000, 1_000, 40, 5, 10_000 + 2_000 - 300 + 40 + 5, "compiler")


def state_of(mesh, **fields) -> TrainState:
    """One weight of (512, 64) over fsdp and tensor, and nothing else but `fields`."""
    split = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    weight = jax.ShapeDtypeStruct((512, 64), jnp.float32, sharding=split)
    nothing = {field.name: () for field in dataclasses.fields(TrainState)}
    return TrainState(
        **nothing | {"params": {"lifting": {"w": weight}}} | {name: [weight] * count for name, count in fields.items()}
    )


def test_inputs_by_kind():
    """A weight over four devices, two moments and an averaged copy of it, rows over two of data x fsdp."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    batch = {"x": jax.ShapeDtypeStruct((8, 3), jnp.int32), "mask": jax.ShapeDtypeStruct((8,), jnp.bool_)}
    weight = 512 * 64 * 4 // 4
    assert memory.inputs(state_of(mesh, opt_state=2, ema=1), batch, mesh) == (weight, 3 * weight, 4 * 3 * 4 + 4)


def test_an_estimate_by_hand():
    """A weight that takes its old place, a gradient split as the weight, and beside it the gathered weight and a product."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    over_rows = lambda x, y: jax.lax.dot_general(x, y, (((0,), (0,)), ((), ())))
    step = lambda w, x, y: (w * 2, over_rows(x, y), over_rows(x, x @ w))
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((512, 64), (8, 512), (8, 64))]
    found = memory.estimated((100, 20, 3), jax.make_jaxpr(step)(*shapes), state_of(mesh), (), mesh)
    weight, product = 512 * 64 * 4, 8 * 64 * 4
    assert found.temporaries == weight // 4 + weight + product // 2
    assert found.peak == 123 + found.temporaries and found.source == "estimate"


def test_slices():
    found = parse_topology("v5p:4x4x8")
    assert found.devices == 128 and str(found) == "v5p:4x4x8"
    for wrong, message in (
        ("v9:2x2", "chip of v5e"),
        ("v5p:4x4", "3 axes"),
        ("v5e:a", "no shape"),
        ("v5e", "CHIP:SHAPE"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_topology(wrong)


def test_live_values_of_a_chain():
    """x @ w -> tanh -> @ w: at most two of the three results at once, elementwise ones free."""
    x, w = jnp.zeros((32, 64)), jnp.zeros((64, 64))
    chain = jax.make_jaxpr(lambda x, w: jnp.sum(jnp.tanh(x @ w) @ w))(x, w)
    assert peak_bytes(chain, ALONE) == 2 * 32 * 64 * 4
    assert peak_bytes(chain, Division({}, 0.25)) == 2 * 32 * 64  # split over four


def test_rematerialisation_lowers_the_estimate():
    """Ten layers save one array each without it; with it a layer's inside is not kept."""
    x, w = jnp.zeros((32, 64)), jnp.zeros((10, 64, 256))

    def loss(w, x, remat):
        def layer(carry, w):
            hidden = jnp.tanh(carry @ w)
            return jnp.tanh(jnp.sin(hidden) @ w.T), None

        return jnp.sum(jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, w)[0])

    shares = Division({(10, 64, 256): 0.0, (64, 256): 0.0}, 1.0)
    plain, saved = (
        peak_bytes(jax.make_jaxpr(jax.grad(lambda w, x: loss(w, x, remat)))(w, x), shares) for remat in (False, True)
    )
    carries, insides = 10 * 32 * 64 * 4, 10 * 32 * 256 * 4
    assert carries <= saved < 0.5 * plain and plain > carries + insides
