"""The built viewer is that of its sources, says whose code is in it, and is shipped."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
REPORT = ROOT / "spatialsv_jax" / "report"
SOURCES = REPORT / "viewer_src"


def test_viewer_js_was_built_from_the_sources_that_are_here():
    names = json.loads(
        "[" + re.search(r"SOURCES = \[(.*?)\]", (SOURCES / "build.mjs").read_text(), re.S)[1].rstrip(", \n") + "]"
    )
    present = {file.name for file in SOURCES.iterdir() if file.suffix in (".js", ".css")}
    assert present | {"package-lock.json"} == set(names)
    total = hashlib.sha256(b"".join((SOURCES / name).read_bytes() for name in names)).hexdigest()
    built = (REPORT / "viewer.js").read_text("ascii")
    assert f"sha256 {total}" in built, (
        "viewer_src changed: cd spatialsv_jax/report/viewer_src && npm ci && npm run build"
    )
    assert "MIT licence: viewer_src/LICENSE-three.txt" in built


def test_the_build_is_pinned_and_nothing_leads_out():
    wanted = json.loads((SOURCES / "package.json").read_text())["devDependencies"]
    locked = json.loads((SOURCES / "package-lock.json").read_text())["packages"]
    for name, version in wanted.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version) and locked[f"node_modules/{name}"]["version"] == version
    addresses = set(re.findall(r"https?://[^\"'` )]+", (REPORT / "viewer.js").read_text()))
    assert addresses <= {"http://www.w3.org/1999/xhtml"}  # the name of a namespace
    for file in SOURCES.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(", file.read_text()
        ), file


def test_an_installed_package_holds_the_viewer_and_its_licence(tmp_path):
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("viewer.js", "viewer_src/LICENSE-three.txt"):
        place = Path("spatialsv_jax/report") / name
        assert (tmp_path / place).read_bytes() == (ROOT / place).read_bytes()
