"""The benchmarks whose raw files can be read: reader, prompts and whose they are, longest answer."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from data_pipelines.benchmarks import choice_tables, cross_videos, mindcube, scan_questions, single_tables, vsibench
from data_pipelines.benchmarks.items import Item, RawError
from data_pipelines.benchmarks.raw_files import Raw

LMMS = "lmms-eval 0.7.3"
VIDEO_3D = "Video-3D-LLM's (zd11024/Video-3D-LLM 62d518f)"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """How a benchmark is asked.

    Attributes:
      read: (raw folder, part, templates) -> questions.
      templates: form of a question -> prompt.
      source: whose wording that is.
      max_new_tokens: longest answer.
      parts: of which one is asked, the default first.
    """

    read: Callable[[Raw, str, Mapping[str, str]], Iterator[Item]]
    templates: Mapping[str, str]
    source: str
    max_new_tokens: int
    parts: tuple[str, ...] = ("all",)


def _vsibench(part: str) -> Benchmark:
    read = lambda raw, _, templates: vsibench.read(raw, part, templates)
    return Benchmark(read, vsibench.TEMPLATES, f"thinking-in-space, as {LMMS} has it", 16)


BENCHMARKS: dict[str, Benchmark] = {
    "vsibench": _vsibench("full"),
    "vsibench_mc": _vsibench("choices"),
    "vsibench_debiased": _vsibench("debiased"),
    "mindcube": Benchmark(mindcube.read, mindcube.TEMPLATES, "ours, after the authors' structure", 512, ("tiny", "full")),
    "cvbench": Benchmark(single_tables.read_cvbench, single_tables.CVBENCH, LMMS, 64, ("all", "2D", "3D")),
    "sparbench": Benchmark(single_tables.read_sparbench, single_tables.SPARBENCH, LMMS, 100),
    "blink": Benchmark(single_tables.read_blink, single_tables.BLINK, LMMS, 64),
    "mmsi": Benchmark(single_tables.read_mmsi, single_tables.MMSI, LMMS, 64),
    "viewspatial": Benchmark(choice_tables.read_viewspatial, choice_tables.VIEWSPATIAL, f"the paper's, as {LMMS} has it", 64),
    "embspatial": Benchmark(single_tables.read_embspatial, single_tables.EMBSPATIAL, LMMS, 64),
    "spbench": Benchmark(vsibench.read_spbench, vsibench.SPBENCH_TEMPLATES, "ours, after VSI-Bench's", 64, ("all", "SI", "MV")),
    "3dsrbench": Benchmark(choice_tables.read_3dsrbench, choice_tables.THREED_SR, f"VLMEvalKit's, as {LMMS} has it", 64, ("circular", "flip")),
    "spatial457": Benchmark(single_tables.read_spatial457, single_tables.SPATIAL457, LMMS, 512),
    "ego3d": Benchmark(choice_tables.read_ego3d, choice_tables.EGO3D, "ours", 64),
    "topviewrs": Benchmark(choice_tables.read_topviewrs, choice_tables.TOPVIEWRS, "VLMEvalKit's for multiple choice", 64),
    "mmbench": Benchmark(choice_tables.read_mmbench, choice_tables.MMBENCH, LMMS, 64),
    "crossvideo_cvbench": Benchmark(cross_videos.read_crossvideo, cross_videos.CROSSVIDEO, "the authors' (Hokhim2/CVBench a70c231)", 16),
    "sqa3d": Benchmark(scan_questions.read_sqa3d, scan_questions.SQA3D, VIDEO_3D, 64, scan_questions.SQA3D_PARTS),
    "scanqa": Benchmark(scan_questions.read_scanqa, scan_questions.SCANQA, VIDEO_3D, 64, scan_questions.SCANQA_PARTS),
}  # fmt: skip


def benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
      RawError: there is none.
    """
    if name not in BENCHMARKS:
        raise RawError(f"There is no benchmark {name!r}. Known: {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]


@dataclasses.dataclass(frozen=True)
class Questions:
    """All questions of a benchmark and what they were made from.

    Attributes:
      items: the questions, in the order of the files.
      part: which part.
      templates: form -> prompt.
      prompt_source: whose wording.
      data: {"files": name -> SHA-256, "sha256"} of the tables.
    """

    items: tuple[Item, ...]
    part: str
    templates: Mapping[str, str]
    prompt_source: str
    data: Mapping

    @functools.cached_property
    def sha256(self) -> str:
        """Of all ids and prompts."""
        asked = [[item.id, item.prompt, [one.name for one in item.media]] for item in self.items]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def read(
    name: str, folder: str | Path, part: str | None = None, templates: Mapping[str, str] | None = None
) -> Questions:
    """Reads a benchmark's raw files.

    Args:
      name: of `BENCHMARKS`.
      folder: with the files as they were published.
      part: of `Benchmark.parts`, the first by default.
      templates: prompts in place of the benchmark's own, for some or all of its forms.

    Raises:
      RawError: an unknown name, part or form, a prompt without the question or its options, or a file, row or field that is wrong.
    """
    found = benchmark(name)
    part = found.parts[0] if part is None else part
    if part not in found.parts:
        raise RawError(f"{name} has no part {part!r}; it has {', '.join(found.parts)}.")
    if strange := sorted(set(templates or {}) - set(found.templates)):
        raise RawError(f"{name} has no prompts {', '.join(strange)}; it has {', '.join(found.templates)}.")
    for form, text in (templates or {}).items():
        needed = [field for field in ("{question}", "{options}", "{prompt}") if field in found.templates[form]]
        lacking = [field for field in needed if field not in text]
        if lacking:
            raise RawError(f"The prompt '{form}' lacks {' and '.join(lacking)}: all would be asked without it.")
    used = {**found.templates, **(templates or {})}
    raw = Raw(folder)
    items, places = [], {}
    for item in found.read(raw, part, used):
        if item.id in places:
            raise RawError(f"{item.place}: the id {item.id!r} stands at {places[item.id]} already.")
        places[item.id] = item.place
        items.append(item)
    if not items:
        raise RawError(f"{folder} has no questions of {name}, part {part}.")
    return Questions(tuple(items), part, used, found.source if not templates else "given with --prompts", raw.hashes())
