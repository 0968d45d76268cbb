"""Against lmms-eval 0.7.3 itself: our prompts are its prompts, it reads our logs, and its harness runs our models.

python -m pip install -e ".[test,lmms_eval]"; without it everything here is skipped.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from pathlib import Path

import pytest
import raw_benchmarks
from PIL import Image

from data_pipelines.benchmarks import table
from experiments import benchmark_logs

pytest.importorskip("lmms_eval", reason='needs lmms-eval: python -m pip install -e ".[lmms_eval]"')

MODEL = Path(__file__).parents[1] / "goldens/qwen2_5_vl"
CHOICE = {"pre_prompt": "Note: You only need to respond with {} without providing any additional information.\n"}
# Benchmark -> (its file of functions, the function, the settings of its task that the prompt reads).
PROMPTS = {
    "vsibench": ("vsibench", "vsibench_doc_to_text", {}),
    "cvbench": ("cv_bench", "cv_bench_doc_to_text", CHOICE),
    "sparbench": ("sparbench", "sparbench_doc_to_text", {}),
    "blink": ("blink", "blink_doc_to_text", CHOICE),
    "mmsi": ("mmsi_bench", "msr_doc_to_text", {"post_prompt": "\nAnswer with the option's letter from the given choices directly. Enclose the option's letter within ``."}),
    "viewspatial": ("viewspatial", "viewspatial_doc_to_text", {}),
    "embspatial": ("embspatial", "embspatial_doc_to_text", {"pre_prompt": "Note: You only need to respond with A, B, C, D without providing any additional information.\n"}),
    "3dsrbench": ("3dsrbench", "doc_to_text", {}),
    "spatial457": ("spatial457", "spatial457_doc_to_text", {}),
}  # fmt: skip


def functions_of(folder):
    import lmms_eval

    path = Path(lmms_eval.__file__).parent / "tasks" / folder / "utils.py"
    spec = importlib.util.spec_from_file_location(f"tasks_{folder}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", PROMPTS)
def test_our_prompts_are_those_of_lmms_eval(name, tmp_path):
    folder, function, settings = PROMPTS[name]
    theirs = getattr(functions_of(folder), function)
    for item in table.read(name, raw_benchmarks.FOLDERS[name](tmp_path)).items:
        document = {key: None if key in "ABCD" and value == "" else value for key, value in item.row.items()}
        more = {"category": item.question_type} if name == "spatial457" else {}
        # Blanks at either end are taken off before a model reads a prompt.
        assert item.prompt.strip() == theirs(document, {**settings, **more}).strip()


def test_lmms_eval_reads_our_log_and_scores_it_as_we_do(tmp_path):
    from lmms_eval.models.simple.from_log import FromLog

    from spatialsv_jax.evaluation.benchmarks import scoring

    found = table.read("vsibench", raw_benchmarks.vsibench(tmp_path / "raw"))
    said = {item.id: "3 chairs" if item.options is None else "B" for item in found.items}
    lines = [
        {"id": item.id, "question_type": item.question_type, "prediction": said[item.id], "ground_truth": item.ground_truth,
         "options": item.options and list(item.options)}
        for item in found.items
    ]  # fmt: skip
    raw_benchmarks.lines(tmp_path / "predictions.jsonl", lines)
    benchmark_logs.write(tmp_path, "vsibench", "all", found.items, lines, "ours", "20261126_201500")
    log = FromLog(logs=str(tmp_path / "lmms_eval")).logs["vsibench"]["logs"]
    functions = functions_of("vsibench")
    results = [
        functions.vsibench_process_results(dict(item.row), [log[place][0]])["vsibench_overall"]
        for place, item in enumerate(found.items)
    ]
    own = scoring.score("vsibench", tmp_path / "predictions.jsonl", "lmms_eval_0_7_3")
    assert functions.vsibench_aggregate_overall(results) == pytest.approx(own["overall"], abs=1e-6)
    assert own["overall"] is not None


def test_the_entry_point_names_our_model():
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    from experiments import lmms_eval_entry

    text = (Path(__file__).parents[2] / "setup.py").read_text("utf-8")
    assert '"lmms_eval.models": ["spatialsv_jax = experiments.lmms_eval_entry:manifest"]' in text
    registry = ModelRegistryV2()
    registry.register_manifest(lmms_eval_entry.manifest())
    assert registry.get_model_class("spatialsv_jax").__name__ == "SpatialSV"


TASK = """
dataset_path: parquet
dataset_kwargs:
  data_files: {{test: {data}}}
task: invented_pictures
test_split: test
output_type: generate_until
doc_to_visual: !function functions.visual
doc_to_text: !function functions.text
doc_to_target: "answer"
generation_kwargs:
  max_new_tokens: 4
  until: ["@"]
process_results: !function functions.results
metric_list:
  - metric: said
    aggregation: !function functions.joined
    higher_is_better: true
"""
FUNCTIONS = """
import io
from PIL import Image
def visual(doc):
    return [Image.open(io.BytesIO(one["bytes"])) for one in doc["pictures"]]
def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
def results(doc, answers):
    return {"said": answers[0]}
def joined(found):
    return float(len(found))
"""


def test_its_harness_runs_our_models(tmp_path, monkeypatch):
    """Its evaluator reads a task, calls our model, and logs the answers that the model gives by itself."""
    import lmms_eval.models
    from lmms_eval import evaluator
    from lmms_eval.tasks import TaskManager

    import spatialsv_jax
    from experiments import lmms_eval_entry
    from spatialsv_jax.loaded_model import LoadedModel

    lmms_eval.models.MODEL_REGISTRY_V2.register_manifest(lmms_eval_entry.manifest(), overwrite=True)
    shown = [[raw_benchmarks.picture(3), raw_benchmarks.picture(9, (60, 50))], [raw_benchmarks.picture(200)]]
    questions = ["<image> Where is <image>?", "How far is it?"]
    rows = [
        {"question": question, "answer": "A", "pictures": pictures}
        for question, pictures in zip(questions, shown, strict=True)
    ]
    raw_benchmarks.parquet(tmp_path / "test.parquet", rows)
    (tmp_path / "task.yaml").write_text(TASK.format(data=tmp_path / "test.parquet"))
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    monkeypatch.setattr(sys, "argv", ["lmms_eval"])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    batches, inner = [], LoadedModel.answer_rows

    def answer_rows(self, rows, *more):
        self.processor.stop_ids, self.processor.decode = (-1,), lambda ids: " ".join(map(str, ids)) + "@rest"
        batches.append([question for _, asked in rows for question in asked])
        return inner(self, rows, *more)

    monkeypatch.setattr(LoadedModel, "answer_rows", answer_rows)
    found = evaluator.simple_evaluate(
        model="spatialsv_jax",
        model_args=f"pretrained={MODEL}",
        tasks=["invented_pictures"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        batch_size=2,
        log_samples=True,
    )
    assert batches == [["<view:0> Where is <view:1>?", "How far is it?"]]
    loaded = spatialsv_jax.load(MODEL)
    loaded.processor.stop_ids, loaded.processor.decode = (-1,), lambda ids: " ".join(map(str, ids))
    images = [[raw for raw in map(_array, one)] for one in shown]
    alone = [loaded.answer(one, [text], 4)[0] for one, text in zip(images, batches[0], strict=True)]
    samples = found["samples"]["invented_pictures"]
    assert [json.dumps(sample["filtered_resps"]) for sample in samples] == [json.dumps([text]) for text in alone]
    assert found["results"]["invented_pictures"]["said,none"] == 2


def _array(data):
    import numpy as np

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
