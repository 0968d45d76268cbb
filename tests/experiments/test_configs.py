"""Every config file builds a run whose phases pass the checks and whose models build at full size."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import experiments.configs as configs
from experiments import train
from experiments.configs import common
from experiments.configs.pretrained import PRESETS
from experiments.phases import as_run, data_settings
from experiments.starting import resolve_sizes
from spatialsv_jax import assembly
from spatialsv_jax.losses.objective import active_terms
from spatialsv_jax.processing.tiny import TinyProcessor, build_tokenizer
from spatialsv_jax.spec import fake_batch

ROOT = Path(__file__).parents[2]
NAMES = sorted(
    file.stem
    for file in Path(configs.__file__).parent.glob("*.py")
    if file.stem not in ("__init__", "common", "rooms_run", "pretrained", "finetune", *PRESETS)
)
EXPECTED = {
    "text_only", "distill_only", "depth_only", "ray_only", "points_only", "tasks", "full", "taps_last", "taps_late",
    "shared_projector", "dual_dpt", "full_shuffled3d", "heads_stopgrad", "teacher_rooms", "quickstart", "laptop",
    "full_vggt", "full_online", "semi_text50", "semi_both50", "semi_plus_unlabelled", "probe_depth",
}  # fmt: skip


WITH_A_START = ("smol",)  # full-size configs whose sizes are those of a checkpoint


def _config(name: str, arg: str = ""):
    import importlib

    return importlib.import_module(f"experiments.configs.{name}").get_config(arg)


def test_the_configs_that_must_exist_exist():
    assert EXPECTED <= set(NAMES)


@pytest.mark.parametrize("arg", ["", "tiny"])
@pytest.mark.parametrize("name", NAMES)
def test_config_builds_at_full_size(name, arg):
    if name in WITH_A_START and not arg:
        with pytest.raises(ValueError, match="init_from is empty: give the folder"):
            resolve_sizes(_config(name).phases.base)
        return
    run = as_run(_config(name, arg))
    for phase_name, phase in run.phases.items():
        if phase.stage == "label":
            continue
        settings = assembly.read_settings(phase, f"config.phases.{phase_name}")
        data_settings(phase)
        if arg:
            continue
        picture = settings.teacher if settings.model == "teacher" else settings.vision
        processor = TinyProcessor(build_tokenizer(["chair"]), picture.image_size, picture.patch_size, picture.merge)
        model = assembly.build_model(settings, processor)
        tokens = int(np.prod(processor.grid_hw))
        height, width = phase.data.label_size
        views = phase.data.views
        sizes = dict(B=1, V=views, H=height, W=width, P=tokens, S=views * (tokens + 3) + 1, Q=2, T=6, A=2, K=1, N=20)
        batch = fake_batch(sizes, (picture.image_size, picture.image_size, 3))
        shapes = jax.eval_shape(lambda b: model.init_params(jax.random.key(0), b, label_hw=(height, width)), batch)
        out = jax.eval_shape(lambda p, b: model.apply({"params": p}, b, label_hw=(height, width)), shapes, batch)
        for term in set(active_terms(settings.losses)) & {"depth", "ray", "points"}:
            assert out[term].shape[:4] == (1, views, height, width)


def test_ablations_differ_from_tasks_only_in_what_they_say():
    tasks = _config("tasks").phases.tasks
    for name in (
        "depth_only",
        "ray_only",
        "points_only",
        "taps_last",
        "taps_late",
        "shared_projector",
        "heads_stopgrad",
    ):
        phase = _config(name).phases[name]
        changed = {key for key in tasks if phase[key] != tasks[key]} - {"name"}
        assert changed <= {"losses", "lifting"}, (name, changed)
    full, shuffled = _config("full").phases.full, _config("full_shuffled3d").phases.full_shuffled3d
    assert {key for key in full if full[key] != shuffled[key]} == {"name", "data"}


def test_the_semi_supervised_rows_show_the_same_labelled_rooms():
    rows = {name: _config(name, "tiny").phases[name] for name in ("semi_text50", "semi_both50", "semi_plus_unlabelled")}
    labelled = [phase.data.sources.labelled for phase in rows.values()]
    for source in labelled:
        assert (source.text_share, source.text_seed, source.unlabelled, source.per_batch) == (0.5, 0, "drop", 4)
    assert len({phase.training.steps for phase in rows.values()}) == 1
    other = rows["semi_plus_unlabelled"].data.sources.unlabelled
    assert (other.text_share, other.text_seed, other.unlabelled, other.per_batch, other.text) == (
        0.5,
        0,
        "only",
        4,
        False,
    )
    both, full = rows["semi_both50"], _config("full", "tiny").phases.full
    assert both.losses == full.losses and both.lifting == full.lifting
    assert {key for key in both if both[key] != rows["semi_plus_unlabelled"][key]} == {"name", "data"}
    assert set(active_terms(assembly.read_settings(rows["semi_text50"]).losses)) == {"text"}
    for share in (5, 10, 25, 100):
        assert _config("semi_both50", str(share)).phases.semi_both50.data.sources.labelled.text_share == share / 100
    assert _config("semi_both50", "tiny,10").phases.semi_both50.training.steps == both.training.steps
    for wrong in ("0", "101", "x", "5,10", "tiny,tiny"):
        with pytest.raises(ValueError, match="is unknown"):
            _config("semi_both50", wrong)
    with pytest.raises(ValueError, match="none is left without"):
        _config("semi_plus_unlabelled", "100")


def test_unknown_keys_name_the_key_and_the_legal_ones():
    config = common.get_config()
    config.losses = ConfigDict({**config.losses, "depht": 1.0})
    with pytest.raises(ValueError, match=r"config.losses.depht is not a setting. Did you mean 'depth'\?"):
        assembly.read_settings(config)
    with pytest.raises(ValueError, match="unknown keys"):
        as_run(ConfigDict({"phases": {}, "order": (), "fases": {}}))


def test_a_mesh_that_does_not_fit_is_found_before_any_work(tmp_path):
    config = _config("quickstart")
    config.phases.spatial.mesh.data = 3
    with pytest.raises(ValueError, match=r"config.phases.spatial: config.mesh .* does not cover 8 devices"):
        train.train_and_evaluate(config, tmp_path / "run")
    config.phases.spatial.mesh.update(data=8)
    with pytest.raises(ValueError, match=r"config.phases.spatial: A global batch of 4 rows does not divide"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_an_override_of_no_key_is_one_line():
    given = [
        sys.executable, "-m", "experiments.train", "--config", "experiments/configs/quickstart.py",
        "--workdir", "unused", "--config.phases.spatial.lossess.text=2",
    ]  # fmt: skip
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error:") and "--config.phases.spatial.lossess.text=2" in done.stderr


def test_phases_run_in_the_order_given():
    assert tuple(_config("laptop").order) == ("base", "spatial", "teacher", "label", "full")
    config = _config("quickstart")
    config.order = ("base",)
    with pytest.raises(ValueError, match="config.order"):
        as_run(config)


def test_a_weighted_term_needs_its_head():
    config = common.get_config()
    config.lifting.heads = ("depth",)
    with pytest.raises(ValueError, match=r"config.losses weighs \['points', 'ray'\]"):
        assembly.read_settings(config)
    config = common.get_config()
    config.losses.distill = 1.0
    with pytest.raises(ValueError, match="distill_features"):
        assembly.read_settings(config)
