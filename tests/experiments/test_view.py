"""Joining reports: scenes and names arrive, mistakes name the file."""

from __future__ import annotations

import json

import pytest

from experiments import evaluate, view


def _report(folder, run="a run", scripts=("scenes/scene1.js",), data_sha256="1" * 64):
    scenes = [{"id": f"room {i}", "script": script, "clouds": [], "questions": []} for i, script in enumerate(scripts)]
    for script in scripts:
        (folder / script).parent.mkdir(parents=True, exist_ok=True)
        (folder / script).write_text(f"of {run}")
    data = {"format": 1, "runs": [{"name": run, "scenes": scenes}], "colours": {}}
    if data_sha256:
        data["runs"][0]["data_sha256"] = data_sha256
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
        ('{"format": 1, "runs": [{"data_sha256": 1, "scenes": []}]}', "is broken (data_sha256 is 1)"),
    ):
        (bad / "viewer.json").write_text(text)
        assert f"bad/viewer.json {expected}" in message(bad)
    data = json.loads((good / "viewer.json").read_text())
    data["runs"][0]["scenes"][0]["script"] = "../../elsewhere.js"
    (bad / "viewer.json").write_text(json.dumps(data))
    assert "names the scene ../../elsewhere.js, which is not below the report" in message(bad)


def test_reports_of_different_data_are_refused(tmp_path, capsys):
    one, other = _report(tmp_path / "one"), _report(tmp_path / "other", data_sha256="2" * 64)
    old = _report(tmp_path / "old", data_sha256=None)
    out = tmp_path / "out"
    assert view.main(["--reports", str(one), str(old), str(other), "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert f"{one} is of other data than {other} (data_sha256 111111111111 and 222222222222)" in message
    assert not out.exists()
    # An older report does not say: accepted, with a line.
    assert view.main(["--reports", str(one), str(old), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{old} does not say of which data its scenes are")
    # A joined page says it of each run, so joining it again finds the difference.
    with pytest.raises(ValueError, match="other data than"):
        view.join_reports([out, other], tmp_path / "again")


def test_no_report_is_overwritten(tmp_path, capsys):
    read, other = _report(tmp_path / "a" / "report"), _report(tmp_path / "b" / "report", run="another")
    page = tmp_path / "pages"
    page.mkdir()
    (page / "index.html").write_text("a report without clouds has no viewer.json")
    (tmp_path / "link").symlink_to(read)

    def files():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = files()
    for out, message in (
        (read, f"is the report {read}"),
        (tmp_path / "link", f"is the report {read}"),
        (tmp_path / "a", f"holds the report {read}"),
        (other, "has a page of its own"),
        (page, "has a page of its own"),
    ):
        assert view.main(["--reports", str(read), "--out", str(out)]) == 2
        assert f"--out {out} {message}" in capsys.readouterr().err
        assert files() == before
    # A joined page is written again; not while it is read.
    joined = tmp_path / "joined"
    view.join_reports([read, other], joined)
    view.join_reports([other, read], joined)
    assert [run["name"] for run in json.loads((joined / "viewer.json").read_text())["runs"]] == ["another", "a run"]
    with pytest.raises(ValueError, match="is the report"):
        view.join_reports([joined, read], joined)


def test_report_like_wants_a_report_of_the_same_data(tmp_path, capsys):
    report = str(_report(tmp_path / "one"))
    evaluate._check_like(report, "data/rooms", "1" * 64)
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="one is of other data than data/rooms"):
        evaluate._check_like(report, "data/rooms", "2" * 64)
    evaluate._check_like(str(_report(tmp_path / "old", data_sha256=None)), "data/rooms", "2" * 64)
    assert "old does not say of which data" in capsys.readouterr().out


def test_nothing_to_join_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="--reports is empty"):
        view.join_reports([], tmp_path)
