"""A bare language model from a checkpoint: what the tests of `interop` and the parity suite run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from spatialsv_jax.backbones.decoder import Decoder, Rows
from spatialsv_jax.backbones.layers import rotary_table
from spatialsv_jax.interop.arrays import read_parameters
from spatialsv_jax.interop.conversion import match
from spatialsv_jax.partitioning import create


def run(module, tokens, mask, taps):
    """(states [t,B,S,D], logits [B,S,N]) of a decoder bound to its parameters."""
    config, (number, length) = module.config, tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), (number, length))[..., None]
    cos, sin = rotary_table(positions, config.head_dim, config.rope_theta)
    rows = Rows(cos[:, :, None], sin[:, :, None], mask, None, None, None, length, 0)
    hidden, states, _ = module(module.embed(tokens), rows, None, positions[..., 0], taps)
    return states, module.logits(hidden)


def load(config, rules, folder, dtype="float32"):
    """(module, parameters, conversion) of a checkpoint that is a language model and nothing else."""
    module = Decoder(dataclasses.replace(config, dtype=dtype))
    tokens, mask = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    boxed = jax.eval_shape(lambda key: module.init(key, tokens, mask, (), method=run), jax.random.key(0))["params"]
    shapes = traverse_util.flatten_dict(jax.eval_shape(lambda: create(jax.random.key(0), boxed)), sep="/")
    conversion = match(rules, folder.tensors, {path: leaf.shape for path, leaf in shapes.items()})
    assert not conversion.new and not conversion.carried
    params = traverse_util.unflatten_dict(read_parameters(conversion, folder, shapes), sep="/")
    return module, params, conversion


def apply(module, params, tokens, mask, taps=()):
    """`run` compiled."""
    return jax.jit(lambda p, t, m: module.apply({"params": p}, t, m, taps, method=run))(params, tokens, mask)


def greedy(module, params, prompt, count):
    """int32[count] most likely tokens after the prompt int32[n], everything recomputed for each."""
    tokens = np.zeros((1, len(prompt) + count), np.int32)
    tokens[0, : len(prompt)] = prompt
    step = jax.jit(lambda p, t: module.apply({"params": p}, t, jnp.ones(t.shape, bool), (), method=run)[1])
    for place in range(len(prompt), tokens.shape[1]):
        tokens[0, place] = np.argmax(step(params, tokens)[0, place - 1])
    return tokens[0, len(prompt) :]


def nats_per_token(module, params, tokens):
    """Mean negative log likelihood of int32[n] tokens after the first."""
    _, logits = apply(module, params, jnp.asarray(tokens)[None], jnp.ones((1, len(tokens)), bool))
    likely = jax.nn.log_softmax(logits[0, :-1])
    return float(-likely[jnp.arange(len(tokens) - 1), jnp.asarray(tokens[1:])].mean())
