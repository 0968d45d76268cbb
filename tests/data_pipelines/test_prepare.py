"""Preparation: resumed after a kill it gives the same bytes; it loses and overwrites nothing."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from PIL import Image

from data_pipelines import begun, shards
from data_pipelines.manifest import PrepareError, read_manifest
from data_pipelines.sources import posed_rgbd, rooms
from data_pipelines.sources.posed import source as posed_source
from data_pipelines.storage import open_split
from experiments import prepare

# A program whose rooms are noise and which may be killed, or meet a full disk, at some room.
PROGRAM = textwrap.dedent("""
    import io, os, resource, signal, sys, types
    import numpy as np
    from PIL import Image
    from data_pipelines.records import Record

    def make_record(config, split, index):
        if (split, index) == ("train", int(os.environ.get("KILL_AT", -1))):
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng([config.seed, index, len(split)])
        size = 64 if index == 30 else 8
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(buffer, "PNG")
        eyes = np.eye(3)[None], np.eye(4)[None]
        return Record(f"{split}-{index}", "rooms", f"{split}-{index}", "walk", ("0",), (buffer.getvalue() * 40,),
                      (b"",), 0.001, *eyes, np.array([True]), (), {"b": 1, "a": 2}), {"rejected": index % 2}

    generate = types.ModuleType("data_pipelines.rooms.generate")
    generate.make_record, generate.GENERATOR_VERSION = make_record, "fake"
    sys.modules[generate.__name__] = generate
    import data_pipelines.rooms
    data_pipelines.rooms.generate = generate
    if limit := int(os.environ.get("LIMIT", 0)):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from experiments import prepare
    prepare.prepare_rooms(sys.argv[1], scenes=50, views=1, size=16, validation=2, test=0, ood=0,
                          workers=None, progress=False, **eval(sys.argv[2]))
