"""README.md and docs/: links and anchors lead somewhere, the index lists every page, every config has its row."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
COMMAND = re.compile(r"python -m ((?:experiments|benchmarks|tools)\.\w+)((?:\\\n|[^`\n])*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, by GitHub's rule: lower case, blanks to hyphens, other punctuation off."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+?) *$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        again = sum(other == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", other) is not None for other in found)
        found.append(f"{slug}-{again}" if again else slug)
    return set(found)


def links(page: Path) -> list[str]:
    """Relative links and pictures of a page, code left out."""
    found = LINK.findall(CODE.sub("", page.read_text()))
    return [link for link in found if not urlsplit(link).scheme]


def problem(page: Path, link: str) -> str | None:
    """What is wrong with a relative link, if anything."""
    parts = urlsplit(link)
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_relative_to(ROOT) or not target.exists():
        return f"{page.relative_to(ROOT)}: {link} leads to no file"
    if parts.fragment and parts.fragment not in anchors(target.read_text()):
        return f"{page.relative_to(ROOT)}: {link} leads to no heading, there are {sorted(anchors(target.read_text()))}"
    return None


def test_links_and_anchors_lead_somewhere():
    found = [(page, link) for page in TEXTS for link in links(page)]
    assert len(found) > 50
    assert not list(filter(None, (problem(page, link) for page, link in found)))


def test_a_broken_link_and_a_broken_anchor_are_noticed(tmp_path):
    page = ROOT / "docs/index.md"
    assert problem(page, "models.md#buckets") is None
    assert "no file" in problem(page, "model.md") and "no heading" in problem(page, "models.md#bucket")
    assert anchors("# A `b`: c, d\n## 1.1 E f\n## 1.1 E f\n```\n# no\n```") == {"a-b-c-d", "11-e-f", "11-e-f-1"}


def test_pages_that_code_and_pages_name_exist():
    sources = [file for part in ("spatialsv_jax", "data_pipelines", "experiments", "tools", "benchmarks", "tests")
               for file in (ROOT / part).rglob("*.py")]  # fmt: skip
    named = {
        (file.relative_to(ROOT), name)
        for file in (*TEXTS, *sources)
        for name in re.findall(r"\b(?<!/)docs/[\w/]+\.(?:md|png|svg)", file.read_text())
    }
    assert len(named) > 50
    assert not {(str(file), name) for file, name in named if not (ROOT / name).is_file()}


def test_the_index_lists_every_page_once_in_one_order():
    index = ROOT / "docs/index.md"
    listed = [(index.parent / link).resolve() for link in links(index)]
    inside = [page for page in listed if page.is_relative_to(ROOT / "docs")]
    assert sorted(inside) == sorted(set(PAGES) - {index})
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", index.read_text(), re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_config_has_its_place_among_the_papers_tables():
    names = {file.stem for file in (ROOT / "experiments/configs").glob("*.py")} - {"__init__"}
    text = (ROOT / "docs/reproducing.md").read_text()
    assert names == {name for name in names if f"`{name}`" in text}
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert len(rows) > 20 and set(rows) <= names


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_configs_and_modules_of_commands_exist(page):
    text = page.read_text()
    configs = [name for name in re.findall(r"experiments/configs/([\w]+)\.py", text) if name != "NAME"]
    modules = re.findall(r"python -m ((?:experiments|benchmarks|tools)\.\w+)", text)
    missing = [name for name in configs if not (ROOT / f"experiments/configs/{name}.py").is_file()]
    missing += [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").is_file()]
    assert not missing


def _source(module: str, seen: set[str]) -> str:
    """Of a command and of what it imports of the packages with commands."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    if module in seen or not path.is_file():
        return ""
    seen.add(module)
    text = path.read_text()
    found = re.findall(r"^\s*from ((?:experiments|benchmarks|tools)(?:\.\w+)?) import (.*)$", text, re.MULTILINE)
    named = [f"{package}.{name}" for package, names in found for name in re.findall(r"\w+", names)]
    return text + "".join(_source(name, seen) for name in [*named, *(package for package, _ in found)])


def unknown_flags(text: str) -> list[tuple[str, str]]:
    """(module, flag) of a page's commands which the module defines nowhere; those of `prepare` are its sources' fields."""
    found = []
    for module, words in COMMAND.findall(text):
        source = _source(module, set())
        for flag in re.findall(r"(?<![\w\"'])--(?!config\.)(\w+)", words.split("#")[0]):
            defined = rf"(?:add_argument|DEFINE_\w+)\(\s*[\"'](?:--)?{flag}[\"']"
            if module != "experiments.prepare" and not re.search(defined, source):
                found.append((module, flag))
    return found


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_of_commands_exist(page):
    assert not unknown_flags(page.read_text())


def test_a_flag_that_is_gone_is_noticed():
    text = (
        "`python -m benchmarks.scaling_table --table --estimate` and python -m experiments.plan --views 2 \\\n --view 3"
    )
    assert unknown_flags(text) == [("benchmarks.scaling_table", "estimate"), ("experiments.plan", "view")]


def test_the_figure_shows_the_steps_in_order():
    root = ElementTree.parse(ROOT / "docs/architecture.svg").getroot()
    assert root.tag.endswith("svg")
    heads = [element.text for element in root.iter() if element.get("class") == "head"]
    numbered = [text for text in heads if text[0].isdigit()]
    steps = [
        "record",
        "batch",
        "visual tokens, hidden states",
        "view grids",
        "explicit 3D",
        "loss terms",
        "scores",
        "report",
    ]
    assert numbered == [f"{number} {step}" for number, step in enumerate(steps, 1)]


def test_the_reference_notices_links_and_names_without_a_target(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from tools import api_reference

    (tmp_path / "a.html").write_text(
        '<h1 id="x">a</h1><a href="b.html#y">1</a> <a href="b.html#z">2</a> <a href="c.html">3</a> <a href="#x">4</a>'
        "<code>spatialsv_jax.gone</code> <code><a href='#x'>spatialsv_jax.spec</a></code> <code>other.gone</code>"
    )
    (tmp_path / "b.html").write_text('<div id="y"></div>')
    assert api_reference.broken(tmp_path) == [
        "a.html: `spatialsv_jax.gone` names nothing public",
        "a.html: b.html#z leads to no anchor",
        "a.html: c.html leads to no file",
    ]
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(
        "`spatialsv_jax.spec.check` `spatialsv_jax.spec.gone(x)` `spatialsv_jax.load(path)`"
    )
    import spatialsv_jax.spec

    assert spatialsv_jax.spec.check and "spatialsv_jax.spec" in sys.modules
    assert api_reference.unknown_names(tmp_path) == ["README.md: `spatialsv_jax.spec.gone` names nothing"]


def test_products_in_docstrings_stay_products():
    from tools.api_reference import literal

    assert literal("[n, gh*gw, D] *seen* `a*b` 2 * 3") == r"[n, gh\*gw, D] *seen* `a*b` 2 \* 3"
