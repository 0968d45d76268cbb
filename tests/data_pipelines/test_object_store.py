"""Data sets and labels in an object store, and what must not lie in one."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import fsspec
import pytest
from etils import epath
from scale_data import ROOMS, exported_scene, files_of, local_rooms

from data_pipelines import paths, raw_copies, shards
from data_pipelines.builder import SpatialRecords
from data_pipelines.labels.files import LabelError, missing_labels, read_labels
from data_pipelines.manifest import PrepareError
from data_pipelines.paths import as_path
from data_pipelines.shards import write_shard
from data_pipelines.sources import SOURCES
from data_pipelines.storage import open_split
from experiments import label, train
from experiments.configs import common
from experiments.prepare import look, planned, prepare, prepare_rooms
from spatialsv_jax import loading

STORE = Path(__file__).parent / "store"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return local_rooms(tmp_path_factory.mktemp("local") / "rooms")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return exported_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder behind gs://, in this process and those it starts, and a folder for copies on this machine."""
    monkeypatch.setenv("STORE", str(tmp_path / "bucket"))
    monkeypatch.setenv("SPATIALSV_CACHE", str(tmp_path / "copies"))
    monkeypatch.syspath_prepend(STORE)  # spawned processes get it too
    monkeypatch.delitem(sys.modules, "gcsfs", raising=False)
    store = importlib.import_module("gcsfs")
    fsspec.register_implementation("gcs", store.GCSFileSystem, clobber=True)
    store.GCSFileSystem.clear_instance_cache()
    epath.backend.fsspec_backend._get_filesystem.cache_clear()
    yield tmp_path / "bucket"
    epath.backend.fsspec_backend._get_filesystem.cache_clear()
    sys.modules.pop("gcsfs", None)


def test_what_other_processes_write_into_an_object_store_is_seen(local, bucket):
    """The store remembers listings, as gcsfs does, and the workers write behind the back of this process."""
    prepare_rooms("gs://rooms/all", workers=2, progress=False, **ROOMS)
    assert files_of(bucket / "rooms/all") == files_of(local)


def test_data_in_an_object_store(local, scene, bucket, tmp_path):
    prepare_rooms("gs://rooms/all", workers=None, progress=False, **ROOMS)
    assert files_of(bucket / "rooms/all") == files_of(local)
    source, wanted = open_split("gs://rooms/all", "train"), open_split(local, "train")
    assert source.ids == wanted.ids and source[3].images == wanted[3].images
    assert len(list((tmp_path / "copies").rglob("*array_record*"))) == 3
    shard = next((bucket / "rooms/all").glob("*train*-00001-of*"))
    shard.write_bytes(b"\0" * shard.stat().st_size)
    shutil.rmtree(tmp_path / "copies")
    with pytest.raises(PrepareError, match="00001-of-00003 was altered"):
        open_split("gs://rooms/all", "train")[0]
    with pytest.raises(PrepareError, match="is not a folder"):
        open_split("gs://rooms/none", "train")
    data, exports = scene
    record = open_split(data, "train")[0]
    label.label_exports("vggt", str(exports), data, "gs://labels/vggt", ["train"], "weights")
    label.label_exports("vggt", str(exports), data, tmp_path / "here", ["train"], "weights")
    found, here = (
        read_labels(place, record.id, images=record.images) for place in ("gs://labels/vggt", tmp_path / "here")
    )
    assert found.key == here.key and (found.depth == here.depth).all()
    facts = json.loads((bucket / "labels/vggt/labels.json").read_text())
    assert facts["written"] == 1
    with pytest.raises(LabelError, match="gs://labels/vggt/other.npz does not exist"):
        read_labels("gs://labels/vggt", "other")


CAPTURES = Path(__file__).parents[2] / "docs" / "examples" / "own_data" / "captures"


def prepare_captures(raw, out, **changes):
    settings = SOURCES["nerfstudio"].settings(raw=str(raw), views=2, **changes)
    return prepare("nerfstudio", settings, out, workers=None, progress=False)


