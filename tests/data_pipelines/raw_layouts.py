"""Miniatures of raw data sets, and what a source makes of such a folder without writing it."""

from pathlib import Path

from data_pipelines.sources import SOURCES
from data_pipelines.sources.base import Tally

LAYOUTS = Path(__file__).parents[1] / "layouts"
STATED = dict(camera=(58, 58, 32, 24))  # for layouts whose files state none


def made(source, raw, **arguments):
    """(records, counts, {id: reason} of what was left out), nothing written."""
    plan = SOURCES[source].plan(SOURCES[source].settings(raw=str(raw), **arguments))
    tally, records = Tally(), []
    for split, items in plan.items.items():
        for item in range(items):
            records += SOURCES[source].make(plan, split, item, tally)
    return records, tally.counts, {row["id"]: row["reason"] for row in tally.skipped}
