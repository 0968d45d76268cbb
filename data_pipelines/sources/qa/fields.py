"""Fields of a row beside its conversation: clips of videos, and fields that nothing reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from data_pipelines.sources.qa.problems import Checks
from data_pipelines.sources.qa.rows import Media, shown

# Fields that hold pictures, videos or sounds in one form or another; where a form does not read one, its rows are refused.
_MEDIA_FIELDS = re.compile(r"(?i)(images?|img|imgs|pictures?|photos?|videos?|audios?|frames)(_?(paths?|files?|urls?))?")


def clip_of(
    checks: Checks, fields: Mapping, media: Sequence[Media]
) -> tuple[tuple[float, float] | None, tuple[int, int] | None]:
    """(seconds, frames) of a row's `start` and `end`, or `start_frame` and `end_frame`; what is wrong is kept in `checks`."""
    found = []
    for names, kinds, unit in (
        (("start", "end"), (int, float), "seconds"),
        (("start_frame", "end_frame"), (int,), "numbers of frames from 0, the last one included"),
    ):
        values = [fields.get(name) for name in names]
        if values == [None, None]:
            found.append(None)
            continue
        good = all(isinstance(v, kinds) and not isinstance(v, bool) and 0 <= v < float("inf") for v in values)
        if not good or values[0] > values[1] or (kinds != (int,) and values[0] == values[1]):
            wrong = f"{names[0]} {shown(values[0])} and {names[1]} {shown(values[1])} must be {unit}, start before end"
            checks.add(names[0], wrong, "bad_clip")
            found.append(None)
            continue
        if not any(one.kind == "video" for one in media):
            checks.add(names[0], "cuts a video, and the row has none", "bad_clip")
        found.append(tuple(float(v) if kinds != (int,) else v for v in values))
    if None not in found:
        checks.add("start_frame", "stands beside `start`: state seconds or frames, not both", "bad_clip")
    return found[0], found[1]


def unread(checks: Checks, fields: Mapping, known: Sequence[str]) -> tuple[str, ...]:
    """Notes of fields that nothing reads; media under a name that is none of the form's are kept as problems.

    Args:
      checks: keeps the problems.
      fields: the row.
      known: names that the form reads.
    """
    notes = []
    for name, value in fields.items():
        if name in known or value in (None, "", [], {}):
            continue
        if isinstance(value, str | list | dict) and _MEDIA_FIELDS.fullmatch(name):
            checks.add(
                name[:40], "is a field that this form does not read, and seems to hold pictures or videos", "bad_media"
            )
        else:
            notes.append(f"field:{name[:40]}" if name[:40].isidentifier() else "field:other")
    return tuple(notes)


def learned(checks: Checks, message: Mapping, field: str) -> None:
    """Keeps as a problem that a message is not to be learned: all answers of a row are."""
    if not any(message.get("loss") is value for value in (None, True)) and message.get("loss") != 1:
        checks.add(f"{field}.loss", f"is {shown(message['loss'])}, but all answers of a row are learned", "not_learned")
