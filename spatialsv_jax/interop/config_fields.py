"""Reading config.json strictly: every field is read, fixed, or known to change nothing; others are errors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from spatialsv_jax.interop.tensor_files import ConversionError

# Of training, of the tokenizer, or bookkeeping: they change no hidden state.
BOOKKEEPING = frozenset({
    "architectures", "attention_dropout", "auto_map", "bos_token_id", "chunk_size_feed_forward", "dtype", "eos_token_id",
    "id2label", "initializer_range", "is_encoder_decoder", "label2id", "max_position_embeddings", "max_window_layers",
    "output_attentions", "output_hidden_states", "pad_token_id", "problem_type", "return_dict", "sliding_window",
    "torch_dtype", "transformers_version", "use_cache", "_attn_implementation_autoset", "_name_or_path", "_commit_hash",
    # Older files repeat the settings of generation and of other kinds of models.
    "add_cross_attention", "attn_implementation", "bad_words_ids", "begin_suppress_tokens", "cross_attention_hidden_size",
    "decoder_start_token_id", "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "is_decoder",
    "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_scores", "prefix", "pruned_heads", "remove_invalid_values", "repetition_penalty",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torchscript", "typical_p",
    "use_bfloat16",
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Fields:
    """What is known of the fields of one kind of config.

    Attributes:
      needed: whole numbers that must be there.
      read: further fields that are read.
      fixed: field -> the values of it that are built here, the usual one first.
      ignored: fields that change nothing.
    """

    needed: Collection[str]
    read: Collection[str] = ()
    fixed: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    ignored: Collection[str] = BOOKKEEPING

    def check(self, values: Mapping[str, Any], where: str, problems: Collection[str] = ()) -> None:
        """Compares a config with what is known.

        Args:
          values: the config.
          where: names it in the message.
          problems: what else was found wrong with it.

        Raises:
          ConversionError: fields that are missing, unknown or have a value that is not built here, all of them.
        """
        known = {*self.needed, *self.read, *self.fixed, *self.ignored}
        found = [f"unknown field '{name}'" for name in sorted(set(values) - known)]
        for name, allowed in self.fixed.items():
            if values.get(name, allowed[0]) not in allowed:
                found.append(f"{name} is {values[name]!r}, supported: {allowed[0]!r}")
        found += [f"'{name}' is missing" for name in self.needed if not isinstance(values.get(name), int)]
        found += problems
        if found:
            raise ConversionError(f"{where}: {'; '.join(found)}.")


def read_config(path: str | Path) -> dict[str, Any]:
    """The mapping in a config.json.

    Raises:
      ConversionError: no such file, or no JSON mapping in it.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(found, dict):
        raise ConversionError(f"{path} must hold a JSON object.")
    return found


def part(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """The mapping under `name`.

    Raises:
      ConversionError: it is missing or no mapping.
    """
    found = values.get(name)
    if not isinstance(found, Mapping):
        raise ConversionError(f"{where}: '{name}' must be a JSON object, not {found!r}.")
    return found


def square(value: Any, where: str) -> int:
    """The side of a size that is written as one number or as two equal ones.

    Raises:
      ConversionError: sides that differ, or no numbers.
    """
    sides = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(sides) != 1 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ConversionError(f"{where} is {value!r}, supported: one positive whole number for both sides.")
    return sides.pop()
