"""What notebooks show: cells of tables, panels of several runs, maps on one scale, stacked shares."""

from __future__ import annotations

import numpy as np
import pytest

from spatialsv_jax.report import notebook


def test_a_table_shows_plain_values_and_estimates_and_escapes_texts():
    estimate = {"value": 0.12345, "interval_95": [0.1, 0.2]}
    unknown = {"value": None, "interval_95": None}
    row = ["<b>$a", 3, np.float32(0.12345678), np.bool_(True), None, estimate, unknown]
    text = notebook.Table(["<i>", *"123456"], [row])._repr_html_()
    cells = text.split("<tbody>")[1]
    assert "&lt;b&gt;$a" in cells and "&lt;i&gt;" in text and "<b>$a" not in text
    for shown in (">3<", ">0.1235<", ">yes<", '0.123 <span class="ci">0.100 to 0.200</span>'):
        assert shown in cells, shown
    assert cells.count(">–<") == 2


def test_a_diagnosis_is_shown_of_its_own_model_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "b")
    trained = {name: {"path": str(tmp_path / name), "step": 3, "model": name} for name in "ab"}
    trained["later"] = {**trained["b"], "step": 9}
    result = {"data": {"records": 5}, "runs": {name: {"trained": entry} for name, entry in trained.items()}}
    for path, step, name in [("a", 3, "a"), (tmp_path / "b", 3, "b"), ("link", 3, "b"), ("b", 9, "later")]:
        assert notebook.diagnosed_run(result, path, step, 5, None) == name
    for path, step in (("c", 3), ("a", 9)):
        with pytest.raises(
            ValueError, match=rf"not of WORKDIR \(step {step} of .*{path}\), but of a: step 3 of .* Or set OUT"
        ):
            notebook.diagnosed_run(result, path, step, 5, None)

    assert notebook.diagnosed_run(result, "a", 3, 8, 5) == notebook.diagnosed_run(result, "a", 3, 5, 100) == "a"
    for available, count, asked in ((8, None, 8), (8, 4, 4), (5, 2, 2)):
        with pytest.raises(ValueError, match=f"of 5 of {available} records.* asks for {asked}. Set MAX_SCENES = 5"):
            notebook.diagnosed_run(result, "a", 3, available, count)
    del trained["a"]["path"]  # an older diagnosis
    with pytest.raises(ValueError, match="a: step 3 of a folder not noted"):
        notebook.diagnosed_run(result, "a", 3, 5, None)


def test_panels_draw_every_metric_that_a_run_has():
    rows = [{"step": step, "a": 2.0 * step, "b": None} for step in range(5)]
    figure = notebook.panels({"one": rows, "two": rows[:1]}, ["a", "b", "c"], "title")
    (axis,) = figure.axes
    assert axis.get_title(loc="left") == "a" and figure.get_suptitle() == "title"
    (first, _, second, _) = axis.lines
    np.testing.assert_array_equal(first.get_ydata(), [0, 2, 4, 6, 8])
    assert len(second.get_ydata()) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    assert not notebook.panels({"": rows}, ["c"]).axes
    assert len(notebook.panels({"": rows}, ["a"] * 6, columns=4).axes) == 8


def test_maps_stand_below_their_pictures_and_share_a_scale():
    pictures = [np.zeros((6, 8, 3), np.uint8)] * 2
    values, mask = np.arange(2 * 3 * 4.0).reshape(2, 3, 4), np.ones((2, 3, 4), bool)
    mask[0, 0, 0] = False
    maps = {"truth": (values, mask), "guess": (values + 100, mask), "loss": (values, mask)}
    figure = notebook.map_rows(pictures, maps, shared=("truth", "guess", "none"))
    grid = np.array(figure.axes).reshape(4, 3)  # the last column holds the colour bars
    truth, guess, loss = (grid[line, 0].images[0] for line in (1, 2, 3))
    assert truth.get_clim() == guess.get_clim() != loss.get_clim()
    assert np.ma.getmaskarray(np.ma.masked_invalid(truth.get_array()))[0, 0]
    assert [axis.get_ylabel() for axis in grid[1:, 0]] == list(maps)
    (axis, *_) = notebook.map_rows((), {"mask": (mask, np.ones_like(mask))}).axes
    assert axis.images[0].get_clim() == (0, 1)
    for given in (((), {}), (pictures[:1], maps)):
        with pytest.raises(ValueError, match="expected one number"):
            notebook.map_rows(*given)


def test_shares_are_stacked_in_one_order():
    figure = notebook.stacked({"a": {"text": 0.75, "depth": 0.25}, "b": {"depth": 1.0}}, "share")
    bars = {(bar.get_x(), bar.get_width()) for bar in figure.axes[0].patches}
    assert bars == {(0.0, 0.75), (0.75, 0.25), (0.0, 0.0), (0.0, 1.0)}
