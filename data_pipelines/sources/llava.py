"""llava: conversations in LLaVA's form, JSON list or JSON lines: VSI-590K, VLM-3R-DATA, SPAR-7M and one's own.

A row has `conversations` ([{"from": "human" | "gpt" | "system", "value": text}]), and `image` (a path or a list), `images` or
`video`. Read as well: `id`, `question_type` or `type`, `scene_name`; `start`/`end` or `start_frame`/`end_frame` are refused but
for seconds (`start`, `end`); SPAR's points and boxes (`red_point`, ..., or all in the text `spar_info`) are drawn.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from data_pipelines.sources import posed_sources
from data_pipelines.sources.qa.markers import marks_of
from data_pipelines.sources.qa.rows import Media, Row, RowError, form_of, media_paths, turns_of
from data_pipelines.sources.qa.source import QaSettings, qa_source

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclasses.dataclass(frozen=True)
class Settings(QaSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""


class Llava:
    """The form; see `qa.source.Form`."""

    def files(self, raw: Path, settings: QaSettings) -> list[Path]:
        """All .json and .jsonl files in `raw`; where there are none, in the folders below it."""
        return question_files(raw)

    def row(self, fields: dict, settings: QaSettings) -> Row:
        """See `Form`."""
        extra = _spar_info(fields)
        media = [Media("image", path) for name in ("image", "images") for path in media_paths(fields.get(name), name)]
        media += [Media("video", path) for path in media_paths(fields.get("video"), "video")]
        conversation = fields.get("conversations")
        if not isinstance(conversation, list):
            raise RowError("conversations", f"is {type(conversation).__name__}, expected a list", "no_conversation")
        messages = []
        for number, turn in enumerate(conversation):
            where = f"conversations[{number}]"
            if not isinstance(turn, dict) or not isinstance(turn.get("from"), str) or turn["from"] not in ROLES:
                raise RowError(f"{where}.from", f"expected one of {', '.join(ROLES)}", "unknown_role")
            messages.append((ROLES[turn["from"]], turn.get("value"), f"{where}.value"))
        turns, notes = turns_of(messages, media, "conversations")
        form = form_of(*turns[0], f"conversations[{2 * len(turns) - 1}].value") if len(turns) == 1 else "word"
        return Row(
            media=tuple(media),
            turns=turns,
            id=plain(fields.get("id")),
            type=plain(fields.get("question_type") or extra.get("type") or fields.get("type")) or "own",
            scene=plain(fields.get("scene_name")),
            form=form,
            marks=marks_of({**fields, **extra}, len(media)),
            clip=_clip(fields),
            notes=notes,
        )


def question_files(raw: Path) -> list[Path]:
    """All .json and .jsonl files in `raw`; where there are none, in the folders below it."""
    for search in (raw.glob, raw.rglob):
        if found := sorted(path for path in search("*") if path.suffix.lower() in (".json", ".jsonl")):
            return found
    return []


def plain(value: object) -> str:
    """A name: a text or a whole number as it is, anything else is none."""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _spar_info(fields: dict) -> dict:
    text = fields.get("spar_info")
    if text is None:
        return {}
    try:
        found = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        raise RowError("spar_info", f"is not JSON: {error}", "bad_marks") from error
    if not isinstance(found, dict):
        raise RowError("spar_info", "expected an object as JSON text", "bad_marks")
    return found


def _clip(fields: dict) -> tuple[float, float] | None:
    if "start_frame" in fields or "end_frame" in fields:
        raise RowError(
            "start_frame", "clips by frame numbers are not read; state `start` and `end` in seconds", "bad_clip"
        )
    if "start" not in fields and "end" not in fields:
        return None
    start, end = fields.get("start"), fields.get("end")
    good = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (start, end)) and 0 <= start < end
    if not good:
        raise RowError("start", f"start {start!r} and end {end!r} must be seconds, start before end", "bad_clip")
    return float(start), float(end)


SOURCE = qa_source("llava", "1", Settings, Llava(), __file__, posed_sources())
