"""The viewer in headless Chromium, from files: what it shows is what the npz says, and every control does its work."""

from __future__ import annotations

import base64
import io
import json
import shutil

import matplotlib
import numpy as np
import pytest
from PIL import Image
from viewer_pages import EVIL, write_pages

from benchmarks.browser import Browser, find_browser
from spatialsv_jax.report import images, scene_blob

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find_browser() is None, reason="no Chromium: apt-get install chromium, or set CHROMIUM to its path"
    ),
]
STATUS = "p.status[aria-live]"
READY = "document.getElementById('viewer').dataset.state == 'ready'"


@pytest.fixture(scope="module")
def page(room, tmp_path_factory):
    """Folder of the pages of `viewer_pages`."""
    return write_pages(room, tmp_path_factory.mktemp("viewer"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture
def opened(browser, page):
    """Opens a page, waits for its first scene, and finds no problem afterwards."""

    def load(name="report0", size=(1400, 900)):
        browser.resize(*size)
        browser.problems.clear()
        browser.open(page / name / "index.html")
        browser.wait(f"document.getElementById('viewer') && {READY}")
        return browser

    yield load
    assert browser.problems == []


def _stage(browser):
    """Left, top, width and height of the canvas in the window."""
    box = browser.run("JSON.stringify(document.querySelector('#viewer canvas').getBoundingClientRect())")
    return tuple(json.loads(box)[key] for key in ("left", "top", "width", "height"))


def _picture(browser):
    settle(browser)
    return np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB")).astype(int)


def settle(browser):
    """Until what was asked for is on the screen."""
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))")


def _set(browser, label, value):
    """Changes the control of a label as a hand would: checked, chosen or moved."""
    browser.run(
        f"""(() => {{
          const label = [...document.querySelectorAll('#viewer label')].find((one) => one.textContent.trim().startsWith({json.dumps(label)}));
          const control = label.querySelector('input, select'), value = {json.dumps(value)};
          if (control.type === 'checkbox') {{ if (control.checked !== value) control.click(); return; }}
          control.value = value;
          control.dispatchEvent(new Event('input', {{bubbles: true}}));
          control.dispatchEvent(new Event('change', {{bubbles: true}}));
        }})()"""
    )
    settle(browser)


def _texts(browser, selector):
    return browser.run(
        f"[...document.querySelectorAll({json.dumps('#viewer ' + selector)})].map((one) => one.textContent)"
    )


def _pick(browser, across, down):
    """Clicks at a share of the canvas; the facts of the point and the colour of that pixel of the screen."""
    left, top, width, height = _stage(browser)
    x, y = int(left + across * width), int(top + down * height)
    browser.click(x + 0.5, y + 0.5)
    facts = browser.run("({...document.querySelector('#viewer .point').dataset})")
    return facts, _picture(browser)[y, x]


@pytest.mark.parametrize("across, cloud", [(0.25, "true"), (0.75, "points head"), (0.6, "points head")])
def test_a_picked_point_is_that_of_the_npz(opened, page, across, cloud):
    browser = opened()
    facts, pixel = _pick(browser, across, 0.4)
    assert facts["cloud"] == cloud
    row = int(facts["row"])
    with np.load(page / "report0" / "scene0.npz", allow_pickle=False) as arrays:
        points, colours = arrays[f"{cloud.replace(' ', '_')}/points"], arrays["colours"]
        step = np.ptp(points[np.isfinite(points).all(-1)], axis=0) / 65535
        shown = np.array([float(value) for value in facts["position"].split()])
        assert (np.abs(shown - points[row]) <= 0.51 * step + 1e-6).all()
        np.testing.assert_array_equal([int(value) for value in facts["colour"].split()], colours[row])
        np.testing.assert_array_equal(pixel, colours[row])  # and on the screen
        (text,) = _texts(browser, ".point")
        place, view_of = int(arrays["pixel"][row]), int(arrays["view"][row])
        assert f"view {view_of + 1}, column {place % 32}, row {place // 32 % 24};" in text
        if cloud != "true":
            error, sure = arrays["points_head/error"][row], arrays["points_head/confidence"][row]
            found = dict(part.split(" ", 1) for part in text.split("; ") if part.startswith(("error", "confidence")))
            assert float(found.get("error", "nan")) == pytest.approx(float(error), abs=2e-4, nan_ok=True)
            assert float(found["confidence"]) == pytest.approx(float(sure), rel=0.01)


def test_all_decoded_values_are_those_of_the_reader_in_python(opened, page):
    browser = opened()
    script = (page / "report0" / "scenes" / "scene0.js").read_text()
    _, arrays = scene_blob.decode(base64.b64decode(script.split('"')[1]))
    for number, name in enumerate(("true", "points head")):
        cloud = f"spatialsvViewer.loaded[0].clouds[{number}]"
        rows = np.array(browser.run(f"Array.from({cloud}.row)"))
        np.testing.assert_array_equal(rows, np.flatnonzero(arrays[f"{name}/present"]))
        position = np.array(browser.run(f"Array.from({cloud}.position)")).reshape(-1, 3)
        np.testing.assert_allclose(position, arrays[f"{name}/points"][rows], atol=1e-6)
        np.testing.assert_array_equal(browser.run(f"Array.from({cloud}.instance)"), arrays["instances"][rows])
        colour = np.array(browser.run(f"Array.from({cloud}.colour)")).reshape(-1, 3)
        np.testing.assert_array_equal(colour, arrays["colours"][rows])


