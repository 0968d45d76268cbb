"""Causal decoder over a prefix and packed questions, scanned over layers, with taps and a cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.core import meta

from spatialsv_jax.backbones.attention import BACKENDS, self_attention
from spatialsv_jax.backbones.layers import UNROLL, LoraConfig, SwiGLU, adapted, attend, join, rms_norm, rotate
from spatialsv_jax.backbones.rows import Rows
from spatialsv_jax.partitioning import Normal, constrain, context_size, declare, lecun, vocabulary_product

REMAT_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def choose(value: object, options: tuple, where: str) -> None:
    """Raises ValueError, naming `where`, when a setting is none of its options."""
    if value not in options:
        raise ValueError(f"{where} is {value!r}; choose one of {options}.")


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """The decoder."""

    vocab_size: int = 0  # 0: to be filled in from the tokenizer
    width: int = 96
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 24
    mlp_width: int = 256
    rope_theta: float = 1e4
    rope_sections: tuple = ()  # frequencies that follow each of several position axes (Qwen2.5-VL); () = one axis
    rope_factor: float = 1.0  # positions are divided by it ("linear" scaling, as in LLaVA-NeXT-Video)
    max_length: int = 0  # longest sequence that positions were made for; 0 = not known
    norm_eps: float = 1e-6
    qkv_bias: bool = False  # as in Qwen2
    qk_norm: bool = False  # as in Qwen3
    tie_embeddings: bool = True
    lora_rank: int = 0  # > 0: low-rank adapters are trained in place of the decoder
    lora_alpha: float = 16.0
    lora_targets: tuple = ("q", "k", "v", "o", "gate", "up", "down")
    visual_attention: str = "causal"  # or "bidirectional": visual tokens see all visual tokens
    attention: str = "auto"  # kernel of the prefix's and the encoders' attention: xla, cudnn (GPU), splash (TPU)
    unroll: int = UNROLL  # layers per iteration of the scan
    remat: str = "none"  # "full" keeps only each layer's input, "dots" its matrix products too
    dtype: str = "float32"  # of the trunk's arithmetic (vision, projector, language); parameters are float32

    def __post_init__(self):
        choose(self.visual_attention, ("causal", "bidirectional"), "language.visual_attention")
        for name in self.lora_targets:
            choose(name, ("q", "k", "v", "o", "gate", "up", "down"), "language.lora_targets")
        choose(self.attention, BACKENDS, "language.attention")
        choose(self.remat, ("none", *REMAT_POLICIES), "language.remat")
        choose(self.dtype, ("float32", "bfloat16"), "language.dtype")
        if self.heads % self.kv_heads or self.head_dim % 2:
            raise ValueError(
                f"language.heads {self.heads} must be a multiple of kv_heads {self.kv_heads} and head_dim {self.head_dim} even."
            )
        if self.rope_factor < 1:
            raise ValueError(f"language.rope_factor is {self.rope_factor}, expected 1 or more.")
        if self.rope_sections and sum(self.rope_sections) != self.head_dim // 2:
            raise ValueError(
                f"language.rope_sections {self.rope_sections} must add up to head_dim / 2 = {self.head_dim // 2}."
            )

    def check_length(self, tokens: int) -> None:
        """Raises ValueError when a sequence is longer than `max_length`."""
        if self.max_length and tokens > self.max_length:
            raise ValueError(
                f"A sequence of {tokens} tokens is longer than the {self.max_length} that the language model was made for "
                "(language.max_length). Show fewer or smaller pictures, or ask for less."
            )

    @property
    def lora(self) -> LoraConfig:
        """The adapters."""
        return LoraConfig(self.lora_rank, self.lora_alpha, tuple(self.lora_targets))

    @property
    def position_axes(self) -> int:
        """K."""
        return len(self.rope_sections) or 1


@struct.dataclass
class Cache:
    """Keys and values of all layers (leading axis L outside the scan)."""

    prefix: tuple[jax.Array, jax.Array] | None  # [B,Hk,S,d]
    own: tuple[jax.Array, jax.Array]  # [B,Hk,Q,M,d]


class DecoderAttention(nn.Module):
    """Grouped-query attention: prefix rows are causal; question rows see the prefix and their own past.

    The two parts of a question's attention are computed apart and joined by their log-sum-exp, so
    no mask over (prefix + question) is ever made.
    """

    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    bias: bool = False  # of q, k and v (Qwen2)
    qk_norm: bool = False  # RMSNorm over each head's q and k before the rotation (Qwen3)
    norm_eps: float = 1e-6
    lora: LoraConfig = LoraConfig()
    attention: str = "auto"  # of the prefix to itself, see `attention.BACKENDS`

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None, rows: Rows) -> tuple[jax.Array, Cache | None]:
        number, count, width = x.shape

        def project(name: str, heads: int, axis: str) -> jax.Array:
            out = adapted(x, heads * self.head_dim, ("embed", axis), name, self.bias, self.dtype, self.lora)
            return out.reshape(number, count, heads, self.head_dim)

        query, key = project("q", self.heads, "heads"), project("k", self.kv_heads, "kv_heads")
        value = project("v", self.kv_heads, "kv_heads")
        if self.qk_norm:
            query = rms_norm("q_norm", self.dtype, self.norm_eps)(query)
            key = rms_norm("k_norm", self.dtype, self.norm_eps)(key)
        query = rotate(query, rows.cos, rows.sin) * self.head_dim**-0.5
        key = rotate(key, rows.cos, rows.sin)
        prefix_kv = self._prefix_keys(key, value, cache, rows)
        outputs, made = [], None
        if rows.prefix:
            outputs.append(self._prefix(rows.of_prefix(query), *prefix_kv, rows))
        if rows.questions:
            own_kv = self._own_keys(key, value, cache, rows)
            outputs.append(self._questions(rows.of_questions(query), prefix_kv, own_kv, rows))
            if cache is not None:
                made = Cache(prefix_kv if rows.prefix else None, own_kv)
        out = outputs[0] if len(outputs) == 1 else rows.joined(*outputs)
        return adapted(out.astype(self.dtype), width, ("heads", "embed"), "o", False, self.dtype, self.lora), made

    def _prefix_keys(self, key, value, cache, rows):
        if not rows.prefix:
            return cache.prefix
        keys = (rows.of_prefix(part).transpose(0, 2, 1, 3) for part in (key, value))
        return tuple(constrain(part, "rows", "heads", None, None) for part in keys)  # all of them on every device

    def _own_keys(self, key, value, cache, rows):
        """[B,Hk,Q,M,d]: the rows' own keys and values, written into the cache when there is one."""
        shape = (key.shape[0], rows.questions, -1, self.kv_heads, self.head_dim)
        own = tuple(rows.of_questions(part).reshape(shape).transpose(0, 3, 1, 2, 4) for part in (key, value))
        if cache is None:
            return own
        start = (0, 0, 0, rows.slot, 0)
        return tuple(jax.lax.dynamic_update_slice(old, new, start) for old, new in zip(cache.own, own, strict=True))

    def _prefix(self, query, key, value, rows):
        number, count = query.shape[:2]
        query = constrain(query.transpose(0, 2, 1, 3), "rows", "heads", "tokens", None)
        if rows.visual is None:
            # Padding stands at the end, where no real row looks.
            out = self_attention(query, key, value, causal=True, backend=self.attention)
        else:
            out = self._partly_bidirectional(query, key, value, rows.visual)
        return out.transpose(0, 2, 1, 3).reshape(number, count, self.heads * self.head_dim)

    def _partly_bidirectional(self, query, key, value, visual):
        """Causal attention [B,H,n,d] in which visual tokens see all visual tokens."""
        number, _, count, _ = query.shape
        groups = self.heads // self.kv_heads
        mask = jnp.tril(jnp.ones((count, count), bool))[None] | (visual[:, :, None] & visual[:, None, :])
        mask = jnp.broadcast_to(mask[:, None, None], (number, 1, groups, count, count))
        query = query.reshape(number, self.kv_heads, groups * count, self.head_dim)
        out = join([attend(query, key, value, mask.reshape(number, 1, groups * count, count))])
        return out.reshape(number, self.heads, count, self.head_dim)

    def _questions(self, query, prefix_kv, own_kv, rows):
        number, count = query.shape[:2]
        asked, groups, kv_heads, dim = rows.questions, self.heads // self.kv_heads, self.kv_heads, self.head_dim
        length = count // asked
        query = query.reshape(number, asked, length, kv_heads, groups, dim).transpose(0, 3, 1, 4, 2, 5)
        flat = query.reshape(number, kv_heads, asked * groups * length, dim)
        part = attend(flat, *prefix_kv, rows.prefix_mask[:, None, None, :])
        packed = (number, kv_heads, asked, groups * length)
        prefix_part = type(part)(*(array.reshape(*packed, array.shape[-1]) for array in part))
        mask = jnp.broadcast_to(
            rows.own_mask[:, None, :, None],
            (rows.own_mask.shape[0], 1, rows.own_mask.shape[1], groups, *rows.own_mask.shape[2:]),
        )
        mask = mask.reshape(*mask.shape[:3], groups * length, mask.shape[-1])
        own_part = attend(query.reshape(*packed, dim), *own_kv, mask)
        out = join([prefix_part, own_part]).reshape(number, kv_heads, asked, groups, length, dim)
        return out.transpose(0, 2, 4, 1, 3, 5).reshape(number, count, self.heads * dim)