def test_raw_data_in_an_object_store(bucket, tmp_path, monkeypatch):
    """Copied once, prepared as local files are, looked at again by every command."""
    shutil.copytree(CAPTURES, bucket / "raw/captures")
    here, there = (
        prepare_captures(CAPTURES, tmp_path / "here"),
        prepare_captures("gs://raw/captures", tmp_path / "there"),
    )
    assert there["origin"]["raw"] == "gs://raw/captures"
    assert there["splits"] == here["splits"] and there["splits"]["train"]["records"]
    shards = lambda folder: {name: data for name, data in files_of(folder).items() if "array_record-" in name}
    assert shards(tmp_path / "there") == shards(tmp_path / "here")
    copy = next((tmp_path / "copies/raw").iterdir())
    before = {path: path.stat().st_ino for path in copy.rglob("*.json") if path.name != ".copied.json"}
    prepare_captures("gs://raw/captures", tmp_path / "there")
    assert all(path.stat().st_ino == inode for path, inode in before.items())  # nothing was copied again
    next(copy.rglob("transforms.json")).unlink()  # a hole in the copy is filled, what is gone from the store goes
    (bucket / "raw/captures/new.txt").write_text("x")
    look("nerfstudio", SOURCES["nerfstudio"].settings(raw="gs://raw/captures/", views=2))
    assert (copy / "new.txt").is_file() and next(copy.rglob("transforms.json")).is_file()
    (bucket / "raw/captures/new.txt").unlink()
    file = next((bucket / "raw/captures").rglob("transforms.json"))
    file.write_text(file.read_text() + " ")
    with pytest.raises(PrepareError, match="content_of_raw"):
        prepare_captures("gs://raw/captures", tmp_path / "there")
    assert not (copy / "new.txt").exists()
    copies = (raw_copies.Copy("gs://raw/captures", str(copy), (copy / ".listing").read_text()),)
    there = files_of(copy)
    shutil.rmtree(copy)  # as on another machine
    raw_copies.make_copies(copies)
    assert files_of(copy) == there
    monkeypatch.setattr(raw_copies.fsspec.core, "url_to_fs", lambda remote: pytest.fail("the store was asked"))
    raw_copies.make_copies(copies)  # the second time nothing is looked at


@pytest.fixture
def answers(bucket):
    """Writes the one answer of a question file in the bucket."""
    file = bucket / "raw/q.jsonl"
    file.parent.mkdir(parents=True)

    def write(answer: str, at: int) -> None:
        turns = [dict(role="user", content="Which?"), dict(role="assistant", content=answer)]
        file.write_text(json.dumps(dict(messages=turns)) + "\n")
        os.utime(file, (at, at))

    write("left1", 1000)
    return write


@pytest.mark.parametrize("elsewhere", [True, False])
def test_workers_make_records_of_what_the_plan_was_made_of_or_none(answers, tmp_path, elsewhere):
    settings = SOURCES["messages"].settings(raw="gs://raw")
    plan = planned("messages", settings, False)
    (copy,) = plan.copies
    if elsewhere:
        shutil.rmtree(copy.local)
    raw_copies.make_copies(plan.copies)
    raw_copies.check_copies(plan.copies)

    def build(plan, directory):
        answers("rig22", 2000)  # as long, and another
        if elsewhere:
            shutil.rmtree(copy.local)
            with pytest.raises(PrepareError, match="gs://raw changed while data were prepared from it. Run again"):
                raw_copies.make_copies(plan.copies)
            assert not list(Path(copy.local).rglob("*.jsonl"))
        else:  # the copy is as it was, whatever the store holds, until another command on this machine looks
            raw_copies.make_copies(plan.copies)
            raw_copies.check_copies(plan.copies)
            planned("messages", settings, False)
        write_shard(plan, "train", 0, directory)

    with pytest.raises(PrepareError, match="the copy of gs://raw, changed while data were prepared from it"):
        SpatialRecords(data_dir=tmp_path / "out", plan=plan).download_and_prepare(build=build)
    assert not list((tmp_path / "out").glob("*array_record*"))
    SpatialRecords(data_dir=tmp_path / "new", plan=planned("messages", settings, False)).download_and_prepare(
        workers=None
    )
    assert open_split(tmp_path / "new", "train")[0].questions[0].answer == "rig22"


def test_a_copy_that_changes_while_a_shard_is_made_makes_none(answers, tmp_path, monkeypatch):
    settings = SOURCES["messages"].settings(raw="gs://raw")
    made = shards._made

    def changing(*given):
        yield from made(*given)
        answers("rig22", 2000)
        planned("messages", settings, False)

    monkeypatch.setattr(shards, "_made", changing)
    with pytest.raises(PrepareError, match="changed while data were prepared from it"):
        prepare("messages", settings, tmp_path / "out", workers=None, progress=False)
    assert not list((tmp_path / "out").glob("*array_record*"))


