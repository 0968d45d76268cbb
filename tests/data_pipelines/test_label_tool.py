"""The stand-alone tool that labels with Depth Anything 3, whose package is stood in for."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.labels.files import label_path, read_labels
from data_pipelines.storage import open_split
from experiments import label

ROOT = Path(__file__).parents[2]
LAYOUTS = ROOT / "tests/layouts"


@pytest.fixture(scope="module")
def data(four_views):
    return four_views


@pytest.fixture
def tool(data, tmp_path, monkeypatch, capsys):
    """(module of the stand-alone tool, the options that its stand-in was asked for, run(model, *arguments) -> printed)."""
    label.write_pictures(data, tmp_path / "pictures", ["train"])
    export = np.load(LAYOUTS / "teachers/da3_results.npz")
    features = np.random.default_rng(0).standard_normal((4, 4, 40, 6)).astype(np.float32)
    asked, changes = {}, {}

    class Model:
        def __init__(self, name):
            self.name = name

        def to(self, device):
            return self

        def state_dict(self):
            value = types.SimpleNamespace(numpy=lambda: np.array(len(self.name), np.float32))
            value.detach = value.cpu = value.float = lambda: value
            return {"weight": value}

        def inference(self, files, **options):
            asked.update(options, files=[Path(file).read_bytes() for file in files], number=asked.get("number", 0) + 1)
            sky = np.zeros(export["depth"].shape, bool)
            sky[:, :2] = True
            found = dict(
                depth=export["depth"], conf=export["conf"], extrinsics=export["extrinsics"], intrinsics=export["intrinsics"],
                aux={"feat_layer_9": features}, sky=sky, is_metric=1,
            )  # fmt: skip
            return types.SimpleNamespace(**{**found, **changes})

    api = types.ModuleType("depth_anything_3.api")
    api.DepthAnything3 = types.SimpleNamespace(from_pretrained=Model)
    monkeypatch.setitem(sys.modules, "depth_anything_3", types.ModuleType("depth_anything_3"))
    monkeypatch.setitem(sys.modules, "depth_anything_3.api", api)
    spec = importlib.util.spec_from_file_location("label_da3", ROOT / "tools/label_da3.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(model, *arguments):
        places = ["--pictures", str(tmp_path / "pictures"), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["x", *places, "--model", model, *arguments])
        module.main()
        return capsys.readouterr().out

    return types.SimpleNamespace(module=module, asked=asked, changes=changes, features=features, run=run)


def test_the_stand_alone_tool_writes_files_that_we_read(data, tmp_path, tool):
    record = open_split(data, "train")[0]
    tool.run("a/DA3-BASE", "--layer", "9")
    assert tool.asked["ref_view_strategy"] == "first" and tuple(tool.asked["files"]) == record.images
    found = read_labels(tmp_path / "out", record.id, view_ids=record.view_ids, images=record.images, teacher="da3")
    assert found.metric and found.licence == "Apache-2.0" and not found.valid[:, :2].any() and found.valid[:, 2:].all()
    np.testing.assert_allclose(
        found.camera_to_world, np.load(LAYOUTS / "expected/teachers.npz")["da3_camera_to_view0"], atol=2e-5
    )
    assert found.features.shape == (4, 4, 24, 6)
    fine = tool.features.repeat(3, 2).reshape(4, 4, 24, 5, 6).mean(3)  # 40 columns in thirds are 24 in fifths
    np.testing.assert_allclose(found.features, fine, atol=2e-3)
    np.testing.assert_allclose(found.feature_affine[0] @ [24, 4, 1], [64, 48])
    own = [
        line for line in (ROOT / "tools/label_da3.py").read_text().splitlines() if "import " in line and line[0] != " "
    ]
    assert not any(name in line for line in own for name in ("spatialsv_jax", "data_pipelines", "experiments"))


def test_the_tool_keeps_what_it_would_write_again_and_nothing_else(data, tmp_path, tool):
    record = open_split(data, "train")[0]
    kept, written = "0 written, 1 there already", "1 written, 0 there already"
    assert written in tool.run("a/DA3-BASE") and kept in tool.run("a/DA3-BASE")
    # Checking it here adds what was found, and leaves it the tool's.
    assert label.check_labels(data, tmp_path / "out", ["train"])["agreement_5_50_95_percent"]
    assert kept in tool.run("a/DA3-BASE") and tool.asked["number"] == 1
    assert written in tool.run("a/DA3-BASE", "--layer", "9") and kept in tool.run("a/DA3-BASE", "--layer", "9")
    assert written in tool.run("a/DA3-GIANT", "--layer", "9")
    assert read_labels(tmp_path / "out", record.id).licence == "CC BY-NC 4.0"
    path = label_path(tmp_path / "out", record.id)
    path.write_bytes(path.read_bytes()[:-300])
    assert written in tool.run("a/DA3-GIANT", "--layer", "9") and kept in tool.run("a/DA3-GIANT", "--layer", "9")
    views = next((tmp_path / "pictures").glob("*/views.json"))
    views.write_text(views.read_text().replace(json.loads(views.read_text())["images_hash"], "0" * 64))
    assert "its pictures are not those of its views.json" in tool.run("a/DA3-GIANT", "--layer", "9")


def test_the_tool_says_what_it_cannot_label(tmp_path, tool):
    names = {
        "/data/base_models/DA3-GIANT": "CC BY-NC 4.0", "/home/small/da3-large/": "CC BY-NC 4.0", "a/DA3-SMALL": "Apache-2.0",
        "depth-anything/DA3NESTED-GIANT-LARGE-1.1": "CC BY-NC 4.0", "depth-anything/DA3METRIC-LARGE": None, "DA3-BASE/snapshot": None,
    }  # fmt: skip
    assert {name: tool.module.licence_of(name) for name in names} == names
    with pytest.raises(SystemExit):
        tool.run("mine/finetuned")
    tool.run("mine/finetuned", "--licence", "own")
    tool.changes.update(extrinsics=None, intrinsics=None, conf=None)
    with pytest.raises(SystemExit, match="give no cameras"):
        tool.run("a/DA3METRIC-LARGE", "--licence", "Apache-2.0")
    tool.changes.clear()
    tool.changes["aux"] = {"feat_layer_9": np.full((4, 4, 5, 6), 1e5, np.float32)}
    with pytest.raises(SystemExit, match="reach 1e\\+05, which float16 does not hold"):
        tool.run("a/DA3-BASE", "--layer", "9")
    tool.changes.clear()
    first = next((tmp_path / "pictures").iterdir())
    views = json.loads((first / "views.json").read_text())
    for name in ("b", "c"):
        shutil.copytree(first, tmp_path / "pictures" / name)
        (tmp_path / "pictures" / name / "views.json").write_text(json.dumps({**views, "record_id": name}))
    shutil.rmtree(tmp_path / "out")
    for shard, number in (("0/2", 2), ("1/2", 1)):
        assert f"{number} written, 0 there already" in tool.run("a/DA3-BASE", "--shard", shard)
    assert len(list((tmp_path / "out").iterdir())) == 3
    with pytest.raises(SystemExit):
        tool.run("a/DA3-BASE", "--shard", "2/2")