def _layer(module: nn.Module, x: jax.Array, cache: Cache | None, rows: Rows):
    """One pre-norm decoder layer; its submodules belong to `module`."""
    config = module.config
    normed = rms_norm("attention_norm", config.dtype, config.norm_eps)(x)
    attention = DecoderAttention(
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        dtype=config.dtype,
        bias=config.qkv_bias,
        qk_norm=config.qk_norm,
        norm_eps=config.norm_eps,
        lora=config.lora,
        attention=config.attention,
        parent=module,
        name="attention",
    )
    mixed, cache = attention(normed, cache, rows)
    x = x + mixed
    normed = rms_norm("mlp_norm", config.dtype, config.norm_eps)(x)
    return x + SwiGLU(config.mlp_width, config.dtype, lora=config.lora, name="mlp")(normed), cache


class _ScanBody(nn.Module):
    """A layer, and the copy of its visual rows into the tap buffer outside the rematerialised part."""

    config: LanguageConfig

    @nn.compact
    def __call__(self, carry, cache, rows, index, slots):
        x, taps, number = carry
        layer = _layer
        if self.config.remat != "none":
            layer = nn.remat(_layer, prevent_cse=False, policy=REMAT_POLICIES[self.config.remat])
        x, cache = layer(self, constrain(x, "rows", "tokens", None), cache, rows)
        x = constrain(x, "rows", "tokens", None)
        number = number + 1
        if taps is not None and context_size() > 1:
            # Rows are fetched from other devices, so only where they are wanted.
            hold = lambda taps, x: jax.lax.dynamic_update_index_in_dim(taps, gather_rows(x, index), slots[number], 0)
            taps = jax.lax.cond(slots[number] >= 0, hold, lambda taps, x: taps, taps, x)
            taps = constrain(taps, None, "rows", "tokens", None)
        elif taps is not None:
            # Slot -1: no tap here. Then slot 0 is rewritten with what it holds.
            slot, hit = jnp.maximum(slots[number], 0), slots[number] >= 0
            held = jax.lax.dynamic_index_in_dim(taps, slot, keepdims=False)
            held = jnp.where(hit, gather_rows(x, index), held)
            taps = jax.lax.dynamic_update_index_in_dim(taps, held, slot, 0)
        return (x, taps, number), cache


