"""What may import what (CONTRIBUTING.md), and that the README names what exists."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.sources import SOURCES

ROOT = Path(__file__).parents[1]
FILES = sorted(
    file for part in ("spatialsv_jax", "data_pipelines", "experiments") for file in (ROOT / part).rglob("*.py")
)
LINEN = (
    "spatialsv_jax/backbones/", "spatialsv_jax/lifting/", "spatialsv_jax/teachers/", "spatialsv_jax/model.py", "spatialsv_jax/teacher.py",
)  # fmt: skip
TOP_LEVEL = {
    ".ci", ".dockerignore", ".gitignore", "benchmarks", "CITATION.cff", "CONTRIBUTING.md", "data_pipelines", "deploy", "Dockerfile",
    "docs", "experiments", "LICENSE", "notebooks", "pyproject.toml", "README.md", "setup.py", "spatialsv_jax", "tests", "tools",
}  # fmt: skip
# Importer -> what it must never import.
FORBIDDEN = {
    "spatialsv_jax": ("experiments",),
    "data_pipelines": ("experiments", "jax", "flax", "spatialsv_jax.backbones", "spatialsv_jax.losses", "spatialsv_jax.teachers"),
    "spatialsv_jax/backbones": ("spatialsv_jax.lifting", "spatialsv_jax.losses", "spatialsv_jax.training", "spatialsv_jax.teachers"),
    "spatialsv_jax/lifting": ("spatialsv_jax.backbones", "spatialsv_jax.losses", "spatialsv_jax.training", "spatialsv_jax.teachers"),
    "spatialsv_jax/teachers": ("spatialsv_jax.losses", "spatialsv_jax.training", "spatialsv_jax.model"),
    "spatialsv_jax/interop": ("spatialsv_jax.lifting", "spatialsv_jax.losses", "spatialsv_jax.training", "spatialsv_jax.teachers"),
    "spatialsv_jax/losses": ("spatialsv_jax.backbones", "spatialsv_jax.lifting", "spatialsv_jax.training", "spatialsv_jax.teachers"),
    "spatialsv_jax/metrics": ("spatialsv_jax.backbones", "spatialsv_jax.lifting", "spatialsv_jax.losses", "spatialsv_jax.training", "spatialsv_jax.teachers"),
    "spatialsv_jax/report": ("spatialsv_jax.backbones", "spatialsv_jax.lifting", "spatialsv_jax.losses", "spatialsv_jax.training", "spatialsv_jax.teachers"),
    "spatialsv_jax/geometry": ("spatialsv_jax.backbones", "spatialsv_jax.lifting", "spatialsv_jax.losses", "spatialsv_jax.metrics", "spatialsv_jax.teachers"),
}  # fmt: skip


def imported(file: Path) -> set[str]:
    """Full names of the modules (and members) that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("importer", FORBIDDEN)
def test_imports_go_one_way(importer):
    files = [file for file in FILES if str(file.relative_to(ROOT)).startswith(importer + "/")]
    assert files
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        for package in FORBIDDEN[importer]
        if is_within(name, package)
    }
    assert not wrong


def test_modules_of_flax_live_in_five_places():
    users = {str(file.relative_to(ROOT)) for file in FILES for name in imported(file) if is_within(name, "flax.linen")}
    assert users and all(user.startswith(LINEN) for user in users)


@pytest.mark.parametrize(
    "statement", ["import spatialsv_jax", "import data_pipelines.samples, data_pipelines.rooms.generate"]
)
def test_what_needs_no_jax_imports_none(statement):
    subprocess.run([sys.executable, "-c", f"{statement}\nimport sys\nassert 'jax' not in sys.modules"], check=True)


def readme_commands() -> list[str]:
    """All code blocks and tables of the README and the pages of the sources, optional arguments among them."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs/sources").glob("*[!E].md"))]
    text = "\n".join(page.read_text() for page in pages).replace("\\\n", " ")
    found = re.findall(r"python -m (experiments\.\w+[^\n&|`]*)", text)
    return [command.replace("[", "").replace("]", "") for command in found]


def test_commands_of_the_readme_exist():
    commands = readme_commands()
    assert len(commands) >= 10
    for command in commands:
        module, *words = command.split()
        flags = {word.split("=")[0] for word in words if word.startswith("--")}
        main = importlib.import_module(module)
        if module == "experiments.train":
            own = {"--config", "--workdir", "--coordinator", "--num_processes", "--process_id", "--grace_s"}
            assert flags <= own | {flag for flag in flags if flag.startswith("--config.")}
        elif module == "experiments.prepare":
            source = words[words.index("--source") + 1]
            assert flags <= set(main._parser(source)._option_string_actions), command
        else:
            assert flags <= set(main.parser()._option_string_actions), command


def test_every_source_has_its_page_and_command():
    table = (ROOT / "docs/sources/README.md").read_text()
    for name in SOURCES:
        assert f"| `{name}` |" in table
        page = ROOT / "docs/sources" / f"{name}.md"
        if name not in ("rooms", "posed_rgbd"):
            assert f"--source {name} " in page.read_text() and "\nTerms: " in page.read_text()


def test_every_config_stands_in_the_readme():
    text = (ROOT / "README.md").read_text()
    helpers = {"__init__", "common", "pretrained", "rooms_run"}
    names = {file.stem for file in (ROOT / "experiments/configs").glob("*.py")} - helpers
    assert names == {name for name in names if f"`{name}`" in text}


def test_the_example_of_add_a_backbone_is_true():
    text = (ROOT / "docs/add_a_backbone.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec("\n".join(line[3:] for line in block.splitlines()), {})


def test_the_top_level_holds_what_it_should():
    """No output of a trial has been committed beside the folders; outside of a checkout there is nothing to ask."""
    found = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("no git checkout")
    assert {name.split("/")[0] for name in found.stdout.splitlines()} <= TOP_LEVEL