def test_mouse_and_keys_turn_the_scene(opened):
    browser = opened()
    left, top, width, height = _stage(browser)
    start = _picture(browser)
    browser.drag((left + 0.25 * width, top + 0.5 * height), (left + 0.25 * width + 80, top + 0.5 * height + 20))
    turned = _picture(browser)
    part = lambda picture, a, b: picture[int(top) : int(top + height), int(left + a * width) : int(left + b * width)]
    assert (part(turned, 0, 0.5) != part(start, 0, 0.5)).any(-1).mean() > 0.1
    assert (part(turned, 0.5, 1) != part(start, 0.5, 1)).any(-1).mean() > 0.1  # both panels, one camera
    browser.run("document.querySelector('#viewer canvas').focus()")
    browser.press("0")
    np.testing.assert_array_equal(part(_picture(browser), 0, 1)[30:, 4:-4], part(start, 0, 1)[30:, 4:-4])
    for key in ("ArrowLeft", "ArrowUp", "+", "-", "2"):
        before = _picture(browser)
        browser.press(key)
        assert (part(_picture(browser), 0, 1) != part(before, 0, 1)).any(-1).mean() > 0.02, key
    browser.press("3")  # the last predicted camera failed, its true one is there
    browser.press("9")
    assert _texts(browser, STATUS) == ["View 9 has no camera."]
    browser.press("n")
    browser.wait(f"{READY} && document.getElementById('viewer').dataset.scene == 'worse'")
    browser.press("p")
    browser.wait(f"{READY} && document.getElementById('viewer').dataset.scene != 'worse'")
    browser.press("Enter")
    assert "scene units" in _texts(browser, ".point")[0]


def test_the_slider_hides_the_least_confident(opened, page):
    browser = opened()
    _set(browser, "true", False)
    whole = _picture(browser)
    _set(browser, "hide the least confident", 60)
    half = _picture(browser)
    assert (half != whole).any(-1).sum() > 5000
    with np.load(page / "report0" / "scene0.npz") as arrays:
        sure = arrays["points_head/confidence"]
    least = np.exp(np.quantile(np.log(sure), 0.6) - np.ptp(np.log(sure)) / 255)
    _, _, width, height = _stage(browser)
    rows = browser.run(
        f"""[...Array(400).keys()].map((i) => spatialsvViewer.stage.pick(((i % 20) + 0.5) / 20 * {width}, (Math.floor(i / 20) + 0.5) / 20 * {height}))
          .filter(Boolean).map(([, , place]) => spatialsvViewer.panels[0].clouds[0].cloud.row[place])"""
    )
    assert len(rows) > 20 and all(sure[row] >= least for row in rows)
    shown = [tuple(pixel) for pixel in half[::7, ::7].reshape(-1, 3)]
    before = [tuple(pixel) for pixel in whole[::7, ::7].reshape(-1, 3)]
    assert shown.count(images.BACKDROP) > before.count(images.BACKDROP) + 500  # gone from the screen as well


def test_colours_follow_the_mode(opened, page):
    browser = opened()
    _set(browser, "true", False)
    facts, _ = _pick(browser, 0.5, 0.5)
    row = int(facts["row"])
    with np.load(page / "report0" / "scene0.npz") as arrays:
        view_of, thing, error = arrays["view"][row], arrays["instance"][row], arrays["points_head/error"][row]
        errors = arrays["points_head/error"]
        sure = arrays["points_head/confidence"]
    palette = [[66, 133, 244], [234, 134, 42], [52, 168, 103]]
    seen = {}
    for mode in ("view", "instance", "error", "confidence"):
        _set(browser, "colour by", mode)
        seen[mode] = _pick(browser, 0.5, 0.5)[1]
    np.testing.assert_array_equal(seen["view"], palette[view_of])
    np.testing.assert_array_equal(seen["instance"], palette[thing] if thing >= 0 else [120, 124, 132])
    most = np.nanquantile(errors, 0.95)
    for mode, table, share in (("error", "magma", error / most), ("confidence", "viridis", (sure < sure[row]).mean())):
        expected = 255 * np.array(matplotlib.colormaps[table](min(float(share), 1.0))[:3])
        assert np.abs(seen[mode] - expected).max() < 12, mode
    _set(browser, "colour by", "view")
    assert _texts(browser, ".key span") == ["view 1", "view 2", "view 3"]


