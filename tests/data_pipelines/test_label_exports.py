"""Labels from other programs: exports of Depth Anything 3 and VGGT, checks on arrival, and the stand-alone tool."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from loader_fakes import processor

from data_pipelines.labels.arrival import agreement, check_arrival
from data_pipelines.labels.exports import picture_place, read_export
from data_pipelines.labels.files import LabelError, label_path, read_labels
from data_pipelines.loader import DataConfig, SourceConfig, make_loader
from data_pipelines.sources import SOURCES
from data_pipelines.storage import open_split
from experiments import label
from experiments.prepare import prepare

ROOT = Path(__file__).parents[2]
LAYOUTS = ROOT / "tests/layouts"
FILES = {
    "da3": ("da3_results.npz", "exports/mini_npz/results.npz"),
    "vggt": ("vggt_predictions.npz", "predictions.npz"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A record of the four views that the exports show, at another size."""
    out = tmp_path_factory.mktemp("data") / "scene"
    settings = SOURCES["nerfstudio"].settings(raw=str(LAYOUTS / "nerfstudio"), views=4)
    prepare("nerfstudio", settings, out, workers=None, progress=False)
    return out


@pytest.fixture(params=FILES)
def exported(request, data, tmp_path):
    """(teacher, folder of exports, record)."""
    record = open_split(data, "train")[0]
    file, name = FILES[request.param]
    place = tmp_path / "exports" / label_path("", record.id).name.removesuffix(".npz") / name
    place.parent.mkdir(parents=True)
    shutil.copy(LAYOUTS / "teachers" / file, place)
    return request.param, tmp_path / "exports", record, place


def test_exports_become_labels_in_the_first_views_frame(exported, data, tmp_path):
    teacher, exports, record, _ = exported
    manifest = label.label_exports(
        teacher, exports, data, tmp_path / "out", ["train"], "weights-1", "", licence="CC BY-NC 4.0"
    )
    assert (manifest["written"], manifest["without_export"], manifest["masked_for_disagreement"]) == (1, 0, 0)
    found = read_labels(tmp_path / "out", record.id, view_ids=record.view_ids, images=record.images, teacher=teacher)
    wanted = np.load(LAYOUTS / "expected/teachers.npz")
    np.testing.assert_allclose(found.camera_to_world, wanted[f"{teacher}_camera_to_view0"], atol=2e-5)
    np.testing.assert_allclose(found.intrinsics, wanted[f"{teacher}_intrinsics"], atol=1e-4)
    np.testing.assert_allclose(found.depth[found.valid], wanted[f"depth_{teacher}"][found.valid], rtol=1e-6)
    assert found.licence == "CC BY-NC 4.0" and not found.metric and found.checkpoint == "weights-1"
    assert manifest["agreement_5_50_95_percent"][1] > 0.9  # one room, four true views
    again = label.label_exports(teacher, exports, data, tmp_path / "out", ["train"], "weights-1")
    assert (again["written"], again["kept"]) == (0, 1)


def test_a_loader_trains_on_them(exported, data, tmp_path):
    teacher, exports, record, _ = exported
    out = tmp_path / "out"
    label.label_exports(teacher, exports, data, out, ["train"], "weights-1", metric=teacher == "da3")
    source = SourceConfig(path=str(data), per_batch=1, text=False, labels=str(out), features="none")
    config = DataConfig(sources=(source,), questions=1, views=4, label_size=(24, 32), threads=0)
    batch = make_loader(config, processor()).batch(0)
    assert batch["has_geometry"].all() and batch["depth_valid"].all()
    assert (batch["scene_scale_m"][0] > 0) == (teacher == "da3")  # metric scale is kept where the teacher has it


def test_scenes_whose_views_disagree_are_masked_and_counted(exported, data, tmp_path):
    teacher, exports, record, place = exported
    values = dict(np.load(place))
    name = "extrinsics" if teacher == "da3" else "extrinsic"
    values[name] = values[name].copy()
    values[name][1:, :, 3] += [0.9, -0.7, 0.8]
    values.pop("world_points_from_depth", None)
    np.savez(place, **values)
    manifest = label.label_exports(teacher, exports, data, tmp_path / "out", ["train"], "w", least=0.7)
    assert manifest["masked_for_disagreement"] == 1
    assert not read_labels(tmp_path / "out", record.id).valid.any()
    lines = [json.loads(line) for line in (tmp_path / "out/agreement-0.jsonl").read_text().splitlines()]
    assert lines[0]["id"] == record.id and lines[0]["agreement"] < 0.7


def test_points_that_do_not_follow_from_depth_and_cameras_are_refused(tmp_path):
    values = dict(np.load(LAYOUTS / "teachers/vggt_predictions.npz"))
    values["world_points_from_depth"] = values["world_points_from_depth"] * [1, -1, 1]
    np.savez(tmp_path / "predictions.npz", **values)
    texts = dict(view_ids=tuple("abcd"), checkpoint="w", images_hash="i")
    with pytest.raises(
        ValueError, match="'world_points_from_depth': the stated points lie .* Depth and cameras do not belong"
    ):
        read_export(tmp_path / "predictions.npz", "vggt", [(70, 56)] * 4, "crop", **texts)


