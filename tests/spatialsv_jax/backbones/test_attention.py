"""The TPU kernel in Pallas' interpreter against XLA's attention, values and gradients, split over a mesh too; cuDNN's on a GPU.

On a machine with one: JAX_PLATFORMS=cuda python -m pytest -n 0 tests/spatialsv_jax/backbones/test_attention.py -k gpu
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialsv_jax.backbones import attention
from spatialsv_jax.backbones.attention import choose_backend, self_attention
from spatialsv_jax.training.sharding import MeshConfig, make_mesh


def inputs(number=2, heads=4, kv_heads=2, count=150, dim=24, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((number, heads, count, dim), (number, kv_heads, count, dim), (number, kv_heads, count, dim))
    query, key, value = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)
    return query * dim**-0.5, key, value


def reference(query, key, value, causal, real):
    """float64 NumPy, head by head."""
    query, key, value = (np.asarray(part, np.float64) for part in (query, key, value))
    groups, count = query.shape[1] // key.shape[1], query.shape[2]
    out = np.zeros(query.shape)
    for row, head in np.ndindex(query.shape[:2]):
        scores = query[row, head] @ key[row, head // groups].T
        hidden = ~np.tril(np.ones((count, count), bool)) if causal else np.zeros((count, count), bool)
        scores = np.where(hidden | ~real[row][None], -np.inf, scores)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[row, head] = weights / weights.sum(-1, keepdims=True) @ value[row, head // groups]
    return out


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("backend", ["xla", "splash"])
def test_values(backend, causal):
    parts = inputs()
    real = np.arange(150) < np.array([[150], [101]])
    found = self_attention(*parts, causal=causal, real=jnp.asarray(real), backend=backend, interpret=True)
    wanted = reference(*parts, causal, real)
    for row in range(2):
        np.testing.assert_allclose(found[row][:, real[row]], wanted[row][:, real[row]], atol=2e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_gradients(causal):
    parts, weights = inputs(count=70), inputs(count=70, seed=1)[0]
    loss = lambda backend: (
        lambda *given: (self_attention(*given, causal=causal, backend=backend, interpret=True) * weights).sum()
    )
    for ours, wanted in zip(
        jax.grad(loss("splash"), (0, 1, 2))(*parts), jax.grad(loss("xla"), (0, 1, 2))(*parts), strict=True
    ):
        np.testing.assert_allclose(ours, wanted, atol=1e-4)


def test_split_over_a_mesh():
    parts = inputs(number=4, count=40)
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        found = jax.jit(lambda *given: self_attention(*given, causal=True, backend="splash", interpret=True))(*parts)
    np.testing.assert_allclose(found, reference(*parts, True, np.ones((4, 40), bool)), atol=2e-5)


@pytest.mark.parametrize("backend", ["splash", "xla"])
@pytest.mark.parametrize("causal", [True, False])
def test_split_over_context(backend, causal):
    """Runs of a causal sequence's queries, each with its own mask; whole pictures otherwise. Gradients too."""
    parts = inputs(number=4, count=40)
    real = jnp.asarray(np.arange(40) < np.array([[40], [40], [33], [40]]))
    weights = inputs(number=4, count=40, seed=1)[0] * real[:, None, :, None]

    def total(query, key, value, backend):
        out = self_attention(query, key, value, causal=causal, real=real, backend=backend, interpret=True)
        return (out * weights).sum(), out

    wanted, out = jax.grad(lambda *given: total(*given, "xla"), (0, 1, 2), has_aux=True)(*parts)
    np.testing.assert_allclose(out[0], reference(*parts, causal, np.asarray(real))[0], atol=2e-5)
    with jax.set_mesh(make_mesh(MeshConfig(data=2, context=2, tensor=2))):
        found, split = jax.jit(jax.grad(lambda *given: total(*given, backend), (0, 1, 2), has_aux=True))(*parts)
    np.testing.assert_allclose(split * real[:, None, :, None], out * real[:, None, :, None], atol=2e-5)
    for have, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(have, want, atol=1e-4)


def test_auto_is_xla_on_cpu_and_names_are_checked():
    assert choose_backend("auto", jnp.bfloat16) == "xla"
    with pytest.raises(ValueError, match="language.attention is 'flash'"):
        choose_backend("flash", jnp.float32)