def test_questions_mark_their_objects_and_say_the_answer(opened, page):
    browser = opened()
    _set(browser, "true", False)
    with np.load(page / "report0" / "scene0.npz") as arrays:
        things, colours = arrays["instance"], arrays["colours"]
    browser.run("document.querySelector('#viewer .questions .list button').click()")
    (text,) = _texts(browser, ".answer")
    assert f"Answer: {EVIL}, score 0.00" in text and "Truth: yes" in text and "Marked: red chair" in text
    marked = []
    for across in (0.2, 0.35, 0.5, 0.65, 0.8):
        facts, pixel = _pick(browser, across, 0.5)
        if "row" in facts and tuple(pixel) != images.BACKDROP:  # a point under the place, not only near it
            row = int(facts["row"])
            full = colours[row] if things[row] == 0 else 40 + 0.18 * colours[row]
            np.testing.assert_allclose(pixel, full, atol=1.5)
            marked.append(things[row] == 0)
    assert True in marked and False in marked
    _set(browser, "wrong answers only", True)
    assert [len(_texts(browser, ".questions .list button")), _texts(browser, ".questions .list p")[0][:8]] == [
        1,
        "1 of 2 q",
    ]


def test_lists_are_used_with_the_keyboard_and_keep_the_focus(opened):
    browser = opened()
    for place, group, mark in ((1, ".scenes", "aria-current"), (0, ".questions", "aria-pressed")):
        button = f"document.querySelectorAll('#viewer {group} .list button')[{place}]"
        browser.run(f"{button}.focus()")
        browser.press("Enter")
        browser.wait(f"{READY} && {button}.getAttribute('{mark}') === 'true'")
        assert browser.run(f"document.activeElement === {button}")
    assert browser.run("document.getElementById('viewer').dataset.scene") == "worse"
    assert "Answer: " in _texts(browser, ".answer")[0]


def test_filters_leave_the_wrong_and_the_worst(opened):
    browser = opened()
    names = lambda: [text.split("AbsRel")[0].split("no depth")[0] for text in _texts(browser, ".scenes .list button")]
    first = f"room {EVIL}"
    assert names() == [first, "worse", "good", "no truth"]
    assert "worseAbsRel 0.200, 2 of 2 wrong" in _texts(browser, ".scenes .list button")
    _set(browser, "with wrong answers", True)
    assert names() == [first, "worse"] and _texts(browser, ".scenes .status") == ["2 of 4 scenes"]
    _set(browser, "order", "error")
    assert names() == ["worse", first]
    _set(browser, "with wrong answers", False)
    _set(browser, "depth error", "0.25")  # of the three that have one
    assert names() == ["worse"]
    _set(browser, "depth error", "0.5")
    assert names() == ["worse", first]
    _set(browser, "depth error", "1")
    assert names() == ["worse", first, "good", "no truth"]


def test_runs_stand_side_by_side(opened, page):
    browser = opened("both")
    assert _texts(browser, ".labels span") == ["true", "a & <b>: points head", "other: points head"]
    browser.run("document.querySelector('#viewer .questions .list button').click()")
    (text,) = _texts(browser, ".answer")
    assert f"a & <b>: {EVIL}, score 0.00" in text and f"other: {EVIL}, score 0.00" in text
    _set(browser, "panels", "yes")
    assert _texts(browser, ".labels span") == ["true, a & <b>: points head, other: points head"]
    _set(browser, "panels", "")
    browser.run("[...document.querySelectorAll('#viewer .scenes .list button')].at(-1).click()")
    browser.wait(f"{READY} && document.getElementById('viewer').dataset.scene == 'no truth'")
    assert _texts(browser, ".labels span") == ["a & <b>: points head"]
    assert "not in the report of other" in _texts(browser, STATUS)[0]


def test_a_narrow_screen_shows_everything_below_each_other(opened):
    browser = opened(size=(360, 740))
    assert browser.run("document.documentElement.scrollWidth") <= 360
    left, _, width, height = _stage(browser)
    assert left >= 0 and left + width <= 360 and height >= 300
    tops = browser.run(
        "[...document.querySelectorAll('#viewer .columns > *')].map((one) => one.getBoundingClientRect().top)"
    )
    assert tops[1] < tops[0] < tops[2]  # the picture first, then the scenes, then the questions
    assert _texts(browser, ".labels span") == ["true", "points head"]
    positions = browser.run(
        "[...document.querySelectorAll('#viewer .labels span')].map((one) => one.getBoundingClientRect().top)"
    )
    assert positions[1] > positions[0] + 100  # panels below each other
    assert browser.run("document.querySelector('#viewer canvas').tabIndex") == 0


def test_text_of_the_data_makes_no_element(opened):
    browser = opened()
    assert browser.run("document.querySelectorAll('#viewer img, #viewer script').length") == 0
    assert browser.run("document.title") == "viewer"
    assert f"room {EVIL}" in _texts(browser, ".scenes .list button")[0]


def test_a_missing_scene_is_named(browser, page, tmp_path):
    shutil.copytree(page / "report0", tmp_path / "torn")
    (tmp_path / "torn" / "scenes" / "scene0.js").unlink()
    browser.open(tmp_path / "torn" / "index.html")
    browser.wait("document.getElementById('viewer')?.dataset.state == 'failed'")
    assert "scenes/scene0.js is missing or broken" in _texts(browser, STATUS)[0]
    browser.run("document.querySelectorAll('#viewer .scenes .list button')[1].click()")
    browser.wait(READY)
    browser.problems.clear()  # the browser's own message of the missing file