""")


def run(out, arguments="{}", **environment):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out), arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Prepared without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_killed_and_resumed_gives_identical_bytes(tmp_path, whole):
    out = tmp_path / "out"
    assert run(out, KILL_AT="37").returncode == -9
    with pytest.raises(PrepareError, match="unfinished data set"):
        read_manifest(out)
    kept = {path.name: path.stat() for path in out.glob("*array_record*")}
    assert len(kept) == 4  # rooms 0..31
    refused = run(out, "dict(seed=3)")
    assert refused.returncode == 1 and "seed: 0 there, 3 asked" in refused.stderr
    done = run(out)
    assert done.returncode == 0, done.stderr
    assert contents(out) == contents(whole)
    for name, before in kept.items():
        after = (out / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "a finished shard was remade"


def test_a_damaged_finished_shard_is_made_again_on_resume(tmp_path, whole):
    out = tmp_path / "out"
    assert run(out, KILL_AT="37").returncode == -9
    shard = sorted(out.glob("*array_record*"))[0]
    data = bytearray(shard.read_bytes())
    data[30000] ^= 255
    shard.write_bytes(data)
    assert run(out).returncode == 0
    assert contents(out) == contents(whole)


def test_full_disk_keeps_finished_shards(tmp_path, whole):
    out = tmp_path / "out"
    full = run(out, LIMIT="400000")
    assert full.returncode == 1 and "Cannot write" in full.stderr and "Finished shards are kept" in full.stderr
    assert "train.array_record-00003" in full.stderr
    assert sorted(path.name[-14:] for path in out.glob("*array_record*")) == [f"{k:05d}-of-00007" for k in range(3)]
    assert not list(out.rglob("*.tmp"))
    assert run(out).returncode == 0
    assert contents(out) == contents(whole)


@pytest.fixture
def scans(tmp_path):
    """Twelve scenes of four frames without depth."""
    for scene in range(12):
        folder = tmp_path / "raw" / f"scene{scene}"
        for part in ("color", "pose", "intrinsic"):
            (folder / part).mkdir(parents=True)
        np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", [[20, 0, 11.5], [0, 20, 7.5], [0, 0, 1]])
        rng = np.random.default_rng(scene)
        for frame in range(4):
            Image.fromarray(rng.integers(0, 255, (16, 24, 3), dtype=np.uint8)).save(folder / "color" / f"{frame}.png")
            pose = np.eye(4)
            pose[0, 3] = frame
            np.savetxt(folder / "pose" / f"{frame}.txt", pose)
    return tmp_path / "raw"


def posed(raw, **changes):
    return posed_rgbd.Settings(raw=str(raw), views=2, validation=2, test=2, **changes)


def test_worker_processes_and_this_process_give_the_same_bytes(tmp_path, scans):
    manifest = prepare.prepare("posed_rgbd", posed(scans), tmp_path / "alone", workers=None, progress=False)
    prepare.prepare("posed_rgbd", posed(scans), tmp_path / "pool", workers=2, progress=False)
    assert contents(tmp_path / "alone") == contents(tmp_path / "pool")
    assert {name: split["scenes"] for name, split in manifest["splits"].items()} == {
        "train": 8, "validation": 2, "test": 2,
    }  # fmt: skip


def test_a_prepared_folder_returns_at_once_and_refuses_other_arguments(tmp_path, scans, monkeypatch):
    out = tmp_path / "out"
    first = prepare.prepare("posed_rgbd", posed(scans), out, workers=None, progress=False)
    before = contents(out)
    (out / ".preparing").mkdir()  # left by a kill during the tidying up
    (out / ".preparing" / "arguments.json").write_text("{}")
    monkeypatch.setattr(prepare.SpatialRecords, "download_and_prepare", lambda *a, **k: pytest.fail("made again"))
    assert prepare.prepare("posed_rgbd", posed(scans), out, progress=False) == first
    with pytest.raises(PrepareError, match="hop: 0 there, 1 asked; seed: 0 there, 5 asked"):
        prepare.prepare("posed_rgbd", posed(scans, hop=1, seed=5), out)
    (scans / "scene3" / "pose" / "1.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 9 0 0 0 1")
    with pytest.raises(PrepareError, match="content_of_raw"):
        prepare.prepare("posed_rgbd", posed(scans), out)
    assert contents(out) == before


def test_foreign_and_impossible_folders_are_left_alone(tmp_path, scans):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "dataset_info.json").write_text("mine")
    with pytest.raises(PrepareError, match="already holds dataset_info.json.*Nothing was changed"):
        prepare.prepare("posed_rgbd", posed(scans), foreign, progress=False)
    assert contents(foreign) == {"dataset_info.json": hashlib.sha256(b"mine").hexdigest()}
    (tmp_path / "file").write_text("x")
    for out, message in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "below", "Cannot write into")):
        with pytest.raises(PrepareError, match=message):
            prepare.prepare("posed_rgbd", posed(scans), out, progress=False)


def test_two_processes_do_not_prepare_one_folder(tmp_path, scans):
    (tmp_path / "out" / ".preparing").mkdir(parents=True)
    with open(tmp_path / "out" / ".preparing" / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(PrepareError, match="Another process is preparing"):
            prepare.prepare("posed_rgbd", posed(scans), tmp_path / "out", workers=None, progress=False)


def test_a_failing_item_is_named_and_workers_end(tmp_path, scans):
    bad = scans / "scene7" / "depth"
    bad.mkdir()
    Image.fromarray(np.zeros((16, 24), np.uint8)).save(bad / "0.png")
    with pytest.raises(PrepareError, match="scene7/depth/0.png has mode L: depth must be a 16-bit"):
        prepare.prepare("posed_rgbd", posed(scans), tmp_path / "out", workers=2, progress=False)


def test_main_process_killed_ends_its_workers(tmp_path, scans):
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.prepare", "--source", "posed_rgbd", "--raw", str(scans), "--views", "2",
         "--out", str(tmp_path / "out"), "--workers", "2"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    children = []
    for _ in range(600):
        path = f"/proc/{process.pid}/task/{process.pid}/children"
        if not os.path.exists(path):
            process.kill()
            pytest.skip("needs /proc to find child processes")
        with open(path) as file:
            children = file.read().split()
        if len(children) >= 3 or process.poll() is not None:  # two workers and the resource tracker
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(alive(child) for child in children):
        assert time.monotonic() < deadline, "workers outlived the killed main process"
        time.sleep(0.05)
    finished = prepare.main(
        [
            "--source",
            "posed_rgbd",
            "--raw",
            str(scans),
            "--views",
            "2",
            "--out",
            str(tmp_path / "out"),
            "--workers",
            "1",
        ]
    )
    assert finished == 0 and read_manifest(tmp_path / "out")["splits"]["train"]["records"] == 24


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_splits_never_share_ids_or_scenes(tmp_path, scans, monkeypatch):
    original = posed_source._Reader._record

    def same_id(*args):
        return type(original(*args))(**{**original(*args).__dict__, "id": "twin"})

    monkeypatch.setattr(posed_source._Reader, "_record", same_id)
    with pytest.raises(PrepareError, match="Record id 'twin' occurs in 'train' and again"):
        prepare.prepare("posed_rgbd", posed(scans), tmp_path / "out", workers=None, progress=False)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_default_numbers_of_held_out_rooms():
    plan = rooms.plan(rooms.RoomsSettings(scenes=400))
    assert plan.items == {"train": 400, "validation": 20, "test": 20, "ood": 20}
    assert json.loads(json.dumps(plan.arguments))["views"] == 4
    assert rooms.plan(rooms.RoomsSettings(scenes=5, ood=0)).items == {"train": 5, "validation": 8, "test": 8}


def test_changed_code_is_refused_midway_and_noted_afterwards(tmp_path, scans, monkeypatch, capsys):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare.SpatialRecords, "_finish", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare("posed_rgbd", posed(scans), tmp_path / "out", workers=None, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(posed_source, "code_fingerprint", lambda *files: "edited")
        with pytest.raises(PrepareError, match="made_with code_sha256: .* there, 'edited' asked"):
            prepare.prepare("posed_rgbd", posed(scans), tmp_path / "out", workers=None, progress=False)
    prepare.prepare("posed_rgbd", posed(scans), tmp_path / "out", workers=None, progress=False)
    monkeypatch.setattr(posed_source, "code_fingerprint", lambda *files: "edited")
    prepare.prepare("posed_rgbd", posed(scans), tmp_path / "out")
    assert "another state of the code" in capsys.readouterr().out


def test_real_rooms_in_worker_processes(tmp_path):
    settings = dict(scenes=3, views=2, size=32, validation=1, test=0, ood=1, mix="walk=1", questions_per_view=4)
    manifest = prepare.prepare_rooms(tmp_path / "out", workers=2, progress=False, **settings)
    assert {name: split["records"] for name, split in manifest["splits"].items()} == {
        "train": 3, "validation": 1, "ood": 1,
    }  # fmt: skip
    train = manifest["splits"]["train"]
    assert train["settings"] == {"walk": 3} and train["counts"]["setting/walk"] == 3
    assert train["counts"]["tried"] >= 6 and set(train["question_types"]) <= {"grounding", "spatial"}
    record = open_split(tmp_path / "out", "ood", verify=True)[0]
    assert len(record.images) == 2 and all(record.depths) and record.metadata["room_size"]
    again = prepare.prepare_rooms(tmp_path / "out", workers=2, progress=False, **settings)
    assert again == manifest


def small_rooms(seed):
    return rooms.plan(rooms.RoomsSettings(scenes=2, views=2, size=24, validation=0, test=0, ood=0, seed=seed))


def test_a_shard_of_another_plan_is_neither_written_nor_taken(tmp_path, monkeypatch):
    """A job of a command that was stopped goes on elsewhere, after another command took the folder."""
    late, plan = small_rooms(1), small_rooms(2)

    def build(plan, folder):
        with pytest.raises(PrepareError, match=r"seed: 2 there, 1 asked. Nothing was written. .* stop it"):
            shards.write_shard(late, "train", 0, folder)
        assert not list(folder.glob("*array_record*"))
        with monkeypatch.context() as patch:
            patch.setattr(begun, "_version", lambda package: "other")
            with pytest.raises(PrepareError, match="made_with pillow: .* there, 'other' asked"):
                shards.write_shard(plan, "train", 0, folder)
        with monkeypatch.context() as patch:  # the folder was taken after it had looked
            patch.setattr(shards, "check_begun", lambda *given: None)
            shards.write_shard(late, "train", 0, folder)
        return shards.build(plan, folder, None, False)

    prepare.SpatialRecords(data_dir=tmp_path / "out", plan=plan).download_and_prepare(build=build)
    prepare.SpatialRecords(data_dir=tmp_path / "own", plan=plan).download_and_prepare(workers=None, progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "own")
    with pytest.raises(PrepareError, match="No preparation goes on in .* any more"):
        shards.write_shard(late, "train", 0, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "own")


def test_a_folder_that_is_taken_while_a_shard_is_made_does_not_get_it(tmp_path, monkeypatch):
    plan = small_rooms(1)
    progress = tmp_path / ".preparing"
    progress.mkdir()
    asked = progress / begun.BEGUN
    asked.write_text(json.dumps(begun.begun_with(plan)))
    made = shards._made

    def taken(*given):
        asked.write_text(json.dumps(begun.begun_with(small_rooms(2))))
        yield from made(*given)

    monkeypatch.setattr(shards, "_made", taken)
    with pytest.raises(PrepareError, match="seed: 2 there, 1 asked"):
        shards.write_shard(plan, "train", 0, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".preparing"] and list(progress.iterdir()) == [asked]
