"""How many tokens the longest question of each record takes, kept on disk between starts."""

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
from data_pipelines.mixture import scene_has_text
from data_pipelines.packing import encode_turns
from data_pipelines.transforms.views import mentioned_views


def longest_questions(
    config: SourceConfig,
    records,
    members: np.ndarray,
    processor,
    threads: int,
    kept: Path | None = None,
    write: bool = True,
) -> np.ndarray:
    """int32[n]: tokens of the longest question of each record, its answer and end token included; 0 without text.

    Reads every record once, because only its tokenizer knows how long a text is.

    Args:
      config: which questions are asked.
      records: random access to the records of the source.
      members: the records in use.
      processor: tokenises.
      threads: that read.
      kept: file in which the result is looked up, if it belongs to the same data, tokenizer and settings.
      write: whether to write that file; one host does.

    Raises:
      ValueError: a text that the processor refuses, naming record and question.
    """
    if not config.text:
        return np.zeros(len(members), np.int32)
    key = _key(config, records, members, processor)
    if kept is not None and kept.is_file():
        with np.load(kept, allow_pickle=False) as file:
            if str(file["key"]) == key:
                return file["lengths"]
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=16 if threads else 0)
    found = grain.MapDataset.source(np.asarray(members)).map(lambda index: records[int(index)])
    lengths, known = np.zeros(len(members), np.int32), {}
    bar = tqdm(found.to_iter_dataset(reading), total=len(members), desc="lengths of questions", mininterval=2.0)
    for place, record in enumerate(bar):
        if scene_has_text(record.scene, config.text_share):
            asked = [q for q in record.questions if q.group in config.groups and q.type in (config.types or (q.type,))]
            lengths[place] = max((_length(q, record.id, config, processor, known) for q in asked), default=0)
    if kept is not None and write:
        kept.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, key=np.array(key), lengths=lengths)
        write_atomically(kept, buffer.getvalue())
    return lengths


def _length(question, record_id: str, config: SourceConfig, processor, known: dict) -> int:
    text = (question.text, question.options, question.answer, question.turns)
    if text not in known:
        try:
            known[text] = len(encode_turns(question, processor)[0])
        except ValueError as error:
            raise ValueError(f"Record '{record_id}', question '{question.id}': {error}") from error
    # Where views are drawn, their names change ("image 4" becomes "image 2"), and perhaps their tokens.
    return known[text] + (len(mentioned_views(question.text)) if config.views else 0)


def _key(config: SourceConfig, records, members: Sequence[int], processor) -> str:
    parts = (
        getattr(getattr(records, "manifest", None), "get", lambda *_: "")("data_sha256", ""),
        config.split, repr(config.groups), repr(config.types), repr(config.text_share), repr(config.views > 0),
        np.asarray(members, np.int64).tobytes().hex(), processor.tokenizer.to_str(), repr(processor.option_form),
    )  # fmt: skip
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
