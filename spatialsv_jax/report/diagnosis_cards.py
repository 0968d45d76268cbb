"""The part of a diagnosis' page about the things that questions name: right against wrong answers, and cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spatialsv_jax.report.images import data_uri
from spatialsv_jax.report.markup import esc, interval, number, percent, table

Pictures = Sequence[tuple[str, np.ndarray]]


def objects_section(summary: Mapping | None, cards: Sequence[tuple[Mapping, Pictures]]) -> str:
    """HTML of one run.

    Args:
      summary: of `object_errors.summarise`; None where no record has boxes.
      cards: (row of questions.jsonl, captions and pictures uint8[h,w,3]).
    """
    title = "<h3>Where a question looks</h3>"
    if summary is None or not summary["questions"]:
        return f"{title}<p>No question names a thing whose box is known and in sight.</p>"
    rows = []
    for name in ("right", "wrong"):
        entry = summary[name]
        cells = [
            number(entry[key]["value"]) + interval(entry[key]["interval_95"])
            for key in ("inside", "elsewhere", "excess")
        ]
        cells += [
            percent(entry[key]["value"]) + interval(entry[key]["interval_95"], 1, 100.0)
            for key in ("missing", "misplaced")
        ]
        rows.append([name, str(entry["n"]), *cells])
    head = ["answers", "n", "AbsRel inside", "elsewhere", "inside − elsewhere", "a thing missing %", "misplaced %"]
    correlation = "; ".join(
        f"{esc(name.replace('_', ' '))} {number(entry['value'], 2)}{interval(entry['interval_95'], 2)}"
        for name, entry in summary["correlation"].items()
    )
    note = (
        f"<p>{summary['questions']} word and letter questions that name a thing in sight ({summary['left_out']} others left out). "
        f"Rank correlation of error and answer within type and view count: {correlation}.</p>"
    )
    heads = "<p>Steps in depth are the depth head's; places are the points head's, where there is one, in the first view's frame.</p>"
    shown = f"<h3>Cards: wrong answers about badly reconstructed things</h3>{heads}{''.join(_card(*card) for card in cards)}"
    return f"{title}{note}{table(head, rows)}{shown if cards else ''}"


def _card(row: Mapping, pictures: Pictures) -> str:
    objects = row["objects"]
    things = "".join(f"<li>{esc(thing['text'])}</li>" for thing in objects["things"])
    if objects["outside"]:
        things += f"<li>Out of sight: {esc(', '.join(objects['outside']))}.</li>"
    tiles = "".join(
        f'<figure><img class="crisp" src="{data_uri(picture)}" alt="{esc(caption)}"><figcaption>{esc(caption)}</figcaption></figure>'
        for caption, picture in pictures
    )
    by = "" if objects["named_by"] == "question" else " (named by the true answer)"
    kind = "right" if row["score"] == 1 else "wrong"
    return (
        f'<section class="scene"><h4>{esc(row["question"])}</h4><p>answers <b class="{kind}">{esc(row["prediction"])}</b>, true is '
        f'<b>{esc(row["ground_truth"])}</b> <span class="tag">{esc(row["question_type"])}</span> <span class="tag">{esc(row["id"])}'
        f"</span></p><p>AbsRel inside {esc(', '.join(objects['named']))}{by}: {number(objects['inside'])}, elsewhere "
        f'{number(objects["elsewhere"])}.</p><ul>{things}</ul><div class="clouds">{tiles}</div></section>'
    )
