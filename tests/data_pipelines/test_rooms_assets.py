"""The user's own meshes: read, oriented, coloured, mixed in; bad ones left out with a reason."""

import json

import numpy as np
import pytest
import trimesh
from PIL import Image

from data_pipelines.rooms import assets
from data_pipelines.rooms.config import RoomsConfig
from data_pipelines.rooms.generate import make_record, question_words
from data_pipelines.rooms.layout import make_scene
from data_pipelines.rooms.questions import vocabulary
from data_pipelines.storage import open_split
from experiments import prepare
from experiments.configs import common
from experiments.starting import processor_for
from spatialsv_jax import assembly


def _wedge(rgb=(30, 60, 210)) -> trimesh.Trimesh:
    """y up, 1 x 2 x 3, with a small block at the front (+z)."""
    body = trimesh.creation.box((1.0, 2.0, 2.0))
    body.apply_translation((0, 1.0, -0.5))
    front = trimesh.creation.box((0.2, 0.2, 1.0))
    front.apply_translation((0, 0.1, 1.0))
    mesh = trimesh.util.concatenate([body, front])
    mesh.visual = trimesh.visual.ColorVisuals(mesh, face_colors=np.tile([*rgb, 255], (len(mesh.faces), 1)))
    return mesh


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "MAX_FACES", 500)
    inside = tmp_path / "assets"
    inside.mkdir()
    _wedge().export(inside / "rocket.glb")
    _wedge((215, 30, 30)).export(tmp_path / "outside.glb")
    trimesh.creation.box((1, 1, 1)).export(inside / "cube.obj")
    trimesh.creation.icosphere(subdivisions=4).export(inside / "huge.glb")
    (inside / "empty.obj").write_text("v 0 0 0\n")
    (inside / "nan.obj").write_text("v nan 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\n")
    (inside / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (inside / "broken.glb").write_bytes(b"not a mesh")
    good = {"category": "statue", "size": [0.6, 0.9, 0.8], "stands_on": "floor"}
    entries = [
        {"name": "rocket", **good},
        {"name": "cube", "category": "box", "size": [0.2, 0.2, 0.2], "stands_on": ["table", "desk"]},
        {"name": "outside", "file": "../outside.glb", **good},
        {"name": "link", "file": "link.glb", **good},
        {"name": "huge", **good},
        {"name": "empty", **good},
        {"name": "nan", **good},
        {"name": "flat", **good},
        {"name": "broken", **good},
        {"name": "missing", **good},
        {"name": "words", "file": "rocket.glb", **good, "category": "Big Statue"},
        {"name": "giant", "file": "rocket.glb", **good, "size": [0.6, 900, 0.8]},
        {"name": "sizeless", "file": "rocket.glb", "category": "statue"},
        {"name": "rocket", **good},
        "rocket",
        {"name": "support", "file": "rocket.glb", **good, "stands_on": 5},
        {"name": "colour", "file": "rocket.glb", **good, "category": "red"},
        {"name": "answer", "file": "rocket.glb", **good, "category": "left"},
        {"name": "lost", "file": "rocket.glb", **good, "stands_on": ["tabel"]},
        {"name": "upper", "file": "rocket.glb", "category": "vase", "size": [1, 1, 1], "stands_on": ["crown"]},
        {"name": "lower", "file": "rocket.glb", "category": "crown", "size": [1, 1, 1], "stands_on": ["nothing"]},
        {"name": "truth", "file": "rocket.glb", **good, "ood": "yes"},
    ]
    (inside / "link.glb").symlink_to(tmp_path / "outside.glb")
    (inside / "catalog.json").write_text(json.dumps(entries))
    return inside


def test_bad_meshes_are_left_out_with_their_reason(folder):
    library = assets.load_assets(str(folder))
    assert [asset.name for asset in library.assets] == ["rocket", "cube"]
    reasons = dict(library.left_out)
    assert len(library.left_out) == 20
    for name, words in {
        "outside": "outside the folder",
        "link": "outside the folder",
        "huge": "faces, more than 500",
        "empty": "empty",
        "nan": "NaN",
        "flat": "flat",
        "broken": "cannot be read",
        "missing": "file missing: missing.glb or missing.obj",
        "words": "not one lower-case word",
        "giant": "0.01 to 6 metres",
        "sizeless": "size None",
        "rocket": "name occurs twice",
        "entry 14": "not an object",
        "support": "stands_on 5 is not",
        "colour": "category 'red' is a colour or another word",
        "answer": "category 'left' is a colour or another word",
        "lost": "stands_on names ['tabel'], which no room has",
        "upper": "stands_on names ['crown'], which no room has",
        "lower": "stands_on names ['nothing'], which no room has",
        "truth": "ood 'yes' is not true or false",
    }.items():
        assert words in reasons[name], (name, reasons[name])


def test_size_axes_and_colour(folder):
    rocket = assets.load_assets(str(folder)).assets[0]
    vertices = rocket.model.vertices
    np.testing.assert_allclose(vertices.min(0), [-0.3, -0.45, 0.0], atol=1e-6)
    np.testing.assert_allclose(vertices.max(0), [0.3, 0.45, 0.8], atol=1e-6)
    front = vertices[vertices[:, 1] < -0.44]  # the block of the file's +z side, low and narrow
    assert front[:, 2].max() < 0.2 and np.abs(front[:, 0]).max() < 0.1
    assert rocket.colour == "blue" and rocket.placement == "any"
    assert rocket.model.face_slot.max() < len(rocket.materials)


def test_textures_and_plain_materials_give_colours(tmp_path):
    mesh = trimesh.creation.box((1, 1, 1))
    uv = mesh.vertices[:, :2] * 0.98 + 0.5
    picture = Image.fromarray(np.tile(np.array([250, 215, 40], np.uint8), (8, 8, 1)))
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, image=picture)
    mesh.export(tmp_path / "textured.glb")
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[122, 40, 168, 255])
    mesh.visual = trimesh.visual.TextureVisuals(material=material)
    mesh.export(tmp_path / "plain.glb")
    good = {"category": "crate", "size": [0.5, 0.5, 0.5], "stands-on": "floor"}
    (tmp_path / "catalog.json").write_text(
        json.dumps({"assets": [{"name": name, **good} for name in ("textured", "plain")]})
    )
    library = assets.load_assets(str(tmp_path))
    assert [asset.colour for asset in library.assets] == ["yellow", "purple"], library.left_out


