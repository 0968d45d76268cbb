"""Label files are kept only where they would be made the same; all are checked, also those that are there; exports belong to pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import loader_fakes as fakes
import numpy as np
import pytest
from loader_fakes import one_source, processor
from PIL import Image

from data_pipelines.labels.files import LabelError, LabelFile, images_hash, label_path, read_labels, write_labels
from data_pipelines.loader import make_loader
from experiments import label, label_pictures, label_records

EXPORT = dict(np.load(Path(__file__).parents[1] / "layouts/teachers/da3_results.npz"))
SIZE = (56, 70)
BAD = EXPORT["extrinsics"].copy()  # views that deny each other
BAD[1:, :, 3] += [0.9, -0.7, 0.8]


def write_export(folder: Path, record, saved=np.savez, **changes) -> Path:
    place = folder / record.id / "results.npz"
    place.parent.mkdir(parents=True, exist_ok=True)
    saved(place, **{**EXPORT, **changes})
    return place


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """Four records, the last of views that disagree, their exports, and how to label them."""
    records = fakes.Records(fakes.record(index, views=4, size=SIZE, scene=f"s{index}") for index in range(4))
    for record in records:
        write_export(tmp_path / "exports", record, **({"extrinsics": BAD} if record.id == "r3" else {}))
    for module in (label, label_pictures):
        monkeypatch.setattr(module, "open_split", lambda data, split: records)
    make = lambda **changes: label.label_exports("da3", tmp_path / "exports", "d", tmp_path / "out", ["train"], **{"checkpoint": "w", **changes})  # fmt: skip
    return SimpleNamespace(records=records, exports=tmp_path / "exports", out=tmp_path / "out", label=make)


def agreements(out: Path) -> dict:
    lines = [json.loads(line) for line in (out / "agreement.jsonl").read_text().splitlines()]
    assert not list(out.glob("agreement-*")) and len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: (line["agreement"], line["masked"]) for line in lines}


def test_a_threshold_reaches_files_that_are_there_and_is_taken_back(rooms):
    rooms.label()
    whole = read_labels(rooms.out, "r3")
    assert whole.agreement < 0.7 and whole.masked_depth is None
    made = rooms.label(least=0.7)
    assert (made["written"], made["kept"], made["masked_for_disagreement"]) == (0, 4, 1)
    found = read_labels(rooms.out, "r3")
    assert not found.valid.any() and found.min_agreement == 0.7 and found.agreement == whole.agreement
    assert read_labels(rooms.out, "r0").valid.any()
    assert {name for name, (_, masked) in agreements(rooms.out).items() if masked} == {"r3"}
    assert json.loads((rooms.out / "labels.json").read_text())["min_agreement"] == 0.7
    rooms.label()
    np.testing.assert_array_equal(read_labels(rooms.out, "r3").depth, whole.depth)
    np.testing.assert_array_equal(read_labels(rooms.out, "r3").valid, whole.valid)


def test_files_of_other_programs_are_checked_and_masked(rooms):
    rooms.label()
    for record in rooms.records:  # as the stand-alone tool writes them: unchecked
        path = label_path(rooms.out, record.id)
        values = dict(np.load(path))
        values.pop("agreement")
        np.savez(path, **values)
    shutil.rmtree(rooms.exports)
    made = label.check_labels("d", rooms.out, ["train"], 0.7)
    assert (made["kept"], made["without_labels"], made["masked_for_disagreement"]) == (4, 0, 1)
    assert (made["teacher"], made["checkpoint"], made["licence"]) == ("da3", "w", "")
    assert len(made["agreement_5_50_95_percent"]) == 3 and len(agreements(rooms.out)) == 4
    assert not read_labels(rooms.out, "r3").valid.any()
    label_path(rooms.out, "r0").write_bytes(b"PK")
    with pytest.raises(LabelError, match="r0.npz: .* cannot be read"):
        label.check_labels("d", rooms.out, ["train"])
    with pytest.raises(ValueError, match="has no label file of any record"):
        label.check_labels("d", rooms.out / "none", ["train"])


@pytest.mark.parametrize("change", [
    {"resize": "upper_bound_resize"}, {"metric": True}, {"licence": "X"}, {"process_res": 70}, {"checkpoint": "w2"},
])  # fmt: skip
def test_labels_that_would_be_made_otherwise_are_made_again(rooms, change):
    rooms.label()
    before = read_labels(rooms.out, "r0")
    made = rooms.label(**change)
    assert (made["written"], made["kept"]) == (4, 0)
    found = read_labels(rooms.out, "r0")
    assert found.key != before.key and (found.metric, found.licence) == (made["metric"], made["licence"])
    assert rooms.label(**change)["kept"] == 4


def test_a_corrected_export_is_taken_in(rooms):
    rooms.label()
    features = np.random.default_rng(0).standard_normal((4, 4, 5, 6)).astype(np.float32)
    write_export(rooms.exports, rooms.records[3], features=features)
    made = rooms.label()
    assert (made["written"], made["kept"]) == (1, 3)
    found = read_labels(rooms.out, "r3")
    assert found.agreement > 0.9 and found.features is not None
    assert agreements(rooms.out)["r3"] == (round(found.agreement, 4), False)


def test_a_killed_run_goes_on_with_all_agreements(rooms, monkeypatch):
    write, calls = label_records.write_labels, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(label_records, "write_labels", killed)
    with pytest.raises(KeyboardInterrupt):
        rooms.label(least=0.7)
    monkeypatch.setattr(label_records, "write_labels", write)
    first = rooms.label(least=0.7)
    assert (first["written"], first["kept"], first["masked_for_disagreement"]) == (2, 2, 1)
    assert len(agreements(rooms.out)) == 4
    again = rooms.label(least=0.7)
    assert (again["kept"], again["masked_for_disagreement"]) == (4, 1)
    assert again["agreement_5_50_95_percent"] == first["agreement_5_50_95_percent"] != []
    assert len(agreements(rooms.out)) == 4
    rooms.label(checkpoint="w2")
    label_path(rooms.out, "r1").unlink()
    shutil.rmtree(rooms.exports / "r1")
    rooms.label(checkpoint="w2")
    assert set(agreements(rooms.out)) == {"r0", "r2", "r3"}


def old_file(path: Path, labels: LabelFile) -> None:
    """Rewrites a file as version 3 had it."""
    values = dict(np.load(path))
    for name in ("settings", "pose_valid", "agreement", "min_agreement", "masked_depth"):
        values.pop(name, None)
    np.savez(path, **{**values, "version": np.array(3), "key": np.array(labels.key_of(3))})


def test_files_of_the_format_before_are_read(rooms):
    rooms.label()
    found = read_labels(rooms.out, "r0")
    old_file(label_path(rooms.out, "r0"), found)
    old = read_labels(rooms.out, "r0", images=rooms.records[0].images)
    assert old.pose_valid.all() and old.agreement is None and old.settings == ""
    np.testing.assert_array_equal(old.depth, found.depth)
    assert label.check_labels("d", rooms.out, ["train"])["kept"] == 4  # and checked
    assert read_labels(rooms.out, "r0").agreement == found.agreement


@pytest.mark.parametrize("old", [False, True])
def test_a_view_without_a_camera_has_no_rays(tmp_path, old):
    record = fakes.record(5, views=3, size=(16, 16))
    ok = np.array([True, True, False])
    poses, cameras = np.where(ok[:, None, None], record.camera_to_world, np.eye(4)), record.intrinsics.copy()
    cameras[2] = np.eye(3)
    valid = np.broadcast_to(ok[:, None, None], (3, 16, 16))
    labels = LabelFile(
        depth=np.where(valid, 2.0, 0), confidence=np.ones(valid.shape), intrinsics=cameras, camera_to_world=poses, valid=valid,
        label_affine=np.tile(np.eye(3)[:2], (3, 1, 1)), view_ids=record.view_ids, teacher="rooms", checkpoint="c",
        images_hash=images_hash(record.images), pose_valid=ok,
    )  # fmt: skip
    path = write_labels(tmp_path, record.id, labels)
    if old:
        old_file(path, labels)
    config = one_source(labels=str(tmp_path), features="none", per_batch=1, label_size=(16, 16))
    batch = make_loader(config, processor(), records=[fakes.Records([record])]).batch(0)
    assert batch["pose_valid"][0].tolist() == batch["depth_valid"][0].tolist() == [True, True, False]


def smooth(seed: int) -> np.ndarray:
    """uint8[56,70,3] of a few colours: what a picture keeps through resizing."""
    cells = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), np.uint8)
    return cells.repeat(14, 0).repeat(14, 1)


@pytest.mark.parametrize("teacher", ["da3", "vggt"])
def test_pictures_that_an_export_carries_are_compared(tmp_path, monkeypatch, teacher):
    pictures = [smooth(view) for view in range(4)]
    large = [np.asarray(Image.fromarray(one).resize((140, 112), Image.Resampling.BICUBIC)) for one in pictures]
    record = fakes.record(0, views=4, size=(112, 140), images=tuple(map(fakes.png, large)))
    for module in (label, label_pictures):
        monkeypatch.setattr(module, "open_split", lambda data, split: fakes.Records([record]))

    def stored(order):
        shown = np.stack([pictures[view] for view in order])
        if teacher == "da3":
            return write_export(tmp_path / "exports", record, image=shown)
        values = dict(np.load(Path(__file__).parents[1] / "layouts/teachers/vggt_predictions.npz"))
        place = tmp_path / "exports" / record.id / "predictions.npz"
        place.parent.mkdir(parents=True, exist_ok=True)
        np.savez(place, **values, images=shown.transpose(0, 3, 1, 2).astype(np.float32) / 255)
        return place

    make = lambda: label.label_exports(teacher, tmp_path / "exports", "d", tmp_path / "out", ["train"], "w")
    stored(range(4))
    assert make()["pictures_unverified"] == 0
    for order in ([0, 2, 1, 3], [0, 1, 2, 2]):
        stored(order)
        with pytest.raises(LabelError, match="picture .* differs from the record's"):
            make()


def test_exports_of_pictures_that_were_replaced_since_are_refused(rooms, tmp_path):
    assert rooms.label()["pictures_unverified"] == 4  # nothing says of which pictures they are
    label.write_pictures("d", rooms.exports, ["train"])
    shutil.rmtree(rooms.out)
    assert rooms.label()["pictures_unverified"] == 0
    rooms.records[1] = fakes.record(100, views=4, size=SIZE, id="r1")
    with pytest.raises(LabelError, match="views.json: images_hash differ from those of record 'r1'"):
        rooms.label()
    with pytest.raises(ValueError, match="r1 holds pictures of before"):
        label.write_pictures("d", rooms.exports, ["train"])
    label.write_pictures("d", tmp_path / "new", ["train"])
    (rooms.exports / "r1/views.json").unlink()
    assert rooms.label(made_of=str(tmp_path / "new"))["written"] == 1


def test_names_of_many_pictures_sort_in_their_order(tmp_path, monkeypatch):
    record = fakes.record(1, views=102, size=(8, 8))
    for module in (label, label_pictures):
        monkeypatch.setattr(module, "open_split", lambda data, split: fakes.Records([record]))
    label.write_pictures("d", tmp_path, ["train"])
    names = json.loads(next(tmp_path.glob("*/views.json")).read_text())["files"]
    assert sorted(names) == names and len(names) == 102
    assert (tmp_path / record.id / names[101]).read_bytes() == record.images[101]


def test_damaged_compressed_exports_are_named(rooms):
    place = write_export(rooms.exports, rooms.records[2], np.savez_compressed)
    data = bytearray(place.read_bytes())
    for start in range(2000, len(data) - 2000, 400):
        data[start : start + 8] = bytes(8)
    place.write_bytes(bytes(data))
    with pytest.raises(LabelError, match="results.npz cannot be read"):
        rooms.label()


def test_a_host_without_exports_ends_as_the_others_do(rooms, monkeypatch):
    for name in ("r1", "r3"):
        shutil.rmtree(rooms.exports / name)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(label.hosts, "wait", lambda: None)
    other = {"written": 2, "failed": 0}

    def gather(value):
        if isinstance(value, dict):
            return {name: np.array([number, other.get(name, 0)]) for name, number in value.items()}
        return np.array([value, other["failed"]])

    monkeypatch.setattr(label.multihost_utils, "process_allgather", gather)
    made = rooms.label()
    assert (made["written"], made["without_export"]) == (2, 2)
    other["failed"] = 1
    with pytest.raises(ValueError, match="Another host failed"):
        rooms.label()
    other.update(failed=0, written=0)
    with pytest.raises(ValueError, match="has no export of any record"):
        rooms.label()
