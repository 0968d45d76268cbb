"""How many tokens the questions of each record take, kept on disk between starts."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import grain
import numpy as np
from tqdm import tqdm

from data_pipelines.config import SourceConfig
from data_pipelines.manifest import write_atomically
from data_pipelines.packing import encode_turns
from data_pipelines.source import scenes_with_text


def question_lengths(
    config: SourceConfig,
    records,
    members: np.ndarray,
    processor,
    limit: int,
    threads: int,
    kept: Path | None = None,
    write: bool = True,
) -> np.ndarray:
    """int32[n,3] of each record: tokens of its longest question, of all together, and their number; 0 without text.

    Answers and end tokens are included.

    Reads every record once, because only its tokenizer knows how long a text is.

    Args:
      config: which questions are asked.
      records: random access to the records of the source.
      members: the records in use.
      processor: tokenises.
      limit: `config.data.question_tokens`.
      threads: that read.
      kept: file in which the result is looked up, if it belongs to the same data, tokenizer and settings.
      write: whether to write that file; one host does.

    Raises:
      ValueError: a text that the processor refuses, or longer than `limit`, naming record and question.
    """
    if not config.text:
        return np.zeros((len(members), 3), np.int32)
    key = _key(config, records, members, processor, limit)
    if kept is not None and kept.is_file():
        with np.load(kept, allow_pickle=False) as file:
            if str(file["key"]) == key:
                return file["lengths"]
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=16 if threads else 0)
    found = grain.MapDataset.source(np.asarray(members)).map(lambda index: records[int(index)])
    lengths, known = np.zeros((len(members), 3), np.int32), {}
    labelled = scenes_with_text(config, records)
    bar = tqdm(found.to_iter_dataset(reading), total=len(members), desc="lengths of questions", mininterval=2.0)
    for place, record in enumerate(bar):
        if record.scene in labelled:
            asked = [q for q in record.questions if q.group in config.groups and q.type in (config.types or (q.type,))]
            own = [_length(question, record, limit, processor, known) for question in asked]
            lengths[place] = max(own, default=0), sum(own), len(own)
    if kept is not None and write:
        kept.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, key=np.array(key), lengths=lengths)
        write_atomically(kept, buffer.getvalue())
    return lengths


def _length(question, record, limit: int, processor, known: dict) -> int:
    record_id, pictures = record.id, bool(record.view_ids)
    text = (question.text, question.options, question.answer, question.turns, pictures)
    if text not in known:
        try:
            known[text] = len(encode_turns(question, processor, pictures)[0])
        except ValueError as error:
            raise ValueError(f"Record '{record_id}', question '{question.id}': {error}") from error
    if known[text] > limit:
        raise ValueError(
            f"Record '{record_id}', question '{question.id}' needs {known[text]} tokens, but config.data.question_tokens is "
            f"{limit}; raise it. Text: '{question.text}'."
        )
    return known[text]


def _key(config: SourceConfig, records, members: Sequence[int], processor, limit: int) -> str:
    parts = (
        getattr(getattr(records, "manifest", None), "get", lambda *_: "")("data_sha256", ""),
        "3", str(limit), config.split, repr(config.groups), repr(config.types), repr((config.text_share, config.text_seed)), repr(config.views > 0),
        np.asarray(members, np.int64).tobytes().hex(), processor.tokenizer.to_str(), repr(processor.option_form),
    )  # fmt: skip
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
