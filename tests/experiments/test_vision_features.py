"""Training from cached features of the frozen encoder equals training from pixels; the cache notices what changed."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import optax
import pytest

from data_pipelines import vision_cache
from data_pipelines.loader import make_loader
from data_pipelines.manifest import read_manifest
from data_pipelines.storage import open_split
from data_pipelines.vision_cache import VisionCacheError, open_cache, picture_name
from experiments import phases, train, vision_features
from experiments.configs import common
from experiments.prepare import prepare_rooms
from experiments.starting import processor_for
from spatialsv_jax import assembly
from spatialsv_jax.training import state, step
from spatialsv_jax.training.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "rooms"
    prepare_rooms(folder, scenes=5, validation=0, test=2, ood=0, views=2, size=32, workers=None, progress=False)
    return folder


def config_of(rooms: Path, cache: str = "", steps: int = 3):
    config = common.get_config()
    config.name = "phase"
    config.vision.update(image_size=32, patch_size=8, width=32, layers=1, heads=2, trainable=False)
    config.language.update(width=32, layers=4, heads=2, kv_heads=1, head_dim=16, mlp_width=64, unroll=1)
    config.lifting.update(width=16, channels=(8, 8, 8, 8), features=8)
    config.data.sources.rooms = common.source(str(rooms), per_batch=2)
    config.data.update(
        questions=4, question_tokens=40, answer_tokens=2, views=2, label_size=(16, 16), vision_cache=cache
    )
    config.training.update(steps=steps, log_every=1, tensorboard=False)
    # Small steps: Adam makes a step of a gradient that is rounding alone.
    config.optimizer.update(name="adamw", projector=1e-4, language=1e-4, lifting=1e-4)
    config.evaluation.scenes = -1
    return config


@pytest.fixture(scope="module")
def both(rooms, tmp_path_factory):
    """Workdirs of the same run from pixels and from the cache; its second half after a restart."""
    folders = [tmp_path_factory.mktemp(name) for name in ("pixels", "cached")]
    train.train_and_evaluate(config_of(rooms), folders[0])
    train.train_and_evaluate(config_of(rooms, "auto"), folders[1])
    return folders


def losses(folder: Path) -> np.ndarray:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([[row[name] for name in ("total", "text", "depth", "ray", "points")] for row in rows])


def test_training_from_the_cache_equals_training_from_pixels(both):
    pixels, cached = both
    assert losses(pixels).shape == (3, 5)
    np.testing.assert_allclose(losses(cached), losses(pixels), rtol=1e-5, atol=1e-5)
    trees = []
    for folder in both:
        params, _, step = Checkpoints(folder / "checkpoints", create=False).restore_params()
        assert step == 3
        trees.append(params)
    for one, other in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_every_picture_is_there_once_and_the_manifest_says_what_of(both, rooms):
    (folder,) = (both[1] / "vision_cache").iterdir()
    files = {file.stem for file in folder.rglob("*.npy")}
    records = open_split(rooms, "train")
    assert files == {picture_name(image) for record in records for image in record.images} and len(files) == 10
    facts = json.loads((folder / "cache.json").read_text())
    assert facts["shape"] == [1, 4, 4 * 32] and facts["dtype"] == "float32" and facts["family"] == "tiny"
    assert len(list(folder.glob("filled-*"))) == 1


def test_a_filled_cache_is_used_and_a_gap_is_filled(both, rooms, tmp_path, capsys):
    shared = tmp_path / "shared"
    shutil.copytree(both[1] / "vision_cache", shared)
    (folder,) = shared.iterdir()
    kept = next(folder.rglob("*.npy"))
    victim = sorted(folder.rglob("*.npy"))[-1]
    written, bytes_before = kept.stat().st_mtime_ns, victim.read_bytes()
    victim.unlink()
    with pytest.raises(VisionCacheError, match="does not exist. Start again: what is missing is made then"):
        train.train_and_evaluate(config_of(rooms, str(shared), steps=1), tmp_path / "gap")
    train.train_and_evaluate(config_of(rooms, str(shared), steps=1), tmp_path / "again")
    said = capsys.readouterr().out
    assert "1 pictures to encode" in said
    (costs,) = [line for line in said.splitlines() if "FLOPs per step" in line]
    assert "projector" in costs and "vision" not in costs  # the encoder is no part of the step
    assert victim.read_bytes() == bytes_before and kept.stat().st_mtime_ns == written
    np.testing.assert_allclose(losses(tmp_path / "again")[0], losses(both[0])[0], rtol=1e-5)
    altered = bytearray(bytes_before)
    altered[200] ^= 1
    victim.write_bytes(altered)
    with pytest.raises(VisionCacheError, match="was altered .* and was removed. Start again"):
        train.train_and_evaluate(config_of(rooms, str(shared), steps=1), tmp_path / "altered")
    train.train_and_evaluate(config_of(rooms, str(shared), steps=1), tmp_path / "altered")
    assert victim.read_bytes() == bytes_before


def test_another_encoder_has_another_folder(both, rooms, tmp_path):
    shared = tmp_path / "shared"
    shutil.copytree(both[1] / "vision_cache", shared)
    config = config_of(rooms, str(shared), steps=1)
    config.seed = 1  # other weights
    train.train_and_evaluate(config, tmp_path / "run")
    assert len(list(shared.iterdir())) == 2


def test_a_full_disk_is_found_before_anything_is_written(rooms, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(vision_features.shutil, "disk_usage", lambda path: usage._replace(free=2**28 + 1000))
    with pytest.raises(
        ValueError, match="The features of 10 pictures take .* has 1000 B left. Name a folder on another disk"
    ):
        train.train_and_evaluate(config_of(rooms, "auto"), tmp_path)
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("section, change, message", [
    ("vision", dict(trainable=True), "vision.trainable is True"),
    ("ema", dict(noise=0.1, decay=0.5), "ema.noise is 0.1"),
])  # fmt: skip
def test_what_changes_features_is_refused(rooms, tmp_path, section, change, message):
    config = config_of(rooms, "auto")
    config[section].update(change)
    config.losses.ema = float(section == "ema")
    with pytest.raises(ValueError, match=f"config.data.vision_cache keeps .* config.{message}"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def family_phase(name: str, rooms: Path):
    """A small phase of the family with one head (all are in the runs above) and its encoder frozen."""
    config = importlib.import_module(f"experiments.configs.{name}").get_config("tiny")
    if name == "smol":
        phase = config.phases.spatial
        phase.init_from = ""
        phase.vision.update(image_size=32, width=32, layers=1, heads=2)
        phase.language.update(width=32, layers=4, heads=2, kv_heads=1, head_dim=16, mlp_width=64)
        (source,) = phase.data.sources.values()
        phase.data.update(questions=2, answer_tokens=16, views=2, label_size=(16, 16))
    else:
        phase = config.phases.finetune
        source = phase.data.sources.train
    source.update(path=str(rooms), per_batch=1, views=2)
    phase.vision.trainable = False
    phase.language.unroll = 1  # compiles sooner
    phase.data.question_tokens = 200
    phase.lifting.update(heads=("depth",), width=16, channels=(8, 8, 8, 8), features=8)
    phase.losses.update(ray=0.0, points=0.0)
    return phase


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl_3b", "internvl3_1b", "llava_next_video_7b", "llava_onevision1_5_4b", "smol"])  # fmt: skip
def test_every_family_learns_the_same_from_its_features(name, rooms, tmp_path):
    """Each loss, and the gradients of each part, of one batch as the loader gives it: from pixels and from the cache."""
    phase = family_phase(name, rooms)
    settings, data = assembly.read_settings(phase), phases.data_settings(phase)
    vision_features.check_settings(settings, data)
    processor = processor_for(phase, settings, {str(rooms): read_manifest(rooms)})
    model = assembly.build_model(settings, processor)
    batch = make_loader(data, processor).batch(0)
    init, apply, _ = train.model_functions(model, settings, batch, 0)
    params = jax.jit(init)()
    filler = vision_features.Filler(
        tmp_path / "cache", settings, model, processor, params["backbone"].pop("vision"), data
    )
    cached = make_loader(data, processor, vision=filler).batch(0)
    assert cached["pixel_values"].size == 0 and cached["vision_features"].size > 0
    parts = step.StepParts(apply, settings.losses, None, settings.frozen_groups, {})
    of_step = jax.jit(
        jax.value_and_grad(
            lambda trained, frozen, batch: step.evaluate_losses(parts, state.merge_params(trained, frozen), batch, 0),
            has_aux=True,
        )
    )
    (_, report), gradient = of_step(params, {"backbone": {"vision": filler._params}}, batch)
    (_, found), other = of_step(params, {}, cached)
    assert {"text", "depth", "total"} <= set(report)
    for term in report:
        np.testing.assert_allclose(found[term], report[term], rtol=1e-5, atol=1e-5, err_msg=term)
    for part, tree in {**gradient["backbone"], "lifting": gradient["lifting"]}.items():
        there = {**other["backbone"], "lifting": other["lifting"]}[part]
        size = float(optax.tree.norm(tree))
        assert size > 1e-4 and float(optax.tree.norm(optax.tree.sub(there, tree))) < 1e-5 * size, part
    mixed = {**cached, "vision_features": cached["vision_features"][:, ::-1]}
    assert abs(float(of_step(params, {}, mixed)[0][0] - report["total"])) > 1e-4  # pictures in another order


def test_bfloat16_is_kept_bit_for_bit_and_wrong_files_are_named(tmp_path):
    identity = {"encoder_sha256": "a"}
    cache = open_cache(tmp_path, identity, (1, 3, 2), "bfloat16", (8, 8))
    features = np.arange(6, dtype=np.float32).reshape(1, 3, 2).astype(ml_dtypes.bfloat16) / 7
    cache.write(picture_name(b"picture"), features)
    stored = np.load(cache.path(picture_name(b"picture")))
    assert stored.dtype == np.uint16 and cache.picture_bytes == cache.path(picture_name(b"picture")).stat().st_size
    np.testing.assert_array_equal((stored.astype(np.uint32) << 16).view(np.float32), features.astype(np.float32))
    found = open_cache(tmp_path, identity, (1, 3, 2), "bfloat16", (8, 8)).read(b"picture", "here")
    assert found.dtype == features.dtype and (found == features).all()
    with pytest.raises(ValueError, match="Features float32"):
        cache.write("ab", features.astype(np.float32))
    path, mark = cache.path(picture_name(b"picture")), cache.filled("records")
    whole = path.read_bytes()
    for change in (lambda: path.write_bytes(whole[:-1]), lambda: np.save(path, stored), lambda: path.write_bytes(b"")):
        change()
        mark.touch()
        assert not cache.has(picture_name(b"picture"))  # too short: made again when the cache is filled
        with pytest.raises(
            VisionCacheError, match=r"record 3: .* is damaged or was altered .* and was removed. Start again"
        ):
            cache.read(b"picture", "record 3")
        assert not path.exists() and not mark.exists()
    cache.path(picture_name(b"other")).parent.mkdir(exist_ok=True)
    cache.path(picture_name(b"other")).write_bytes(whole)  # of another picture
    with pytest.raises(VisionCacheError, match="was altered"):
        cache.read(b"other", "record 3")
    smaller = dataclasses.replace(cache, shape=(1, 2, 2))
    smaller.write(picture_name(b"picture"), features[:, :2])
    with pytest.raises(VisionCacheError, match=r"record 3: .* holds uint16\[1, 2, 2\], expected uint16\[1, 3, 2\]"):
        cache.read(b"picture", "record 3")
    (cache.folder / vision_cache.MANIFEST).write_text("{")
    with pytest.raises(VisionCacheError, match="cannot be read"):
        open_cache(tmp_path, identity, (1, 3, 2), "bfloat16", (8, 8))


def test_hosts_that_do_not_see_one_folder_are_refused_before_anything_is_encoded(tmp_path, monkeypatch):
    """Two threads as two hosts."""
    own, meeting, values = threading.local(), threading.Barrier(2, timeout=20), [None, None]

    def gathered(value):
        values[own.index] = value
        meeting.wait()
        found = np.array(values)
        meeting.wait()
        return found

    def on_first(work):
        if own.index == 0:
            work()
        meeting.wait()

    between = SimpleNamespace(process_allgather=gathered, broadcast_one_to_all=lambda value: gathered(value)[0])
    monkeypatch.setattr(vision_features, "multihost_utils", between)
    monkeypatch.setattr(vision_features.hosts, "on_first", on_first)
    monkeypatch.setattr(vision_features, "_LOOK_S", 0.2)
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def fill(index: int, root: Path) -> str:
        own.index, filler = index, vision_features.Filler.__new__(vision_features.Filler)
        filler._root = root
        try:
            assert filler(SimpleNamespace(buckets=()), (), ()) == []
        except ValueError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(fill, (0, 1), (tmp_path / "a", tmp_path / "a"))) == ["", ""]
        said = list(pool.map(fill, (0, 1), (tmp_path / "a", tmp_path / "b")))
    assert all("must be one folder that all hosts see, but processes [1] do not" in text for text in said)
    assert not list((tmp_path / "a").iterdir()) and not list((tmp_path / "b").iterdir())