@pytest.mark.parametrize("change, message", [
    (lambda v: v.pop("conf"), "fields \\['conf'\\] are missing"),
    (lambda v: v.update(depth=v["depth"][:3]), "depth is \\(3, 56, 70\\), the record has 4 views"),
    (lambda v: v.update(conf=v["conf"][:, :5]), "arrays of unexpected shapes {'conf': \\(4, 5, 70\\)}"),
    (lambda v: v.update(extrinsics=v["extrinsics"] * 2), "'extrinsics' holds no rigid motions"),
])  # fmt: skip
def test_broken_exports_are_named(change, message, tmp_path):
    values = dict(np.load(LAYOUTS / "teachers/da3_results.npz"))
    change(values)
    np.savez(tmp_path / "results.npz", **values)
    with pytest.raises(LabelError, match=message):
        read_export(
            tmp_path / "results.npz",
            "da3",
            [(70, 56)] * 4,
            "resize",
            view_ids=tuple("abcd"),
            checkpoint="w",
            images_hash="i",
        )
    (tmp_path / "results.npz").write_bytes(b"PK broken")
    with pytest.raises(LabelError, match="cannot be read"):
        read_export(
            tmp_path / "results.npz",
            "da3",
            [(70, 56)] * 4,
            "resize",
            view_ids=tuple("abcd"),
            checkpoint="w",
            images_hash="i",
        )


def test_where_the_picture_lies_in_what_the_teacher_saw():
    affine, inside = picture_place((640, 480), (378, 504), "resize")
    np.testing.assert_allclose(affine, [[640 / 504, 0, 0], [0, 480 / 378, 0]])
    assert inside.all()
    affine, inside = picture_place((480, 640), (518, 518), "crop")  # 686 rows, the middle 518 are kept
    np.testing.assert_allclose(affine @ [0, 0, 1], [0, 84 * 640 / 686])
    np.testing.assert_allclose(affine @ [518, 518, 1], [480, 602 * 640 / 686])
    assert inside.all()
    affine, inside = picture_place((480, 640), (518, 518), "pad")  # 392 columns (28 patches) in the middle
    np.testing.assert_allclose(affine @ [63, 0, 1], [0, 0], atol=1e-9)
    np.testing.assert_allclose(affine @ [455, 518, 1], [480, 640])
    assert inside.sum() == 392 * 518 and not inside[:, :63].any()


def test_views_that_see_nothing_of_each_other_are_not_judged(exported, data, tmp_path):
    teacher, exports, record, place = exported
    texts = dict(view_ids=record.view_ids, checkpoint="w", images_hash="i")
    labels = read_export(place, teacher, [(64, 48)] * 4, "resize", **texts)
    labels.camera_to_world[1:, :3, 3] += 100.0 * np.arange(1, 4)[:, None]
    assert agreement(labels) is None
    kept, found = check_arrival(labels, 0.9)
    assert kept is labels and not found.masked


def test_the_stand_alone_tool_writes_files_that_we_read(data, tmp_path, monkeypatch, capsys):
    assert label.write_pictures(data, tmp_path / "pictures", ["train"]) == 1
    record = open_split(data, "train")[0]
    export = np.load(LAYOUTS / "teachers/da3_results.npz")
    features = np.random.default_rng(0).standard_normal((4, 4, 40, 6)).astype(np.float32)
    asked = {}

    class Model:
        def to(self, device):
            return self

        def state_dict(self):
            return {}

        def inference(self, files, **options):
            asked.update(options, files=[Path(file).read_bytes() for file in files])
            sky = np.zeros(export["depth"].shape, bool)
            sky[:, :2] = True
            return types.SimpleNamespace(
                depth=export["depth"], conf=export["conf"], extrinsics=export["extrinsics"], intrinsics=export["intrinsics"],
                aux={"feat_layer_9": features}, sky=sky, is_metric=1,
            )  # fmt: skip

    api = types.ModuleType("depth_anything_3.api")
    api.DepthAnything3 = types.SimpleNamespace(from_pretrained=lambda name: Model())
    monkeypatch.setitem(sys.modules, "depth_anything_3", types.ModuleType("depth_anything_3"))
    monkeypatch.setitem(sys.modules, "depth_anything_3.api", api)
    spec = importlib.util.spec_from_file_location("label_da3", ROOT / "tools/label_da3.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    argv = [
        "x",
        "--pictures",
        str(tmp_path / "pictures"),
        "--out",
        str(tmp_path / "out"),
        "--model",
        "a/DA3-BASE",
        "--layer",
        "9",
    ]
    monkeypatch.setattr(sys, "argv", argv)
    tool.main()
    assert asked["ref_view_strategy"] == "first" and tuple(asked["files"]) == record.images
    found = read_labels(tmp_path / "out", record.id, view_ids=record.view_ids, images=record.images, teacher="da3")
    assert found.metric and found.licence == "Apache-2.0" and not found.valid[:, :2].any() and found.valid[:, 2:].all()
    np.testing.assert_allclose(
        found.camera_to_world, np.load(LAYOUTS / "expected/teachers.npz")["da3_camera_to_view0"], atol=2e-5
    )
    assert found.features.shape == (4, 4, 24, 6)
    fine = features.repeat(3, 2).reshape(4, 4, 24, 5, 6).mean(3)  # 40 columns in thirds are 24 in fifths
    np.testing.assert_allclose(found.features, fine, atol=2e-3)
    np.testing.assert_allclose(found.feature_affine[0] @ [24, 4, 1], [64, 48])
    tool.main()
    assert "0 written, 1 there already" in capsys.readouterr().out
    own = [
        line for line in (ROOT / "tools/label_da3.py").read_text().splitlines() if "import " in line and line[0] != " "
    ]
    assert not any(name in line for line in own for name in ("spatialsv_jax", "data_pipelines", "experiments"))
