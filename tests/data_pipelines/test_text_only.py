"""Questions without pictures from the file to the batch."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from loader_fakes import PROCESSOR, RECORDS, Records, one_source, settings
from raw_layouts import LAYOUTS, made

from data_pipelines.buckets import Choice
from data_pipelines.evaluation_rows import evaluation_batches
from data_pipelines.loader import make_loader
from data_pipelines.manifest import PrepareError
from data_pipelines.records import Question, Record
from data_pipelines.serialization import decode_record, encode_record
from data_pipelines.sources import SOURCES
from data_pipelines.storage import open_split
from experiments import label
from experiments.evaluation_groups import fit_constant
from experiments.prepare import prepare
from spatialsv_jax import spec


def raw_folder(tmp_path, texts=20):
    """One question with a picture, `texts` without, one of a named scene, and one whose picture is forgotten."""
    turns = lambda text: [{"from": "human", "value": text}, {"from": "gpt", "value": "Red."}]
    rows = [{"image": "a.jpg", "conversations": turns("<image>\nWhat?")}]
    rows += [
        {"conversations": turns(f"What is {number}?"), "image": [] if number % 2 else None} for number in range(texts)
    ]
    rows += [{"conversations": turns("What?"), "scene_name": "attic"}, {"conversations": turns("<image>\nWhat?")}]
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(LAYOUTS / "conversations/images/a.jpg", raw / "a.jpg")
    (raw / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return raw


def test_rows_without_pictures_are_kept_together_or_dropped(tmp_path):
    raw = raw_folder(tmp_path)
    records, counts, reasons = made("llava", raw)
    assert [(len(r.images), len(r.questions), r.scene) for r in records] == [
        (1, 1, "."), (0, 16, "text-rows-2"), (0, 4, "text-rows-18"), (0, 1, "attic"),
    ]  # fmt: skip
    assert counts["rows_changed/text_only"] == 21 and counts["rows_used"] == 22
    assert list(reasons.values()) == ["'conversations': 1 tags of media for 0 pictures or videos"]
    records, counts, reasons = made("llava", raw, text_only="drop")
    assert len(records) == 1 and counts["rows_left_out/text_only"] == 21 == len(reasons) - 1
    with pytest.raises(PrepareError, match="--text_only must be keep or drop"):
        made("llava", raw, text_only="maybe")


def test_they_are_split_stored_and_read(tmp_path):
    plan = dict(raw=str(raw_folder(tmp_path, texts=200)), validation=0.4, seed=1)
    manifest = prepare("llava", SOURCES["llava"].settings(**plan), tmp_path / "out", workers=None, progress=False)
    rows = [row for split in manifest["splits"] for row in open_split(tmp_path / "out", split).rows]
    assert sum(row["questions"] for row in rows) == 202 and set(manifest["splits"]) == {"train", "validation"}
    text = [row for row in rows if row["setting"] == "text"]
    assert len(text) == 14 and all(row["views"] == row["height"] == row["width"] == 0 for row in text)
    source = open_split(tmp_path / "out", "train")
    first = next(source[place] for place in range(len(source)) if not source.rows[place]["views"])
    assert first.intrinsics.shape == (0, 3, 3) and first.camera_to_world.shape == (0, 4, 4) and not first.images
    assert encode_record(decode_record(encode_record(first))) == encode_record(first)
    with pytest.raises(ValueError, match="neither view nor question"):
        Record("r", "d", "s", "text", (), (), (), 0.0, np.zeros((0, 3, 3)), np.zeros((0, 4, 4)), np.zeros(0, bool))


def text_record(number):
    asked = (Question(f"t{number}", "colour_at", "spatial", "word", "what colour", "red"),)
    return Record(
        f"text{number}", "d", f"text{number}", "text", (), (), (), 0.0, np.zeros((0, 3, 3)), np.zeros((0, 4, 4)),
        np.zeros(0, bool), asked,
    )  # fmt: skip


class Sized(Records):
    @property
    def rows(self):
        size = lambda item: 16 * bool(item.images)
        return [
            {**row, "height": size(item), "width": size(item)} for row, item in zip(super().rows, self, strict=True)
        ]


MIXED = Sized([*RECORDS, *map(text_record, range(4))])


@pytest.mark.parametrize("buckets", [1, 2])
def test_batches_mix_rows_with_and_without_pictures(buckets, tmp_path):
    config = one_source(per_batch=5, buckets=buckets)
    loader = make_loader(config, PROCESSOR, records=[MIXED], lengths=tmp_path)
    seen = 0
    for step in range(6):
        batch = loader.batch(step)
        spec.check(batch, spec.BATCH, required=tuple(name for name in spec.BATCH if name not in spec.OPTIONAL))
        for row, index in enumerate(batch["record_index"]):
            shown = len(MIXED[index].images)
            assert batch["view_valid"][row].sum() == shown
            assert batch["prefix_mask"][row].sum() == len(PROCESSOR.encode_prefix(shown).tokens)
            assert batch["has_text"][row] and batch["question_valid"][row].any()
            seen += not shown
    assert seen >= 8 and isinstance(loader.choice, Choice) and all(bucket.views for bucket in loader.choice.buckets)
    assert loader.describe()["buckets"][0]["sampled"]["rows"]


def test_no_bucket_is_without_room_for_a_picture(tmp_path):
    long = Question("t", "colour_at", "spatial", "word", " ".join(["what colour is red"] * 3), "red")
    texts = [dataclasses.replace(text_record(number), questions=(long,)) for number in range(40)]
    loader = make_loader(one_source(buckets=2), PROCESSOR, records=[Sized([*RECORDS, *texts])], lengths=tmp_path)
    assert [bucket.views for bucket in loader.choice.buckets] == [1, 3] and max(loader.choice.shares) > 0.8


def test_sources_without_text_and_shuffled_ones_leave_them_alone():
    loader = make_loader(one_source(text=False, geometry=True), PROCESSOR, records=[MIXED])
    assert {int(index) for step in range(4) for index in loader.batch(step)["record_index"]} == set(range(len(RECORDS)))
    shuffled = make_loader(one_source(shuffle3d=True), PROCESSOR, records=[MIXED])
    for step in range(4):
        batch = shuffled.batch(step)
        for row in np.flatnonzero(batch["record_index"] >= len(RECORDS)):
            assert not batch["valid"][row].any() and not batch["depth_valid"][row].any()


def test_evaluation_asks_them():
    batches = list(evaluation_batches(settings(sources=()), PROCESSOR, MIXED, 4))
    rows = [row for _, rows in batches for row in rows if row is not None]
    assert sum(len(row.questions) for row in rows) == sum(len(record.questions) for record in MIXED)
    texts = Sized(map(text_record, range(3)))
    assert fit_constant(settings(sources=()), PROCESSOR, texts, 0) is None  # nothing to compare depth with
    assert fit_constant(settings(sources=()), PROCESSOR, MIXED, 0).records == len(MIXED)


def test_teachers_pass_over_them(tmp_path):
    raw = raw_folder(tmp_path, texts=3)
    prepare("llava", SOURCES["llava"].settings(raw=str(raw)), tmp_path / "data", workers=None, progress=False)
    assert label.write_pictures(tmp_path / "data", tmp_path / "pictures", ["train"]) == 1
    (tmp_path / "exports").mkdir()
    maker, total = label.Exports("da3", str(tmp_path / "exports"), "weights"), label.Written()
    for _, done in label.label_records(maker, tmp_path / "labels", 0.0, iter(open_split(tmp_path / "data", "train"))):
        total.add(done)
    assert total.counts["without_export"] == 1 and total.counts["without_pictures"] == 2
