"""Builds the API reference from the docstrings: HTML that opens from a file, and fails on references that lead nowhere.

Run: python -m pip install -e ".[docs]" && python -m tools.api_reference --out build/api

About a minute on two cores. Nothing is fetched. A warning of pdoc, a link or anchor without a target, and a dotted name of ours in
backticks that names nothing, in a docstring or in README.md and docs/, are all listed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import types
import warnings
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
PACKAGES = ("spatialsv_jax", "data_pipelines", "experiments")
# Modules of ours that need these packages (extras) are shown without them all the same.
STAND_INS = {
    "apache_beam": {
        "apache_beam": {"DoFn": object},
        "apache_beam.options": {},
        "apache_beam.options.pipeline_options": {"PipelineOptions": object},
    },
    "lmms_eval": {"lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.api.model": {"lmms": object}},
}
_OURS = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+(?:\(\))?")


class _Page(HTMLParser):
    """Anchors, links and unlinked names in code of one page."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors, self.links, self.names, self._code = set(), [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag in ("a", "link", "script", "img") and (link := values.get("href") or values.get("src")):
            self.links.append(link)
        self._code = tag == "code"

    def handle_data(self, data):
        if self._code and _OURS.fullmatch(data):
            self.names.append(data)

    def handle_endtag(self, tag):
        self._code = False


def broken(folder: Path) -> list[str]:
    """Links of the HTML pages below a folder whose file or anchor is not there, and names of ours that got no link."""
    pages = {path.resolve(): _Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    problems = []
    for path, page in pages.items():
        where = path.relative_to(folder.resolve())
        problems += [f"{where}: `{name}` names nothing public" for name in page.names]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                problems.append(f"{where}: {link} leads to no file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                problems.append(f"{where}: {link} leads to no anchor")
    return problems


def unknown_names(root: Path) -> list[str]:
    """Dotted names of ours in backticks in README.md and docs/ that no module, function, class or attribute has."""
    problems = []
    for page in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        for name in re.findall(rf"`({_OURS.pattern})", page.read_text()):
            if not _exists(name.removesuffix("()")):
                problems.append(f"{page.relative_to(root)}: `{name}` names nothing")
    return problems


def _exists(name: str) -> bool:
    module, names = name, []
    while module not in sys.modules and "." in module:
        module, _, last = module.rpartition(".")
        names.insert(0, last)
    thing = sys.modules.get(module)
    for part in names:
        annotated = getattr(thing, "__annotations__", {})
        if not hasattr(thing, part) and part not in annotated:
            return False
        thing = getattr(thing, part, None)
    return thing is not None or bool(names)


def literal(docstring: str) -> str:
    """A docstring whose `*` stay products where they are no emphasis: `gh * gw` and `[n, gh*gw, D]`, but *seen*."""
    kept = r"`[^`]*`|(?<![\w*])\*\w[\w ]*\*(?![\w*])"
    return re.sub(rf"({kept})|\*", lambda found: found[1] or r"\*", docstring)


def _import_all() -> None:
    """Imports every module of ours and settles two things that pdoc gets wrong about them."""
    for package in PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
            module = importlib.import_module(found.name)
            classes = [thing for thing in vars(module).values() if inspect.isclass(thing)]
            for cls in (cls for cls in classes if cls.__module__ == found.name):
                if hasattr(cls, "_fields"):  # a NamedTuple's annotations are names in the module of the class
                    cls.__new__.__module__ = found.name
                setup = vars(cls).get("setup")
                if inspect.isfunction(setup) and setup.__doc__ is None:  # else Flax's page of text stands there
                    setup.__doc__ = inspect.unwrap(setup).__doc__ = "Makes the submodules."


def build(out: Path) -> list[str]:
    """Writes the reference of all modules of the three packages and returns what is wrong with it.

    Args:
      out: folder of the pages; index.html is the first.
    """
    import markdown2
    import pdoc
    from jinja2 import pass_context
    from pdoc import render, render_helpers

    for package, modules in STAND_INS.items():
        if importlib.util.find_spec(package) is None:
            for name, members in modules.items():
                _stand_in(name, **members)
    _import_all()

    @pass_context
    def to_markdown(context, docstring):
        return render_helpers.to_markdown_with_context(context, literal(docstring))

    def to_html(text):  # as pdoc's own, but "<view:0>" in a docstring is text, not a tag
        return markdown2.markdown(
            text,
            safe_mode="escape",
            extras=render_helpers.markdown_extensions,
            link_patterns=render_helpers.markdown_link_patterns,
        )

    render.configure(docformat="google", show_source=False, footer_text="SpatialSV-JAX")
    render.env.filters.update(to_markdown=to_markdown, to_html=to_html)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pdoc.pdoc(*PACKAGES, output_directory=out)
    told = [str(item.message) for item in caught if "pdoc" in Path(item.filename).parts]
    return told + broken(out) + unknown_names(ROOT)


def _stand_in(name: str, **members) -> None:
    module = sys.modules[name] = types.ModuleType(name)
    vars(module).update(members)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m tools.api_reference", description=__doc__.splitlines()[0])
    result.add_argument("--out", type=Path, default=Path("build/api"), help="folder of the pages")
    return result


def main() -> int:
    args = parser().parse_args()
    if importlib.util.find_spec("pdoc") is None:
        print('The API reference needs the extra: python -m pip install -e ".[docs]"', file=sys.stderr)
        return 1
    problems = build(args.out)
    for problem in problems:
        print(problem, file=sys.stderr)
    pages = len(list(args.out.rglob("*.html")))
    print(f"{args.out / 'index.html'}: {pages} pages, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
