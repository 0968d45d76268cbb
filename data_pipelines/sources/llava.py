"""llava: conversations in LLaVA's form, JSON list or JSON lines: VSI-590K, VLM-3R-DATA, SPAR-7M and one's own.

A row has `conversations` ([{"from": "human" | "gpt" | "system", "value": text}]), and `image` (a path or a list), `images`,
`video` or `videos`. Read as well: `id`, `question_type` or `type`, `scene_name`, `options`; `start` and `end` (seconds) or
`start_frame` and `end_frame` cut the video; SPAR's points and boxes (`red_point`, ..., or all in the text `spar_info`) are drawn.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from data_pipelines.sources import posed_sources
from data_pipelines.sources.qa.fields import clip_of, learned, unread
from data_pipelines.sources.qa.files import question_files
from data_pipelines.sources.qa.markers import FIELDS, marks_of
from data_pipelines.sources.qa.problems import Checks, RowError
from data_pipelines.sources.qa.rows import Media, Row, in_order, listed_media, plain, turns_of
from data_pipelines.sources.qa.settings import QaSettings
from data_pipelines.sources.qa.source import qa_source

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
KNOWN = (
    "id", "image", "images", "video", "videos", "conversations", "question_type", "type", "scene_name", "options", "start", "end",
    "start_frame", "end_frame", "spar_info", *FIELDS,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings(QaSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""


class Llava:
    """The form; see `qa.source.Form`."""

    def files(self, raw: Path, settings: QaSettings) -> list[Path]:
        """All .json and .jsonl files in `raw`; where there are none, in the folders below it."""
        return question_files(raw)

    def media(self, raw: Path, files: list[Path]) -> Path:
        """See `Form`."""
        return raw

    def row(self, fields: dict, settings: QaSettings) -> Row:
        """See `Form`."""
        checks = Checks()
        extra = checks(_spar_info, fields, default={})
        listed = listed_media(checks, fields, ("image", "images"), ("video", "videos"))
        media, found = [Media(kind, one) for kind, values in listed.items() for one in values], None
        known_media = not checks.found
        messages = checks(_messages, fields.get("conversations"), default=None)
        if messages is not None:
            for number, turn in enumerate(fields["conversations"]):
                learned(checks, turn, f"conversations[{number}]")
            ordered = checks(in_order, messages, listed, "conversations") if known_media else None
            found = turns_of(checks, messages, ordered, "conversations", fields.get("options"))
            media = ordered or media
        marks = checks(marks_of, {**fields, **extra}, len(media), default=())
        clip, frames = clip_of(checks, fields, media)
        notes, scene = unread(checks, fields, KNOWN), checks(plain, fields.get("scene_name"), "scene_name", default="")
        name = checks(plain, fields.get("id"), "id", default="")
        stated = fields.get("question_type") or extra.get("type") or fields.get("type")
        kind = checks(plain, stated, "question_type", default="")
        checks.close(media, scene)
        return Row(
            media=tuple(media),
            turns=found.turns,
            id=name,
            type=kind or "own",
            scene=scene,
            options=found.options,
            form=found.form,
            marks=marks,
            clip=clip,
            frames=frames,
            notes=found.notes + notes,
        )


def _messages(conversation: object) -> list[tuple[str, object, str]]:
    """(role, content, field) of every turn.

    Raises:
      RowError: another form.
    """
    if not isinstance(conversation, list):
        raise RowError("conversations", f"is {type(conversation).__name__}, expected a list", "no_conversation")
    checks, messages = Checks(), []
    for number, turn in enumerate(conversation):
        where = f"conversations[{number}]"
        if not isinstance(turn, dict) or not isinstance(turn.get("from"), str) or turn["from"] not in ROLES:
            checks.add(f"{where}.from", f"expected one of {', '.join(ROLES)}", "unknown_role")
            continue
        messages.append((ROLES[turn["from"]], turn.get("value"), f"{where}.value"))
    checks.close()
    return messages


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


SOURCE = qa_source("llava", "4", Settings, Llava(), __file__, posed_sources())
