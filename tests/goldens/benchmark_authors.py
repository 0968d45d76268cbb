"""What the authors' own functions say, for make_benchmarks.py."""

from __future__ import annotations

from pathlib import Path

from harness_stubs import file_module


def numbers(scores, **more) -> dict:
    """An entry of "expected"; numbers as plain floats."""
    plain = lambda value: {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else float(value)
    short = lambda value: int(value) if value in (0, 1) else float(value)
    return {"scores": [short(value) for value in scores], **{name: plain(value) for name, value in more.items()}}


def of_authors(root: Path, rows: dict) -> dict:
    """What the authors' own functions say, question by question."""
    choice = lambda row: row["options"] is not None
    u = file_module(root / "vision-x-nyu/thinking-in-space/utils.py")

    def vsi(row):
        if choice(row):
            return u.exact_match(u.fuzzy_matching(row["prediction"]), row["ground_truth"])
        try:
            said, true = u.to_float(u.fuzzy_matching(row["prediction"])), u.to_float(row["ground_truth"])
            return u.mean_relative_accuracy(said, true, start=0.5, end=0.95, interval=0.05)
        except TypeError:
            return 0.0

    s = file_module(root / "ZJU-REAL/SpatialLadder/vsi_utils.py")

    def spb(row):
        text = row["prediction"]
        if "<answer>" in text and "</answer>" in text:  # its prompt with thinking takes them off first
            text = text.split("<answer>")[1].split("</answer>")[0]
        if choice(row):
            return s.exact_match(s.fuzzy_matching(text.replace("Answer:", "")), row["ground_truth"])
        return s.mean_relative_accuracy(
            s.to_float(s.fuzzy_matching_num(text)), s.to_float(row["ground_truth"]), 0.5, 0.95, 0.05
        )

    clean = file_module(root / "zd11024/Video-3D-LLM/eval_sqa3d.py").clean_answer
    cross = file_module(root / "Hokhim2/CVBench/utils.py").extract_characters_regex
    option = file_module(root / "ZJU-REAL/ViewSpatial-Bench/evaluate.py").extract_option
    scorers = {
        "vsibench": vsi,
        "spbench": spb,
        "sqa3d": lambda row: clean(row["prediction"]) == clean(row["ground_truth"]),
        "crossvideo_cvbench": lambda row: cross(row["prediction"]) == row["ground_truth"],
        "viewspatial": lambda row: option(row["prediction"].split("\n")[-1]) == option(row["ground_truth"]),
    }
    return {name: {"original": numbers([score(row) for row in rows[name]])} for name, score in scorers.items()}
