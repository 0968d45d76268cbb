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
from data_pipelines.sources.llava import plain, question_files
from data_pipelines.sources.qa.rows import Media, Row, RowError, escaped, form_of, media_paths, text_of, turns_of
from data_pipelines.sources.qa.source import QaSettings, qa_source


@dataclasses.dataclass(frozen=True)
class Settings(QaSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""


class Messages:
    """The form; see `qa.source.Form`."""

    def files(self, raw: Path, settings: QaSettings) -> list[Path]:
        """All .json and .jsonl files in `raw`; where there are none, in the folders below it."""
        return question_files(raw)

    def row(self, fields: dict, settings: QaSettings) -> Row:
        """See `Form`."""
        listed = {
            "image": [path for name in ("images", "image") for path in media_paths(fields.get(name), name)],
            "video": [video for name in ("videos", "video") for video in _videos(fields.get(name), name)],
        }
        messages, media = [], []
        if not isinstance(fields.get("messages"), list):
            raise RowError(
                "messages", f"is {type(fields.get('messages')).__name__}, expected a list", "no_conversation"
            )
        for number, message in enumerate(fields["messages"]):
            where = f"messages[{number}]"
            if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
                raise RowError(f"{where}.role", "expected user, assistant or system", "unknown_role")
            content = message.get("content")
            if isinstance(content, list):
                content = _text_of_parts(content, media, f"{where}.content", message["role"])
            messages.append((message["role"], content, f"{where}.content"))
        if media and (listed["image"] or listed["video"]):
            raise RowError("messages", "media stand in the messages and in lists beside them", "bad_media")
        if not media:
            media = _in_order(messages, listed)
        turns, notes = turns_of(messages, media, "messages")
        form = form_of(*turns[0], "messages") if len(turns) == 1 else "word"
        return Row(
            media=tuple(media), turns=turns, id=plain(fields.get("id")), type=plain(fields.get("question_type")) or "own",
            scene=plain(fields.get("scene_name")), form=form, notes=notes,
        )  # fmt: skip


def _videos(value: object, field: str) -> list[str | tuple[str, ...]]:
    """Videos: paths, or lists of pictures."""
    found = []
    for number, one in enumerate([] if value is None else value if isinstance(value, list) else [value]):
        paths = media_paths(one, f"{field}[{number}]")
        if not paths:
            raise RowError(f"{field}[{number}]", "is an empty list of frames", "bad_media")
        found.append(tuple(paths) if isinstance(one, list) else paths[0])
    return found


def _in_order(messages: list[tuple], listed: dict) -> list[Media]:
    """The listed media in the order of the tags; without tags pictures first."""
    from data_pipelines.sources.qa.rows import TAG

    tags = [
        tag[1]
        for role, content, _ in messages
        if role == "user" and isinstance(content, str)
        for tag in TAG.finditer(content)
    ]
    left = {kind: list(values) for kind, values in listed.items()}
    if not tags:
        return [Media(kind, one) for kind, values in listed.items() for one in values]
    if not left["image"] and set(tags) == {"image"} and len(tags) == len(left["video"]):
        tags = ["video"] * len(tags)  # the common mistake of writing <image> for videos
    found = []
    for kind in tags:
        if not left[kind]:
            raise RowError("messages", f"has more <{kind}> tags than {kind}s are listed", "tags_do_not_match_media")
        found.append(Media(kind, left[kind].pop(0)))
    if left["image"] or left["video"]:
        raise RowError("messages", "has fewer tags than media are listed", "tags_do_not_match_media")
    return found


def _text_of_parts(parts: list, media: list[Media], field: str, role: str) -> str:
    """The text of a list of parts with a tag for each of its media, which are added to `media`."""
    pieces = []
    for number, part in enumerate(parts):
        where = f"{field}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            text = part.get("text")
            pieces.append(escaped(text)[0] if isinstance(text, str) else text_of(text, f"{where}.text"))
            continue
        if kind not in ("image_url", "image", "video") or role != "user":
            raise RowError(where, "expected a part of type text, or of a user image_url, image or video", "bad_media")
        value = part.get(kind)
        if kind == "image_url" and isinstance(value, dict):
            value = value.get("url")
        kind = "video" if kind == "video" else "image"
        sources = _videos([value], where) if kind == "video" else media_paths(value, where)
        if len(sources) != 1:
            raise RowError(where, f"expected one {kind}", "bad_media")
        media.append(Media(kind, sources[0]))
        pieces.append(f"<{kind}>")
    return "\n".join(pieces)


SOURCE = qa_source("messages", "1", Settings, Messages(), __file__, posed_sources())