def test_a_copy_that_was_stopped_keeps_nothing_that_is_gone(bucket, monkeypatch, tmp_path):
    raw, copy, fetch, fetched = bucket / "raw", tmp_path / "copy", raw_copies._fetch, []
    for name in ("gone/a.jpg", "b.jpg", "c.jpg"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(b"x" * 9)

    def stop(store, path, *given):
        if path.endswith("c.jpg"):
            raise KeyboardInterrupt
        fetch(store, path, *given)
        fetched.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(raw_copies, "_fetch", stop)
        patch.setattr(raw_copies, "_THREADS", 1)
        with pytest.raises(KeyboardInterrupt):
            raw_copies.refresh("gs://raw", copy, progress=False)
    assert len(fetched) == 2 and (copy / "gone/a.jpg").is_file() and not (copy / ".listing").exists()
    (copy / ".0123.tmp").touch()  # as a kill leaves it
    shutil.rmtree(raw / "gone")
    for _ in range(2):
        raw_copies.refresh("gs://raw", copy, progress=False)
        shown = {path.name for path in copy.rglob("*")}
        assert shown == {"b.jpg", "c.jpg", ".copied.json", ".listing", ".lock"}


def test_addresses_with_blanks_are_folders_and_files_are_refused(bucket):
    for name in ("my scans", "more"):
        (bucket / "raw" / name).mkdir(parents=True)
        (bucket / "raw" / name / "q.jsonl").write_text("{}")
    settings = dataclasses.make_dataclass("Settings", ["raw", "files"], frozen=True)
    found, copies = raw_copies.localised(settings("gs://raw/my scans/", ("a=gs://raw/more, gs://raw/my scans",)), False)
    assert [copy.remote for copy in copies] == ["gs://raw/my scans", "gs://raw/more"]
    assert (Path(found.raw) / "q.jsonl").is_file() and found.files == (f"a={copies[1].local}, {copies[0].local}",)
    with pytest.raises(PrepareError, match="gs://raw/more/q.jsonl is a file, not a folder"):
        raw_copies.localised(settings("gs://raw/more/q.jsonl", ()), False)


def test_a_store_is_not_asked_for_every_path(bucket, monkeypatch):
    (bucket / "labels").mkdir(parents=True)
    (bucket / "labels/r0.npz").touch()
    monkeypatch.setattr(paths, "_usable", set())
    asked, exists = [], type(epath.Path("gs://labels")).exists
    monkeypatch.setattr(type(epath.Path("gs://labels")), "exists", lambda self: asked.append(self) or exists(self))
    missing = missing_labels("gs://labels", [f"r{number}" for number in range(100)])
    assert missing == {f"r{number}" for number in range(1, 100)} and len(asked) == 1


def test_copies_of_raw_data_are_refused_or_said_to_fail(bucket, monkeypatch, tmp_path):
    with pytest.raises(PrepareError, match="gs://raw/none is not a folder, or is empty"):
        raw_copies.refresh("gs://raw/none", tmp_path / "none", progress=False)
    for name in ("/b/raw/../x", "/b/raw/.copied.json", "/b/other"):
        with pytest.raises(PrepareError, match="cannot be a file of the folder"):
            raw_copies._name("gs://b/raw", "/b/raw", name)
    (bucket / "raw").mkdir(parents=True)
    (bucket / "raw/a.txt").write_text("a")
    monkeypatch.setattr(raw_copies, "_SPARE", 2**60)
    with pytest.raises(PrepareError, match="GiB are free. Set SPATIALSV_CACHE"):
        raw_copies.refresh("gs://raw", tmp_path / "full", progress=False)


@pytest.mark.parametrize("change, message", [
    (dict(workdir="gs://b/run"), "--workdir is 'gs://b/run'"),
    (dict(vision_cache="gs://b/cache"), "config.data.vision_cache is 'gs://b/cache'"),
    (dict(init_from="gs://b/base"), "config.init_from is 'gs://b/base'"),
])  # fmt: skip
def test_what_needs_a_file_system_says_so_before_any_work(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    config = common.get_config()
    config.data.sources.rooms = common.source("rooms", per_batch=8)
    config.data.vision_cache, config.init_from = change.get("vision_cache", ""), change.get("init_from", "")
    with pytest.raises(ValueError, match=f"{message}, but must be a folder of a file system"):
        train.train_and_evaluate(config, change.get("workdir", tmp_path / "run"))
    with pytest.raises(ValueError, match="The model is 'gs://b/run', but must be"):
        loading.locate("gs://b/run")
    assert not [path for path in tmp_path.rglob("*") if path.name != "run"]


def test_a_store_without_its_package_is_named(monkeypatch):
    def missing(self):
        raise ImportError("no gcsfs")

    monkeypatch.setattr(paths, "_usable", set())
    monkeypatch.setattr(type(epath.Path("gs://bucket")), "exists", missing)
    with pytest.raises(ValueError, match=r"gs://bucket/data needs a package .* pip install 'spatialsv-jax\[gcs\]'"):
        as_path("gs://bucket/data")
