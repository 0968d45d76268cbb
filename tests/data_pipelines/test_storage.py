"""Records to bytes and back, and reading prepared data through tensorflow-datasets."""

import concurrent.futures
import dataclasses
import io
import pickle
import subprocess
import sys
import threading
import types

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data_pipelines.rooms
from data_pipelines import manifest
from data_pipelines.manifest import PrepareError, read_manifest
from data_pipelines.records import Question, Record
from data_pipelines.serialization import decode_record, encode_record
from data_pipelines.storage import open_split
from experiments.prepare import prepare_rooms

texts = st.text(st.characters(codec="utf-8"), max_size=12)
questions = st.builds(
    Question,
    id=texts, type=texts, group=st.sampled_from(["grounding", "spatial"]), form=st.just("word"), text=texts,
    answer=texts, options=st.lists(texts, max_size=3).map(tuple), views=st.lists(st.integers(0, 7), max_size=3).map(tuple),
)  # fmt: skip
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def same(first: Record, second: Record) -> None:
    for field in dataclasses.fields(Record):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), field.name
        else:
            assert a == b, field.name


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_record_bytes_round_trip_exactly(data):
    views = data.draw(st.integers(1, 5))

    def many(strategy):
        return tuple(data.draw(st.lists(strategy, min_size=views, max_size=views)))

    def numbers(*shape):
        return np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(shape)

    record = Record(
        id=data.draw(texts), dataset=data.draw(texts), scene=data.draw(texts), setting=data.draw(texts),
        view_ids=many(texts), images=many(st.binary(max_size=30)), depths=many(st.just(b"") | st.binary(max_size=30)),
        depth_unit_m=data.draw(st.sampled_from([0.0, 0.001, 0.00025, 0.1])), intrinsics=numbers(views, 3, 3),
        camera_to_world=numbers(views, 4, 4), pose_valid=np.array(many(st.booleans())),
        questions=tuple(data.draw(st.lists(questions, max_size=3))),
        metadata=data.draw(st.dictionaries(texts, plain, max_size=3)),
    )  # fmt: skip
    same(record, decode_record(encode_record(record)))


def png(rng, size, dtype=np.uint8):
    shape = (size, size, 3) if dtype == np.uint8 else (size, size)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)).save(buffer, "PNG")
    return buffer.getvalue()


def fake_record(config, split, index):
    """A stand-in for the room generator: a pure function of its arguments."""
    rng = np.random.default_rng([config.seed, index, len(split)])
    views = config.views
    record = Record(
        id=f"{split}-{index}", dataset="rooms", scene=f"room-{split}-{index}", setting="walk",
        view_ids=tuple(map(str, range(views))), images=tuple(png(rng, config.size) for _ in range(views)),
        depths=tuple(png(rng, config.size, np.uint16) for _ in range(views)), depth_unit_m=0.00025,
        intrinsics=np.tile(np.eye(3), (views, 1, 1)), camera_to_world=np.tile(np.eye(4), (views, 1, 1)),
        pose_valid=np.ones(views, bool),
        questions=(Question("0", "colour_at", "grounding", "word", "which colour ?", "red"),) * (index % 3),
    )  # fmt: skip
    return record, {"rejected_views": index % 2, "why": {"near": 1}}


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    generate = types.ModuleType("data_pipelines.rooms.generate")
    generate.make_record, generate.GENERATOR_VERSION = fake_record, "fake"
    monkeypatch.setitem(sys.modules, generate.__name__, generate)
    monkeypatch.setattr(data_pipelines.rooms, "generate", generate, raising=False)
    out = tmp_path / "rooms"
    prepare_rooms(out, scenes=40, views=2, size=16, validation=3, test=2, ood=0, workers=None, progress=False)
    return out


def test_records_come_back_in_order_from_several_shards(rooms):
    source = open_split(rooms, "train", verify=True)
    assert len(source) == 40 and len(read_manifest(rooms)["splits"]["train"]["shards"]) == 5
    assert source.ids == tuple(f"train-{index}" for index in range(40))
    config = types.SimpleNamespace(seed=0, views=2, size=16)
    for index in (39, 0, 17, np.int64(16)):
        same(source[index], fake_record(config, "train", int(index))[0])
    for index in (-1, 40):
        with pytest.raises(IndexError, match="of 40 in split 'train'"):
            source[index]
    assert source.rows[5] == {
        "id": "train-5", "scene": "room-train-5", "setting": "walk", "views": 2, "height": 16, "width": 16,
        "questions": 2,
    }  # fmt: skip


def test_opening_reads_no_record_and_threads_share_a_source(rooms, monkeypatch):
    original = tfds.builder_from_directory
    monkeypatch.setattr(tfds, "builder_from_directory", lambda path: pytest.fail("opened"))
    source = open_split(rooms, "train")
    assert len(source) == 40 and source.ids[3] == "train-3"
    calls = []
    monkeypatch.setattr(tfds, "builder_from_directory", lambda path: calls.append(path) or original(path))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda index: source[index % 40].id, range(400)))
    assert ids == [f"train-{index % 40}" for index in range(400)] and len(calls) == 1


