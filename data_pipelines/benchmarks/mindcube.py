"""MindCube: data/raw/MindCube_tinybench.jsonl or MindCube.jsonl, pictures below data/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from data_pipelines.benchmarks.items import Item, filled
from data_pipelines.benchmarks.raw_files import Raw
from data_pipelines.sources.mindcube import FILES, SETTINGS, below_images
from data_pipelines.sources.qa.options import split_options
from data_pipelines.sources.qa.problems import RowError

# The authors' structure (task, form of the answer, question) in words of ours.
TEMPLATES = {
    "choice": "[Task]\nThe pictures are views of one scene. Answer the question about the scene.\n\n"
    "[Answer]\nChoose exactly one option and write its letter and text inside answer tags, with nothing behind them, "
    "for example <answer>A. Above the table</answer>.\n\n[Question]\n{question}"
}


def read(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """`part`: tiny or full."""
    path = raw.table(FILES[part])
    folder = path.parent.parent if path.parent.name == "raw" else raw.folder
    for row in raw.rows(path):
        name, question = row.text("id"), row.text("question")
        setting = next((word for word in SETTINGS if word in name), None)
        if setting is None:
            raise row.error("id", f"expected one of {', '.join(SETTINGS)} in it, found {name!r}.")
        try:
            options = split_options(question, "question")[1]
        except RowError as error:
            raise row.error("question", f"{error.problem}.") from None
        paths = [below_images(text) for text in row.texts("images")]
        yield Item(
            name,
            row.place,
            setting,
            question,
            filled(templates["choice"], question=question),
            options,
            row.letter("gt_answer", options),
            tuple(raw.picture(text, f"data/{text}", prefer=folder) for text in paths),
            paths[0].rsplit("/", 1)[0],
            None,
            row.plain(),
        )
