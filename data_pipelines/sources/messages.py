"""messages: conversations as `messages`, JSON lines or list: OpenAI's, ms-swift's and Qwen's forms.

A row has `messages` ([{"role": "user" | "assistant" | "system", "content": ...}]). `content` is a text, with `<image>` and `<video>`
for what `images` (or `image`) and `videos` (or `video`) list; or a list of parts: {"type": "text", "text"}, {"type": "image_url",
"image_url": {"url"} or text}, {"type": "image", "image"}, {"type": "video", "video"}. A picture is a path, a file:// path or a base64
data: URL; a video is a path or a list of pictures. Sizes and frame rates that a part states are left to this program.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from data_pipelines.sources import posed_sources
from data_pipelines.sources.qa.fields import clip_of, learned, unread
from data_pipelines.sources.qa.files import question_files
from data_pipelines.sources.qa.problems import Checks, RowError
from data_pipelines.sources.qa.rows import (
    Media,
    Row,
    escaped,
    in_order,
    listed_media,
    media_paths,
    plain,
    text_of,
    turns_of,
    video_paths,
    without_tags,
)
from data_pipelines.sources.qa.settings import QaSettings
from data_pipelines.sources.qa.source import qa_source

ROLES = ("user", "assistant", "system")
KNOWN = (
    "id", "image", "images", "video", "videos", "messages", "question_type", "scene_name", "options", "start", "end", "start_frame",
    "end_frame",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings(QaSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""


class Messages:
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
        listed = listed_media(checks, fields, ("images", "image"), ("videos", "video"))
        beside = [Media(kind, one) for kind, values in listed.items() for one in values]
        parts: list[Media] = []
        messages, found = checks(_messages, fields.get("messages"), parts), None
        if parts and beside:
            checks.add("messages", "media stand in the messages and in lists beside them", "bad_media")
        media = parts or beside
        if messages is not None:
            for number, message in enumerate(fields["messages"]):
                learned(checks, message, f"messages[{number}]")
            sure = not checks.found
            ordered = media if parts or not sure else checks(in_order, messages, listed, "messages")
            found = turns_of(checks, messages, ordered if sure else None, "messages", fields.get("options"))
            media = ordered or media
        clip, frames = clip_of(checks, fields, media)
        notes, scene = unread(checks, fields, KNOWN), checks(plain, fields.get("scene_name"), "scene_name", default="")
        name = checks(plain, fields.get("id"), "id", default="")
        kind = checks(plain, fields.get("question_type"), "question_type", default="")
        checks.close(media, scene)
        return Row(
            media=tuple(media), turns=found.turns, id=name, type=kind or "own",
            scene=scene, options=found.options, form=found.form, clip=clip, frames=frames, notes=found.notes + notes,
        )  # fmt: skip


def _messages(said: object, media: list[Media]) -> list[tuple[str, object, str]]:
    """(role, content, field) of every message; the media of parts are added to `media`.

    Raises:
      RowError: another form.
    """
    if not isinstance(said, list):
        raise RowError("messages", f"is {type(said).__name__}, expected a list", "no_conversation")
    checks, messages = Checks(), []
    for number, message in enumerate(said):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            checks.add(f"{where}.role", "expected user, assistant or system", "unknown_role")
            continue
        content = message.get("content")
        if isinstance(content, list):
            content = checks(_text_of_parts, content, media, f"{where}.content", message["role"])
        messages.append((message["role"], content, f"{where}.content"))
    checks.close()
    return messages


def _text_of_parts(parts: list, media: list[Media], field: str, role: str) -> str:
    """The text of a list of parts with a tag for each of its media, which are added to `media`."""
    pieces, checks = [], Checks()
    for number, part in enumerate(parts):
        where = f"{field}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            text = part.get("text")
            if isinstance(text, str) and role == "assistant":  # a tag in an answer stays a mistake
                checks(without_tags, text, f"{where}.text")
            pieces.append(
                escaped(text)[0] if isinstance(text, str) else checks(text_of, text, f"{where}.text", default="")
            )
            continue
        if kind not in ("image_url", "image", "video") or role != "user":
            checks.add(where, "expected a part of type text, or of a user image_url, image or video", "bad_media")
            continue
        value = part.get(kind)
        if kind == "image_url" and isinstance(value, dict):
            value = value.get("url")
        if kind == "video" and (part.get("video_start") is not None or part.get("video_end") is not None):
            checks.add(where, "cuts its video (video_start, video_end): state `start` and `end` of the row", "bad_clip")
        kind = "video" if kind == "video" else "image"
        if kind == "video":
            sources = checks(video_paths, [value], where)
        else:
            sources = checks(media_paths, value, where)
        if sources is not None and len(sources) != 1:
            checks.add(where, f"expected one {kind}", "bad_media")
        elif sources:
            media.append(Media(kind, sources[0]))
            pieces.append(f"<{kind}>")
    checks.close()
    return "\n".join(pieces)


SOURCE = qa_source("messages", "4", Settings, Messages(), __file__, posed_sources())