def test_obj_materials_outside_the_folder_are_not_read(tmp_path):
    inside = tmp_path / "assets"
    inside.mkdir()
    (tmp_path / "secret.mtl").write_text("newmtl a\nKd 1 0 0\n")
    lines = [
        "mtllib ../secret.mtl",
        "usemtl a",
        "v 0 0 0",
        "v 1 0 0",
        "v 0 1 0",
        "v 0 0 1",
        "f 1 3 2",
        "f 1 2 4",
        "f 1 4 3",
    ]
    (inside / "spy.obj").write_text("\n".join(lines))
    entry = {"name": "spy", "category": "crate", "size": [0.5, 0.5, 0.5]}
    (inside / "catalog.json").write_text(json.dumps([entry]))
    library = assets.load_assets(str(inside))
    assert not library.assets or library.assets[0].colour != "red"
    with pytest.raises(ValueError, match="outside the folder"):
        assets._FolderResolver(inside / "spy.obj", inside).get("../secret.mtl")


def test_assets_are_mixed_into_rooms(folder):
    config = RoomsConfig(
        assets=str(folder), asset_share=1.0, categories=("table", "statue", "box"), small_objects=(4, 6)
    )
    shapes = {}
    for seed in range(6):
        scene = make_scene(seed, "train", config)
        for item in scene.objects:
            shapes.setdefault(item.category, set()).add(item.shape)
            if item.shape == "rocket":
                np.testing.assert_allclose(item.size, [0.6, 0.9, 0.8])
                assert item.stands_on is None and abs(item.vertices[:, 2].min()) < 1e-5
                assert item.face_material.max() < len(scene.materials)
            if item.shape == "cube":
                assert scene.objects[item.stands_on].category == "table"
    assert shapes == {"table": {"parametric"}, "statue": {"rocket"}, "box": {"cube"}}


def test_the_ood_split_shows_its_own_meshes_alone(folder):
    entries = json.loads((folder / "catalog.json").read_text())[:2]
    statue = {"file": "rocket.glb", "category": "statue", "size": [0.6, 0.9, 0.8], "ood": True}
    (folder / "catalog.json").write_text(json.dumps([*entries, {"name": "other", **statue}]))
    config = RoomsConfig(assets=str(folder), asset_share=1.0, categories=("table", "statue", "box"))
    shapes = {
        split: {item.shape for seed in range(4) for item in make_scene(seed, split, config).objects}
        for split in ("train", "test", "ood")
    }
    assert "rocket" in shapes["train"] and "rocket" in shapes["test"]
    assert "other" in shapes["ood"] and not {"rocket", "cube"} & shapes["ood"]
    assert "other" not in shapes["train"] | shapes["test"]


def test_asset_categories_extend_the_vocabulary(folder):
    config = RoomsConfig(assets=str(folder), asset_share=1.0, categories=("table", "statue", "box"), size=32, views=2)
    words = question_words(config)
    assert set(words.categories) == {"table", "statue", "box"}
    assert "statue" in vocabulary(words) and "statue" not in vocabulary()
    record, stats = make_record(config, "train", 0)
    assert stats["assets_left_out"] == 20
    known = set(vocabulary(words))
    answers = {word for question in record.questions if question.form == "word" for word in question.answer.split()}
    assert answers <= known, answers - known


def test_a_model_can_be_trained_on_new_categories(folder, tmp_path):
    prepare.main(
        f"--source rooms --assets {folder} --asset_share 1 --categories table,statue,box --size 32 --views 2 --scenes 4"
        f" --validation 0 --test 0 --ood 0 --workers 1 --quiet --out {tmp_path / 'data'}".split()
    )
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["vocabulary"] == ["statue"]
    config = common.get_config()
    config.vision.image_size = 32
    processor = processor_for(config, assembly.read_settings(config), {"rooms": manifest})
    records = open_split(tmp_path / "data", "train")
    texts = {question.text for record in records for question in record.questions}
    assert any("statue" in text for text in texts)
    assert processor.knows("statue") and not processor_for(config, assembly.read_settings(config), {}).knows("statue")


def test_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no catalog.json"):
        assets.load_assets(str(tmp_path))
    (tmp_path / "catalog.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        assets.load_assets(str(tmp_path))
    (tmp_path / "catalog.json").write_text("3")
    with pytest.raises(ValueError, match="must hold a list"):
        assets.load_assets(str(tmp_path))
