"""Joining reports: scenes and names arrive, mistakes name the file."""

from __future__ import annotations

import json

import pytest

from experiments import view


def _report(folder, run="a run", scripts=("scenes/scene1.js",)):
    scenes = [{"id": f"room {i}", "script": script, "clouds": [], "questions": []} for i, script in enumerate(scripts)]
    for script in scripts:
        (folder / script).parent.mkdir(parents=True, exist_ok=True)
        (folder / script).write_text(f"of {run}")
    data = {"format": 1, "runs": [{"name": run, "scenes": scenes}], "colours": {}}
    (folder / "viewer.json").write_text(json.dumps(data))
    return folder


def test_scenes_and_names_of_all_reports_arrive(tmp_path, capsys):
    reports = [_report(tmp_path / "x", scripts=("scenes/a.js", "scenes/b.js")), _report(tmp_path / "y")]
    out = tmp_path / "out"
    assert view.main(["--reports", *map(str, reports), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out / 'index.html'}\n"
    runs = json.loads((out / "viewer.json").read_text())["runs"]
    assert [run["name"] for run in runs] == ["a run (1)", "a run (2)"]
    scripts = [[scene["script"] for scene in run["scenes"]] for run in runs]
    assert scripts == [["scenes/run1/a.js", "scenes/run1/b.js"], ["scenes/run2/scene1.js"]]
    assert all((out / script).read_text() == "of a run" for run in scripts for script in run)
    assert (out / "viewer.js").is_file()
    # A joined page is a report as well.
    view.join_reports([out, reports[0]], tmp_path / "again", ["old", "new"])
    assert [run["name"] for run in json.loads((tmp_path / "again" / "viewer.json").read_text())["runs"]] == [
        "old (1)",
        "old (2)",
        "new",
    ]


def test_mistakes_end_with_2_and_name_the_file(tmp_path, capsys):
    good, bad = _report(tmp_path / "good"), _report(tmp_path / "bad")

    def message(*arguments):
        assert view.main(["--out", str(tmp_path / "out"), "--reports", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "none/viewer.json is missing" in message(good, tmp_path / "none")
    assert "--names has 1 names, expected one for each of the 2" in message(good, bad, "--names", "x")
    (bad / "scenes" / "scene1.js").unlink()
    assert "bad/scenes/scene1.js is missing. Copy the whole report" in message(good, bad)
    for text, expected in (
        ("{", "is broken"),
        ('{"format": 9}', "has format 9, expected 1"),
        ('{"format": 1}', "is broken"),
    ):
        (bad / "viewer.json").write_text(text)
        assert f"bad/viewer.json {expected}" in message(bad)
    data = json.loads((good / "viewer.json").read_text())
    data["runs"][0]["scenes"][0]["script"] = "../../elsewhere.js"
    (bad / "viewer.json").write_text(json.dumps(data))
    assert "names the scene ../../elsewhere.js, which is not below the report" in message(bad)


def test_nothing_to_join_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="--reports is empty"):
        view.join_reports([], tmp_path)