@pytest.mark.parametrize("count", [150, 151])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_traces_for_cudnn(causal, masked, count, trained, monkeypatch):
    """What JAX asks of arguments for its cuDNN kernel, checked without a GPU by tracing; only the machine is made up."""
    from jax._src.cudnn import fused_attention_stablehlo as kernel

    monkeypatch.setattr(kernel, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(kernel, "check_compute_capability", lambda *_: True)
    parts = [part.astype(jnp.bfloat16) for part in inputs(count=count, dim=64)]
    real = jnp.arange(count)[None] < jnp.array([[count], [100]]) if masked else None

    def value(*given):
        return self_attention(*given, causal=causal, real=real, backend="cudnn").astype(jnp.float32).sum()

    traced = jax.eval_shape(jax.grad(value) if trained else value, *parts)
    assert traced.shape == (parts[0].shape if trained else ())


@pytest.mark.parametrize("scenes", [2, 4])
def test_cudnn_gets_whole_sequences(scenes, monkeypatch):
    """Views split over the context axis are rows of one sequence across views, of which the kernel takes no part."""
    seen = {}

    def in_its_place(*given):
        for name, part in zip(("query", "key", "value", "real"), given[:4], strict=True):
            jax.debug.inspect_array_sharding(part, callback=functools.partial(seen.__setitem__, name))
        return attention._xla(*given)

    monkeypatch.setattr(attention, "_cudnn", in_its_place)
    mesh = make_mesh(MeshConfig(data=2, context=2, tensor=1), jax.devices()[:4])
    views = jax.NamedSharding(mesh, jax.P(("data", "fsdp"), "context"))

    @functools.partial(jax.jit, in_shardings=(views, views))
    def across(x, valid):  # [scenes, views, rows of one, heads, width]
        parts = [x.reshape(scenes, -1, 4, 8).swapaxes(1, 2) * share for share in (0.3, 1.0, 2.0)]
        real = jnp.repeat(valid, x.shape[2], axis=1)
        return self_attention(*parts, causal=False, real=real, backend="cudnn")

    x = jnp.asarray(np.random.default_rng(0).standard_normal((scenes, 4, 5, 4, 8)), jnp.float32)
    valid = jnp.arange(4)[None] < jnp.array([4, 3, 2, 4])[:scenes, None]
    with jax.set_mesh(mesh):
        found = across(x, valid)
    assert len(seen) == 4
    for name, sharding in seen.items():  # a sequence a device, or two devices with the same one
        whole = (scenes, 20) if name == "real" else (scenes, 4, 20, 8)
        assert sharding.shard_shape(whole) == (1, *whole[1:]), name
    parts = [np.asarray(x).reshape(scenes, -1, 4, 8).swapaxes(1, 2) * share for share in (0.3, 1.0, 2.0)]
    np.testing.assert_allclose(found, reference(*parts, False, np.repeat(valid, 5, axis=1)), atol=2e-5)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize("dim", [64, 80, 128])
@pytest.mark.parametrize("count", [150, 151])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_cudnn_on_a_gpu(causal, masked, count, dim):
    """bfloat16 against float64 NumPy on the same rounded inputs; gradients against XLA's in float32."""
    parts = [part.astype(jnp.bfloat16) for part in inputs(count=count, dim=dim)]
    exact = [part.astype(jnp.float32) for part in parts]
    there = np.arange(count) < np.array([[count], [101 if masked else count]])
    real = jnp.asarray(there) if masked else None
    weights = inputs(count=count, dim=dim, seed=1)[0] * jnp.asarray(there)[:, None, :, None]

    def total(query, key, value, backend):
        out = self_attention(query, key, value, causal=causal, real=real, backend=backend).astype(jnp.float32)
        return (out * weights).sum(), out

    run = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True), static_argnums=3)
    found, out = run(*parts, "cudnn")
    wanted, _ = run(*exact, "xla")
    rows = np.swapaxes(reference(*exact, causal, there), 1, 2)[there]
    assert np.linalg.norm(np.swapaxes(np.asarray(out), 1, 2)[there] - rows) < 1e-2 * np.linalg.norm(rows)
    for have, want in zip(found, wanted, strict=True):
        have, want = np.asarray(have, np.float32), np.asarray(want)
        assert np.linalg.norm(have - want) < 2e-2 * np.linalg.norm(want)