def gather_rows(x: jax.Array, index: jax.Array) -> jax.Array:
    """Rows [B,n,D] of x[B,N,D] at index int32[B,n]."""
    return jnp.take_along_axis(x, index[:, :, None], axis=1)


class Decoder(nn.Module):
    """Token embeddings, scanned layers, final norm and unembedding; `config` is a LanguageConfig."""

    config: LanguageConfig

    def setup(self):
        config = self.config
        table = declare(Normal(config.width**-0.5), "vocab", "embed")
        self.embedding = self.param("embedding", table, (config.vocab_size, config.width), jnp.float32)
        if not config.tie_embeddings:
            kernel = declare(lecun, "embed", "vocab")
            self.unembedding = self.param("unembedding", kernel, (config.width, config.vocab_size), jnp.float32)
        scanned = nn.scan(
            _ScanBody,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            out_axes=0,
            length=config.layers,
            unroll=min(config.unroll, config.layers),
            metadata_params={meta.PARTITION_NAME: "layers"},
        )
        self.layers = scanned(config)
        self.norm = rms_norm("norm", config.dtype, config.norm_eps)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """[...,D] in the trunk's dtype."""
        return jnp.take(self.embedding, tokens, axis=0).astype(self.config.dtype)

    def __call__(
        self,
        x: jax.Array,
        rows: Rows,
        cache: Cache | None = None,
        index: jax.Array | None = None,
        taps: Sequence[int] = (),
    ) -> tuple[jax.Array, jax.Array | None, Cache | None]:
        """Runs all layers over rows x[B,N,D].

        Args:
          x: embedded rows.
          rows: what they are.
          cache: stacked cache to read and fill; None in training.
          index: int32[B,n] rows to tap.
          taps: state indices, any order, repeats allowed.

        Returns:
          (final hidden [B,N,D] after the norm, taps [t,B,n,D] or None, filled cache or None).
        """
        last = self.config.layers
        inner = sorted({tap for tap in taps if 0 < tap < last})
        found = {0: gather_rows(x, index)} if 0 in taps else {}
        slots, buffer = np.full(last + 1, -1, np.int32), None
        if inner:
            slots[inner] = np.arange(len(inner))
            buffer = jnp.zeros((len(inner), x.shape[0], index.shape[1], x.shape[2]), x.dtype)
        carry = (x, buffer, jnp.zeros((), jnp.int32))
        (x, buffer, _), cache = self.layers(carry, cache, rows, index, jnp.asarray(slots))
        x = self.norm(x)
        if inner and list(taps) == inner:  # as in every preset: the buffer is what was asked for
            return x, buffer, cache
        found.update({tap: buffer[number] for number, tap in enumerate(inner)})
        if last in taps:
            found[last] = gather_rows(x, index)
        return x, jnp.stack([found[tap] for tap in taps]) if taps else None, cache

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32[...,N]."""
        kernel = self.embedding if self.config.tie_embeddings else self.unembedding.T
        return vocabulary_product(hidden, kernel.astype(self.config.dtype))
