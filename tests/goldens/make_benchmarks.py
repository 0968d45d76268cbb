"""Makes tests/goldens/benchmarks.json: answers, and the scores that the published scorers give them.

    python -m pip download --no-deps lmms-eval==0.7.3 ms-vlmeval==0.0.20 && unzip each into LMMS and KIT
    python -m pip install numpy pandas pyyaml loguru num2words pillow requests tqdm
    python tests/goldens/make_benchmarks.py --lmms LMMS --kit KIT --authors AUTHORS

AUTHORS holds the authors' files under owner/repository (at the commits that `table.BENCHMARKS` names): utils.py of
vision-x-nyu/thinking-in-space (lmms_eval/tasks/vsibench) and Hokhim2/CVBench (lmms_eval/tasks/mvr), eval_sqa3d.py of
zd11024/Video-3D-LLM, vsi_utils.py of ZJU-REAL/SpatialLadder, evaluate.py of ZJU-REAL/ViewSpatial-Bench; of these only
the functions that read and compare answers are used, so files with them alone will do. Packages that the harnesses
import for other purposes (models, pictures, downloads) are replaced by empty ones. The scorers' code runs unchanged.

The file: {"versions", "fields", "values", "rows": {benchmark: [[place in values of each field]]}, "expected": {benchmark:
{dialect: {"scores", ...numbers}}}}.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from benchmark_authors import numbers, of_authors
from benchmark_rows import rows as make_rows
from harness_stubs import STORE, Finder, keep, kept, run_all

HERE = Path(__file__).parent


def of_lmms(root: Path, rows: dict) -> dict:
    """What lmms-eval says."""
    names = [
        "vsibench",
        "sparbench",
        "mindcube",
        "cv_bench",
        "blink",
        "mmsi_bench",
        "viewspatial",
        "embspatial",
        "3dsrbench",
        "spatial457",
    ]
    real = {f"lmms_eval.tasks.{name}.utils" for name in names} | {
        "lmms_eval.tasks.mmbench.mmbench_evals",
        "lmms_eval.tasks._task_utils.mcq_extract",
    }
    sys.meta_path.insert(0, Finder({"lmms_eval": root, "datasets": None}, real))
    task = {name: importlib.import_module(f"lmms_eval.tasks.{name}.utils") for name in names}
    result = {}

    u = task["vsibench"]
    docs = [{**row} for row in rows["vsibench"]]
    for doc in docs:
        u.vsibench_process_results(doc, [doc["prediction"]])
    scores = [doc["accuracy"] if "accuracy" in doc else doc["MRA:.5:.95:.05"] for doc in docs]
    found = {
        name.rsplit("_", 1)[0]: value for name, value in u._compute_all_subscores(docs).items() if name != "overall"
    }
    result["vsibench"] = numbers(scores, overall=u._compute_all_subscores(docs)["overall"], per_type=found)

    u = task["sparbench"]

    def spar() -> dict:
        docs = [{**row, "task": row["question_type"], "answer": row["ground_truth"]} for row in rows["sparbench"]]
        for doc in docs:
            u.sparbench_process_results(doc, [doc["prediction"]])
        keys = ("accuracy", "MRA:.5:.95:.05", "vci_metric")
        scores = [next(doc[key] for key in keys if key in doc) for doc in docs]
        found = u._compute_all_subscores(docs)
        return numbers(scores, overall=found["overall"], groups={k: found[k] for k in ("low", "middle", "high")})

    result["sparbench"] = spar()
    u.partial = functools.partial  # the import that its file lacks, without which every number scores 0
    mended = spar()

    u = task["mindcube"]
    out = [
        u.mindcube_process_results({"gt_answer": r["ground_truth"], "id": r["id"]}, [r["prediction"]])
        for r in rows["mindcube"]
    ]
    by = {
        k: getattr(u, f"mindcube_aggregate_{k}_results")([x[f"{k}_accuracy"] for x in out])
        for k in ("among", "around", "rotation")
    }
    overall = [x["overall_accuracy"] for x in out]
    result["mindcube"] = numbers(
        [x["score"] for x in overall], overall=u.mindcube_aggregate_results(overall), per_type=by
    )

    u = task["cv_bench"]
    out = [
        u.cv_bench_process_results(
            {"answer": f"({r['ground_truth']})", "idx": 0, "type": "", "task": "", "source": r["dataset"]},
            [r["prediction"]],
        )["cv_bench_acc"]
        for r in rows["cvbench"]
    ]
    official = u.cv_bench_default_aggregate_results(out)
    result["cvbench"] = numbers(
        [x["is_correct"] for x in out], overall=u.cv_bench_aggregate_results(out), groups={"official": official}
    )

    u = task["blink"]
    out = [
        u.blink_process_results(
            {"answer": f"({r['ground_truth']})", "choices": r["options"], "idx": 0, "sub_task": ""}, [r["prediction"]]
        )["blink_acc"]
        for r in rows["blink"]
    ]
    result["blink"] = numbers([x["is_correct"] for x in out], overall=u.blink_aggregate_results(out))

    u = task["mmsi_bench"]
    out = [
        u.msr_process_results({"answer": r["ground_truth"], "question_type": "t", "id": 0}, [r["prediction"]])[
            "average"
        ]
        for r in rows["mmsi"]
    ]
    result["mmsi"] = numbers([x["score"] for x in out], overall=u.msr_aggregate_results(out))

    u = task["viewspatial"]
    out = [
        u.viewspatial_process_results({"answer": r["ground_truth"], "question_type": "t"}, [r["prediction"]])[
            "overall_accuracy"
        ]
        for r in rows["viewspatial"]
    ]
    result["viewspatial"] = numbers([x["score"] for x in out], overall=u.viewspatial_aggregate_results(out))

    u = task["embspatial"]
    out = [
        u.embspatial_process_results(
            {"answer": "ABCD".index(r["ground_truth"]), "question_id": 0, "relation": "", "data_source": r["dataset"]},
            [r["prediction"]],
        )["embspatial_acc"]
        for r in rows["embspatial"]
    ]
    sources = {name: u._aggregate_by_source(out, name) for name in u.DATA_SOURCES}
    result["embspatial"] = numbers(
        [x["is_correct"] for x in out], overall=u.embspatial_aggregate_results(out), groups=sources
    )

    u = task["3dsrbench"]
    out = [
        u.process_results(
            {"answer": r["ground_truth"], "category": r["question_type"], "index": 0, "qid": r["id"]}, [r["prediction"]]
        )
        for r in rows["3dsrbench"]
    ]
    out = [x["vanilla_accuracy"] for x in out]
    kinds = ("vanilla", "flip", "circular", "flip_circular", "height", "location", "multi_object")
    found = {kind: getattr(u, f"aggregate_{kind}_accuracy")(out) for kind in kinds}
    result["3dsrbench"] = numbers([x["score"] for x in out], overall=found["vanilla"], groups=found)

    u = task["spatial457"]
    out = [
        u.spatial457_process_results({"answer": r["ground_truth"], "category": r["question_type"]}, [r["prediction"]])[
            "spatial457_accuracy"
        ]
        for r in rows["spatial457"]
    ]
    result["spatial457"] = numbers([x["is_correct"] for x in out], overall=u.spatial457_aggregate_results(out))

    u = importlib.import_module("lmms_eval.tasks.mmbench.mmbench_evals").MMBench_Evaluator()
    docs = []
    for row in rows["mmbench"]:
        texts = dict(zip("ABCDE", row["options"], strict=False))
        docs.append(
            {
                "index": int(row["id"]), "question": "", "answer": row["ground_truth"], "prediction": row["prediction"].strip(),
                "category": row["question_type"], **{name: texts.get(name, "nan") for name in "ABCDE"},
            }
        )  # fmt: skip
    overall, by, _ = u.eval_result(docs, "static")
    alone = [u.eval_sub_data(pd.DataFrame([doc]), {doc["index"]: doc["answer"]}, static_only=True) for doc in docs]
    result["mmbench"] = numbers(alone, overall=overall, per_type=by)
    found = {name: {"lmms_eval_0_7_3": entry} for name, entry in result.items()}
    found["sparbench"]["original"] = mended
    return found


def frame(rows: list[dict]) -> pd.DataFrame:
    """Rows as a table of the kit: options in columns A, B, ..."""
    table = []
    for number, row in enumerate(rows):
        options = dict(zip("ABCD", row["options"] or (), strict=False))
        table.append(
            {
                "index": number, "qid": row["id"], "question": "q", **{name: options.get(name, math.nan) for name in "ABCD"},
                "answer": row["ground_truth"], "prediction": row["prediction"], "category": row["question_type"],
                "question_type": row["question_type"], "task": row["question_type"],
            }
        )  # fmt: skip
    return pd.DataFrame(table)


def of_kit(root: Path, rows: dict) -> dict:
    """What VLMEvalKit says, by rule."""
    d = "vlmeval.dataset"
    spatial = f"{d}.utils.spatial_bench"
    real = {
        f"{spatial}.matching_func", f"{spatial}.cal_scores", f"{d}.utils.multiple_choice", f"{d}.utils.spatial457", f"{d}.sparbench",
        f"{d}.vsibench", f"{d}.image_mcq", f"{d}.spatial457", "vlmeval.utils.matching_util",
    }  # fmt: skip
    others = ("decord", "huggingface_hub", "tabulate", "portalocker")
    sys.meta_path.insert(0, Finder({"vlmeval": root, **dict.fromkeys(others)}, real))
    smp, utils = importlib.import_module("vlmeval.smp"), importlib.import_module("vlmeval.utils")
    smp.load, smp.dump = kept, keep
    smp.istype = lambda value, kind: isinstance(value, (int, np.integer))
    smp.get_pred_file_format, smp.get_intermediate_file_path = (
        (lambda: "x"),
        (lambda path, suffix, kind="": f"{path}{suffix}"),
    )
    smp.cn_string, smp.timestr = (lambda text: False), (lambda: "now")
    smp.listinstr = lambda words, text: any(word in text for word in words)
    importlib.import_module("vlmeval.smp.vlm").build_option_str = str
    utils.track_progress_rich = run_all
    matching = importlib.import_module("vlmeval.utils.matching_util")
    utils.can_infer, utils.can_infer_lego = matching.can_infer, matching.can_infer_lego
    cal = importlib.import_module(f"{spatial}.cal_scores")
    multiple = importlib.import_module(f"{d}.utils.multiple_choice")
    result = {}

    def table_of(name, numeric):
        table = frame(rows[name])
        mask = table["question_type"].isin(numeric)
        first, second = cal.compute_mcq_score(table[~mask]), cal.compute_na_score(table[mask])
        scores = (
            pd.concat([first["hit"], second["MRA:.5:.95:.05"]]).sort_index().tolist()
            if numeric
            else first["hit"].tolist()
        )
        return first, second, scores

    vsi_numbers = ["object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation"]
    vsi = importlib.import_module(f"{d}.vsibench").VsiBench
    for name in ("vsibench", "spbench"):
        first, second, scores = table_of(name, vsi_numbers)
        result[name] = numbers(scores, overall=vsi._aggregate(object.__new__(vsi), first, second)["overall"] / 100)

    spar = object.__new__(importlib.import_module(f"{d}.sparbench").SparBench)
    table = frame(rows["sparbench"])
    kind = table["task"].apply(spar.get_task_type)
    parts = [
        cal.compute_mcq_score(table[kind == "MCQ"]),
        cal.compute_na_score(table[kind == "NA"]),
        spar.compute_special_score(table[kind == "SPECIAL"]),
    ]
    scores = pd.concat([parts[0]["hit"], parts[1]["MRA:.5:.95:.05"], parts[2]["vci_metric"]]).sort_index()
    found = spar._aggregate(*parts)
    result["sparbench"] = numbers(
        scores, overall=found["overall"], groups={k.lower(): found[k] for k in ("Low", "Middle", "High")}
    )

    for name in ("mindcube", "mmsi", "viewspatial", "embspatial"):
        _, _, scores = table_of(name, [])
        result[name] = numbers(scores, overall=np.mean(scores))

    def hits(table):
        table = table.copy()
        table["GT"] = table["answer"]
        return [multiple.eval_vanilla(None, item)["hit"] for _, item in table.iterrows()]

    scores = hits(frame(rows["blink"]))
    result["blink"] = numbers(scores, overall=np.mean(scores))
    table = frame(rows["cvbench"])
    scores = table["hit"] = hits(table)
    table["source"] = [row["dataset"] for row in rows["cvbench"]]
    table["split"] = ["3D" if row["dataset"] == "Omni3D" else "2D" for row in rows["cvbench"]]
    mcq = importlib.import_module(f"{d}.image_mcq")
    flat = mcq.CVBench.report_accuracy(None, table[table["split"] == "2D"])["Overall"][0]
    deep = multiple.report_acc(table[table["split"] == "3D"])["Overall"][0]
    result["cvbench"] = numbers(scores, groups={"2D": flat, "3D": deep})

    def evaluated(kit_class, name):
        STORE.clear()
        table = frame(rows[name])
        STORE["in.x"] = table
        dataset = object.__new__(kit_class)
        dataset.__dict__.update(data=table, dataset_name=name)
        return kit_class.evaluate(dataset, "in.x", model="exact_matching"), hits(table)

    found, scores = evaluated(mcq._3DSRBench, "3dsrbench")
    found = found.set_index("setting")["Overall"]
    pairs = {"vanilla": "vanilla", "flip": "flip_eval", "circular": "circ_eval", "flip_circular": "flip_circ_eval"}
    result["3dsrbench"] = numbers(scores, overall=found["vanilla"], groups={k: found[v] for k, v in pairs.items()})

    found, scores = evaluated(mcq.TopViewRS, "topviewrs")
    result["topviewrs"] = numbers(scores, overall=found["Overall"][0], groups={"partial_match": found["Overall_PM"][0]})

    table = frame(rows["mmbench"])
    table["index"] = [int(row["id"]) for row in rows["mmbench"]]
    STORE.clear()
    done = multiple.mcq_circular_eval(None, table, table, 1, "result")
    result["mmbench"] = numbers(
        hits(table), overall=done["hit"].mean(), per_type=done.groupby("category")["hit"].mean().to_dict()
    )

    STORE.clear()
    STORE["in.x"] = frame(rows["spatial457"])
    module = importlib.import_module(f"{d}.spatial457")
    module.tqdm = list  # it calls the module of that name, which stops it
    dataset = object.__new__(module.Spatial457)
    dataset.__dict__["dataset_utils"] = importlib.import_module(f"{d}.utils.spatial457").Spatial457_utils()
    found = dataset.evaluate("in.x")
    result["spatial457"] = numbers([answer["correct"] for answer in found["answers"]], overall=found["score"])
    return {name: {"vlmevalkit": entry} for name, entry in result.items()}


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser()
    for name in ("lmms", "kit", "authors"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    flags = parser.parse_args()
    rows = make_rows()
    expected: dict[str, dict] = {name: {} for name in rows}
    for found in (of_authors(flags.authors, rows), of_lmms(flags.lmms, rows), of_kit(flags.kit, rows)):
        for name, entry in found.items():
            expected[name] |= entry
    versions = {"lmms-eval": "0.7.3", "ms-vlmeval": "0.0.20"}
    fields = list(rows["vsibench"][0])
    values: dict[str, int] = {}  # as JSON -> place
    places = {
        name: [[values.setdefault(json.dumps(row[field]), len(values)) for field in fields] for row in found]
        for name, found in rows.items()
    }
    content = {
        "versions": versions,
        "fields": fields,
        "values": [json.loads(value) for value in values],
        "rows": places,
    }
    content["expected"] = expected
    (HERE / "benchmarks.json").write_text(
        json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n", "utf-8"
    )


if __name__ == "__main__":
    main()
