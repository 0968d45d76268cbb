"""VLMEvalKit's TSVs (3DSRBench, MMBench, TopViewRS), and question lists beside their pictures (ViewSpatial-Bench, Ego3D-Bench)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from data_pipelines.benchmarks.items import Item, filled, lettered
from data_pipelines.benchmarks.raw_files import Raw
from data_pipelines.benchmarks.raw_rows import Row
from data_pipelines.benchmarks.vsibench import LETTER

THREED_SR = {
    "choice": "Question: {question}\nOptions:\n{options}\nPlease select the correct answer from the options above. "
}
TOPVIEWRS = THREED_SR
MMBENCH = {"choice": f"{{hint}}{{question}} There are several options:\n{{options}}\n\n{LETTER}"}
VIEWSPATIAL = {
    "choice": "Question: {question}\nChoices: {options}\nReply only to the corresponding option.\nAnswer:",
}
EGO3D = {
    "choice": "{question}\nOptions:\n{options}\nAnswer with the option's letter alone, inside answer tags, for example "
    "<answer>A</answer>.",
    "distance": "{question}\nAnswer with one number, the distance in metres, inside answer tags, for example <answer>4.2</answer>.",
}


def read_3dsrbench(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """`part`: circular (all rotations and flips, the paper's number) or flip (flip pairs)."""
    name = "3dsrbench_v1_vlmevalkit_circular.tsv" if part == "circular" else "3dsrbench_v1_vlmevalkit.tsv"
    for row in raw.rows(raw.table(name)):
        yield _of_tsv(row, row.text("qid"), templates, row.text("qid")[:8])


def read_topviewrs(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """VLMEvalKit's TSV; the released JSON files are not read."""
    for row in raw.rows(raw.table("*TopViewRS*.tsv", "*topviewrs*.tsv")):
        yield _of_tsv(row, row.text("index"), templates, None)


def read_mmbench(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """One MMBench_DEV TSV; the answers of the TEST files are hidden, so there is nothing to score."""
    for row in raw.rows(raw.table("MMBench_DEV_EN*.tsv", "MMBench*.tsv")):
        number = row.text("index")
        if not number.isdecimal():
            raise row.error("index", f"expected a whole number, found {number!r}.")
        yield _of_tsv(row, number, templates, f"question {int(number) % 1_000_000}")


def read_viewspatial(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """ViewSpatial-Bench.json; pictures ViewSpatial-Bench/{scannetv2_val,val2017}/... in folders or zip archives."""
    for number, row in enumerate(raw.rows(raw.table("ViewSpatial-Bench.json"))):
        question, choices = row.text("question"), row.text("choices")
        options, paths = tuple(choices.split("\n")), row.texts("image_path")
        truth = row.text("answer")
        if truth not in options:
            raise row.error("answer", f"expected one of the lines of `choices`, found {truth!r}.")
        scene = re.search(r"/(scene\d{4}_\d\d)/", paths[0])
        yield Item(
            str(number),
            row.place,
            row.text("question_type"),
            question,
            filled(templates["choice"], question=question, options=choices),
            options,
            truth,
            tuple(raw.picture(path, path.split("/", 1)[-1]) for path in paths),
            scene[1] if scene else paths[0],
            None,
            row.plain(),
        )


_VIEW = re.compile(r"((?:Front|Back|Side)(?:[ _]?(?:Left|Right))?|Left|Right)[ _]?view:?\s*<image>", re.IGNORECASE)
_DISTANCES = ("Ego_Centric_Absolute_Distance", "Object_Centric_Absolute_Distance")


def read_ego3d(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """test.jsonl and raw_images.zip; the views stand in the order of the question's placeholders.

    Fields as the authors' models/qwen2.5_vl.py reads them (in the fork fanyunfeng-bit/EGO3D-BENCH, 2833181).
    """
    for row in raw.rows(raw.table("test.jsonl", "*.jsonl")):
        category, question, files = row.text("category"), row.text("question"), row.fields.get("images")
        if not isinstance(files, dict):
            raise row.error("images", "expected an object view -> file name.")
        by_view = {name.lower().replace("_", ""): file for name, file in files.items() if file}
        shown = []
        for match in _VIEW.finditer(question):
            view = re.sub("[ _]", "", match[1].lower())
            view = view if view in by_view else f"side{view}"  # Argoverse's "Left view" is Side_Left
            if view not in by_view:
                raise row.error("question", f"names the {match[1]} view, for which `images` has no file.")
            shown.append(by_view[view])
        if len(shown) != question.count("<image>") or not shown:
            raise row.error(
                "question", f"has {question.count('<image>')} <image> marks, of which {len(shown)} name a view."
            )
        count = iter(range(len(shown)))
        asked = re.sub("<image>", lambda _: f"<view:{next(count)}>", question)
        options = None
        if category in _DISTANCES:
            truth, prompt = row.number("answer"), filled(templates["distance"], question=asked)
        else:
            options = row.texts("options")
            truth = _letter_or_word(row, options)
            prompt = filled(templates["choice"], question=asked, options=_with_letters(options))
        pictures = tuple(raw.picture(f"raw_images/{name}", name) for name in shown)
        yield Item(
            row.text("idx"), row.place, category, question, prompt, options, truth, pictures, shown[0],
            row.text("source"), row.plain(),
        )  # fmt: skip


def _letter_or_word(row: Row, options: tuple[str, ...]) -> str:
    """Ego3D-Bench's answer: a letter, or, of some questions, the words of an option ("no" of "B. no"), as the authors' logs show."""
    answer = row.text("answer").strip()
    words = [re.sub(r"^[A-Z][.):]\s*", "", option).strip().lower() for option in options]
    return answer if words.count(answer.lower()) == 1 else row.letter("answer", options)


def _with_letters(options: tuple[str, ...]) -> str:
    marked = all(option.startswith(f"{letter}.") for option, letter in zip(options, "ABCDEFGH", strict=False))
    return "\n".join(options) if marked else lettered(options)


def _of_tsv(row: Row, name: str, templates: Mapping[str, str], scene: str | None) -> Item:
    """A row with columns A, B, ...; an empty cell or "nan" is no option."""
    cells = [str(row.fields.get(letter) or "").strip() for letter in "ABCDE"]
    cells = ["" if cell.lower() == "nan" else cell for cell in cells]
    while cells and not cells[-1]:
        cells.pop()
    if not cells:
        raise row.error("A", "expected the text of an option, found none in A to E.")
    options = tuple(cells)
    if not str(row.fields.get("answer") or "").strip() or row.fields["answer"] == "nan":
        raise row.error("answer", "is empty: the answers of this file are hidden, it cannot be scored.")
    hint = str(row.fields.get("hint") or "").strip()
    hint = "" if hint in ("", "nan") else f"{hint} "
    question = row.text("question")
    listed = "\n".join(line for line in lettered(options).split("\n") if line[3:].strip())
    return Item(
        name,
        row.place,
        row.text("category"),
        question,
        filled(templates["choice"], question=question, options=listed, hint=hint),
        options,
        row.letter("answer", options),
        row.media("image"),
        scene,
        None,
        row.plain(),
    )