def test_grain_reads_at_random_and_a_copy_opens_its_own_files(rooms):
    source = open_split(rooms, "train")
    assert source[0].id == "train-0"
    dataset = grain.MapDataset.source(source).shuffle(seed=1).map(lambda record: record.id)
    assert sorted(dataset[index] for index in range(40)) == sorted(source.ids)
    copy = pickle.loads(pickle.dumps(source))
    same(copy[7], source[7])
    assert repr(copy) == repr(source) and str(rooms) not in repr(source)


def test_tensorflow_datasets_alone_reads_the_folder(rooms):
    builder = tfds.builder_from_directory(rooms)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 40, "validation": 3, "test": 2,
    }  # fmt: skip
    example = builder.as_data_source("train")[4]
    expected = np.array(Image.open(io.BytesIO(open_split(rooms, "train")[4].images[1])))
    np.testing.assert_array_equal(example["images"][1], expected)
    assert example["intrinsics"].dtype == np.float64 and example["id"] == b"train-4"


def test_manifest_counts(rooms):
    manifest = read_manifest(rooms)
    train = manifest["splits"]["train"]
    assert train["question_types"] == {"grounding": {"colour_at": sum(index % 3 for index in range(40))}}
    assert train["counts"] == {"rejected_views": 20, "why/near": 40}
    assert train["buckets"] == [{"views": 2, "height": 16, "width": 16, "records": 40}]
    assert (train["scenes"], train["settings"]) == (40, {"walk": 40})
    assert manifest["arguments"]["views"] == 2 and manifest["generator"]["source"] == "rooms"
    assert "ood" not in manifest["splits"]


def test_a_flipped_bit_anywhere_in_a_shard_is_noticed_when_its_records_are_read(rooms):
    """Sizes are all that is compared at the start; the records' own checksums do the rest."""
    whole = open_split(rooms, "train")
    entry = whole.manifest["splits"]["train"]["shards"][1]
    first, path = whole.manifest["splits"]["train"]["shards"][0]["records"], rooms / entry["file"]
    data, records = path.read_bytes(), [whole[index] for index in range(first, first + entry["records"])]
    noticed = 0
    written = np.flatnonzero(np.frombuffer(data, np.uint8))  # between the blocks lies padding
    for place in np.random.default_rng(0).choice(written, 40):
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        damaged = open_split(rooms, "train")
        try:
            for index, record in enumerate(records):
                same(damaged[first + index], record)  # nothing else than what was written
        except PrepareError as error:
            assert entry["file"] in str(error) and "damaged" in str(error) and "Copy it again" in str(error)
            noticed += 1
    assert noticed > 30


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damaged_shards_are_named(rooms, damage):
    shard = read_manifest(rooms)["splits"]["train"]["shards"][1]["file"]
    path = rooms / shard
    source = open_split(rooms, "train")
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        middle = len(data) // 8
        path.write_bytes(data[:-5000] if damage == "truncated" else data[:middle] + b"??????" + data[middle + 6 :])
    with pytest.raises(PrepareError, match=f"{shard} .*{damage}"):
        open_split(rooms, "train", verify=True)
    if damage == "truncated":
        with pytest.raises(PrepareError, match="bytes instead of"):
            open_split(rooms, "train")
    open_split(rooms, "validation", verify=True)
    with pytest.raises(PrepareError, match=shard):
        for index in range(8, 16):
            source[index]
    assert source[0].id == "train-0" and source[39].id == "train-39"


def test_wrong_folders_and_splits_are_explained(rooms, tmp_path):
    with pytest.raises(PrepareError, match=r"no split 'ood', only \['test', 'train', 'validation'\]"):
        open_split(rooms, "ood")
    with pytest.raises(PrepareError, match="is not a folder"):
        open_split(tmp_path / "nowhere", "train")
    with pytest.raises(PrepareError, match="not a data set made by experiments.prepare"):
        open_split(tmp_path, "train")
    (rooms / "manifest.json").write_text('{"format')
    with pytest.raises(PrepareError, match="damaged"):
        open_split(rooms, "train")


def test_metadata_that_is_not_json_is_refused():
    record = fake_record(types.SimpleNamespace(seed=0, views=1, size=4), "train", 0)[0]
    with pytest.raises(ValueError, match="'train-0': metadata is not JSON"):
        encode_record(dataclasses.replace(record, metadata={"size": np.zeros(3)}))


def test_no_jax_and_no_tensorflow_in_a_worker():
    code = (
        "import sys, data_pipelines.storage, data_pipelines.shards, data_pipelines.builder, experiments.prepare;"
        "print([name for name in ('jax', 'flax', 'tensorflow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_two_threads_may_write_one_file_at_once(tmp_path, monkeypatch):
    together = threading.Barrier(2, timeout=20)
    monkeypatch.setattr(manifest.os, "fsync", lambda file: together.wait())
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(manifest.write_atomically, tmp_path / "a", b"x") for _ in range(2)]:
            done.result()
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"x"
