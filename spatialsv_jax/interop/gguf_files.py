"""Language models from GGUF files (llama.cpp), by the `gguf` package: tensors, settings, tokenizer.

Quantised tensors are read as float32. Files of the Llama architecture hold the rows of q and k with
the two halves of each rotary pair side by side (0, d/2, 1, d/2+1, ...), not half after half as
transformers and we have them. Read in the wrong order a model still writes fluent text, only worse.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from spatialsv_jax.backbones.decoder import LanguageConfig
from spatialsv_jax.interop.conversion import LINEAR, SAME, Rule, Transform
from spatialsv_jax.interop.tensor_files import ConversionError, TensorInfo

_CONTROL = 3  # llama.cpp's type of tokens such as <|im_start|>


def _library() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise ConversionError(
            'GGUF files need the package gguf: python -m pip install "spatialsv-jax[gguf]".'
        ) from error
    return gguf


class GGUFFile:
    """The tensors of one GGUF file with the interface of `TensorFolder`, and its settings.

    Attributes:
      tensors: name -> `TensorInfo` as read (float32).

    Raises:
      ConversionError: the gguf package is missing, or the file is none or damaged.
    """

    def __init__(self, path: str | os.PathLike):
        self.path, library = Path(path), _library()
        try:
            self._reader = library.GGUFReader(self.path)
        except (OSError, ValueError, IndexError, KeyError) as error:
            raise ConversionError(f"{self.path} is truncated or no GGUF file ({error}). Copy it again.") from error
        self._dequantize = library.dequantize
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.tensors = {
            name: TensorInfo(tuple(int(side) for side in tensor.shape[::-1]), np.dtype(np.float32), self.path.name)
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """The tensor, torch's order of axes, or the part of it that `index` cuts out; float32.

        Raises:
          KeyError: no such tensor.
        """
        tensor = self._tensors[name]
        values = self._dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        return values.reshape(self.tensors[name].shape)[index or (slice(None),)]

    def value(self, key: str, default: object = None) -> object:
        """A setting; without a default it must be there.

        Raises:
          ConversionError: it is not, naming it.
        """
        field = self._reader.get_field(key)
        if field is None and default is None:
            raise ConversionError(f"{self.path} lacks the setting '{key}'.")
        return default if field is None else field.contents()

    def language_config(self) -> LanguageConfig:
        """Our decoder's settings.

        Raises:
          ConversionError: another architecture than llama, scaled rotary positions, or a missing setting.
        """
        kind = self.value("general.architecture")
        if kind != "llama":
            raise ConversionError(f"{self.path} is of architecture '{kind}'; supported: llama.")
        if (scaling := self.value("llama.rope.scaling.type", "none")) != "none":
            raise ConversionError(f"{self.path} has rotary positions of type '{scaling}'; supported: none.")
        width, heads = int(self.value("llama.embedding_length")), int(self.value("llama.attention.head_count"))
        return LanguageConfig(
            vocab_size=self.tensors["token_embd.weight"].shape[0],
            width=width,
            layers=int(self.value("llama.block_count")),
            heads=heads,
            kv_heads=int(self.value("llama.attention.head_count_kv", heads)),
            head_dim=int(self.value("llama.rope.dimension_count", width // heads)),
            mlp_width=int(self.value("llama.feed_forward_length")),
            rope_theta=_decimal(self.value("llama.rope.freq_base", 1e4)),
            max_length=int(self.value("llama.context_length", 0)),
            norm_eps=_decimal(self.value("llama.attention.layer_norm_rms_epsilon")),
            tie_embeddings="output.weight" not in self.tensors,
        )

    def tokenizer(self) -> Tokenizer:
        """The file's byte-level BPE, its control tokens as special tokens.

        Raises:
          ConversionError: a tokenizer of another kind.
        """
        kind, split = self.value("tokenizer.ggml.model"), self.value("tokenizer.ggml.pre", "default")
        if (kind, split) != ("gpt2", "smollm"):
            raise ConversionError(
                f"{self.path} has tokenizer '{kind}' with splitting '{split}'; supported: gpt2, smollm."
            )
        words = self.value("tokenizer.ggml.tokens")
        merges = [tuple(pair.split(" ", 1)) for pair in self.value("tokenizer.ggml.merges")]
        result = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, merges))
        result.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        result.decoder = decoders.ByteLevel()
        kinds = self.value("tokenizer.ggml.token_type", ())
        control = [word for word, kind in zip(words, kinds, strict=False) if kind == _CONTROL]
        result.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in control])
        return result


def _decimal(value: float) -> float:
    """1e-05 of the float32 9.99999975e-06 that the file holds."""
    return float(str(np.float32(value)))


def interleaved(heads: int) -> Transform:
    """A projection [heads * d, in] whose rotary pairs lie side by side, as our [in, heads * d]."""

    def to_ours(x: np.ndarray) -> np.ndarray:
        pairs = x.reshape(heads, -1, 2, x.shape[-1])
        return pairs.swapaxes(1, 2).reshape(x.shape).T

    def to_theirs(x: np.ndarray) -> np.ndarray:
        halves = x.T.reshape(heads, 2, -1, x.shape[0])
        return halves.swapaxes(1, 2).reshape(x.shape[::-1])

    return Transform(f"interleaved, {heads} heads", to_ours, to_theirs)


def llama_rules(config: LanguageConfig, target: str = "") -> tuple[Rule, ...]:
    """The table of a Llama decoder in GGUF names; our paths begin with `target`."""
    layer, ours = "blk.{layer}.", f"{target}layers/"
    rules = [
        Rule("token_embd.weight", f"{target}embedding", SAME),
        Rule("output_norm.weight", f"{target}norm/scale", SAME),
        Rule(f"{layer}attn_norm.weight", f"{ours}attention_norm/scale", SAME),
        Rule(f"{layer}ffn_norm.weight", f"{ours}mlp_norm/scale", SAME),
        Rule(f"{layer}attn_q.weight", f"{ours}attention/q/kernel", interleaved(config.heads)),
        Rule(f"{layer}attn_k.weight", f"{ours}attention/k/kernel", interleaved(config.kv_heads)),
        Rule(f"{layer}attn_v.weight", f"{ours}attention/v/kernel", LINEAR),
        Rule(f"{layer}attn_output.weight", f"{ours}attention/o/kernel", LINEAR),
    ]
    rules += [Rule(f"{layer}ffn_{name}.weight", f"{ours}mlp/{name}/kernel", LINEAR) for name in ("gate", "up", "down")]
    if not config.tie_embeddings:
        rules.append(Rule("output.weight", f"{target}unembedding", LINEAR))
    return tuple(rules)
