"""Arguments of prepare and extract: what makes no sense is one line that says what was expected, in every source."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from raw_layouts import LAYOUTS, STATED, made

from data_pipelines import flags
from data_pipelines.manifest import PrepareError
from data_pipelines.sources import SOURCES
from data_pipelines.sources.posed.scene import inside
from experiments import extract, prepare


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_numbers_must_be_finite_in_every_source(source, tmp_path, capsys):
    """Every field that is a number, given NaN or infinity, is refused before anything is looked at."""
    hints = {field.name: field.default for field in dataclasses.fields(SOURCES[source].settings)}
    numbers = [name for name, value in hints.items() if isinstance(value, float)]
    assert numbers or source in ("scannet", "scannetpp", "arkitscenes", "sevenscenes", "colmap", "pictures")
    base = ["--source", source, "--dry_run"] + (["--scenes", "1"] if source == "rooms" else ["--raw", str(tmp_path)])
    for name in numbers:
        for value in ("nan", "inf", "-inf"):
            assert prepare.main([*base, f"--{name}={value}"]) == 1
            said = capsys.readouterr().err
            assert name in said and value.strip("-") in said and "Traceback" not in said
    assert prepare.main([*base, "--seed", "9" * 30]) == 1
    assert "seed" in capsys.readouterr().err


def test_bounds_stand_with_the_flags():
    @dataclasses.dataclass(frozen=True)
    class Settings:
        step: float = flags.flag(1.0, "", above=0)
        camera: tuple = flags.flag((), "")
        on: bool = flags.flag(True, "")

    assert not flags.wrong_numbers(Settings(camera=(1, 2.0)))
    assert flags.wrong_numbers(Settings(step=0.0)) == ["--step is 0.0, expected a number above 0"]
    found = flags.wrong_numbers(Settings(step=float("nan"), camera=(1, float("inf"), 10**400)))
    assert [text.split(" is ")[0] for text in found] == ["--step", "--camera", "--camera"]
    for source, name in (("tum", "tolerance"), ("nerfstudio", "depth_step")):
        with pytest.raises(PrepareError, match=f"--{name} is 0, expected a number above 0"):
            made(source, LAYOUTS / source, **{name: 0}, **(STATED if source == "tum" else {}))
    with pytest.raises(PrepareError, match="--depth_unit is nan, expected a finite number"):
        made("posed_rgbd", LAYOUTS / "scannet/exported", depth_unit=float("nan"))


@pytest.mark.parametrize("source", sorted(set(SOURCES) - {"rooms"}))
def test_a_file_in_place_of_the_folder(source, tmp_path, capsys):
    (tmp_path / "file.txt").write_text("x")
    assert prepare.main(["--source", source, "--raw", str(tmp_path / "file.txt"), "--dry_run"]) == 1
    assert "file.txt' is not a folder" in capsys.readouterr().err


def test_names_of_files_are_names(tmp_path, capsys):
    """Whatever a name looks like: a number, a setting, several."""
    row = {"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Left."}]}
    for name in ("123", "a=b.jsonl", "1e5"):
        (tmp_path / name).write_text(json.dumps([row]) if "." not in name else json.dumps(row))
    flags_ = ["--source", "messages", "--raw", str(tmp_path), "--dry_run", "--files"]
    for files in ("123", "a=b.jsonl", "123, a=b.jsonl,1e5"):
        assert prepare.main([*flags_, files]) == 0
        assert f"{len(files.split(','))} rows can be used" in capsys.readouterr().out
    assert prepare.main([*flags_, "none.jsonl"]) == 1
    assert "none.jsonl" in capsys.readouterr().err


def test_absolute_names_below_the_folder_are_that(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.jpg").write_bytes(b"")
    (tmp_path / "ab.jpg").write_bytes(b"")
    assert inside(tmp_path / "a", str(tmp_path / "a/b/x.jpg")) == tmp_path / "a/b/x.jpg"
    for name in (str(tmp_path / "ab.jpg"), str(tmp_path / "a/../ab.jpg"), "/etc/passwd", str(tmp_path)):
        with pytest.raises(PrepareError, match="leads out of the folder"):
            inside(tmp_path / "a", name)
    (tmp_path / "a/link.jpg").symlink_to(tmp_path / "ab.jpg")
    with pytest.raises(PrepareError, match="through a link"):
        inside(tmp_path / "a", str(tmp_path / "a/link.jpg"))
    raw = shutil.copytree(LAYOUTS / "nerfstudio", tmp_path / "nerf")
    values = json.loads((raw / "transforms.json").read_text())
    for frame in values["frames"]:
        frame["file_path"] = str(raw / frame["file_path"])
    (raw / "transforms.json").write_text(json.dumps(values))
    assert (
        made("nerfstudio", raw, views=4)[0][0].images
        == made("nerfstudio", LAYOUTS / "nerfstudio", views=4)[0][0].images
    )


def test_a_folder_in_place_of_archives_is_named_as_that(tmp_path, capsys):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/a.zip").write_bytes(b"")
    assert extract.main(["--archives", str(tmp_path / "downloads"), "--raw", str(tmp_path / "raw")]) == 1
    said = capsys.readouterr().err
    assert "downloads is a folder. Give the archives themselves" in said and "a.zip" in said
    for name, value in (("max_gb", "nan"), ("max_ratio", "-1"), ("max_gb", "0")):
        given = ["--archives", str(tmp_path / "downloads/a.zip"), "--raw", str(tmp_path / "raw"), f"--{name}={value}"]
        assert extract.main(given) == 1
        assert f"--{name} is {float(value)}" in capsys.readouterr().err
