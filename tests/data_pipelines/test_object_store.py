"""Data sets and labels in an object store, and what must not lie in one."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import fsspec
import pytest
from etils import epath
from scale_data import ROOMS, exported_scene, files_of, local_rooms

from data_pipelines import raw_copies
from data_pipelines.labels.files import LabelError, read_labels
from data_pipelines.manifest import PrepareError
from data_pipelines.paths import as_path
from data_pipelines.sources import SOURCES
from data_pipelines.storage import open_split
from experiments import label, train
from experiments.configs import common
from experiments.prepare import look, prepare, prepare_rooms
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


def test_raw_data_in_an_object_store(bucket, tmp_path):
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
    shutil.rmtree(copy)  # as on another machine
    for _ in range(2):
        raw_copies.refresh_once((("gs://raw/captures", str(copy)),))
        assert (copy / ".copied.json").is_file()
        (copy / ".copied.json").unlink()
        (copy / ".copied.json").touch()  # the second time nothing is looked at


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

    monkeypatch.setattr(type(epath.Path("gs://bucket")), "exists", missing)
    with pytest.raises(ValueError, match=r"gs://bucket/data needs a package .* pip install 'spatialsv-jax\[gcs\]'"):
        as_path("gs://bucket/data")
