"""docs/pods.md: every command of it, run against stand-ins, reaches what it names; the image holds what it needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from absl import flags
from jobset_schema import JOBSET
from jsonschema import validate

from experiments import plan, train

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/pods.md").read_text()
# Notes how it was called; gcloud also runs what it would run on a worker.
STAND_IN = """#!{python}
import json, os, subprocess, sys
with open({calls!r}, "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
for word in sys.argv[1:]:
    if word.startswith("--command="):
        sys.exit(subprocess.run(["bash", "-euc", word.partition("=")[2]]).returncode)
"""
NAMES = ("gcloud", "kubectl", "docker", "sbatch", "scancel", "python", "python3", "sudo", "pkill")


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """The commands that were started, as lists of words, by all blocks of the page."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "shared").mkdir()
    (folder / "shared/spatialsv-jax").symlink_to(ROOT)
    (folder / "home/venv/bin").mkdir(parents=True)
    (folder / "bin").mkdir()
    stand_in = STAND_IN.format(python=sys.executable, calls=str(folder / "calls"))
    for place in [*(folder / "bin" / name for name in NAMES), folder / "home/venv/bin/python"]:
        place.write_text(stand_in)
        place.chmod(0o755)
    blocks = re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    script = "\n".join(blocks).replace("/shared/spatialsv-jax", f"{folder}/shared/spatialsv-jax")
    environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder / "home")}
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    noted = lambda: [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    deadline = time.monotonic() + 20
    while not any("/shared/runs/qwen" in words and words[0] == "python" for words in noted()):  # in the background
        assert time.monotonic() < deadline, "no worker was made to train"
        time.sleep(0.05)
    return noted()


def _check_training(words: list[str]) -> None:
    """Words after `-m experiments.train`: flags that it has, a config that is there, overrides of keys that it has."""
    given = re.findall(r"--([\w.]+)[ =](\S+)", " ".join(words))
    assert " ".join(words).count("--") == len(given)
    assert train and all(name in flags.FLAGS or name.startswith("config.") for name, _ in given), words
    config = dict(given)["config"]
    assert "workdir" in dict(given)
    if config != "FILE":
        assert (ROOT / config).is_file()
        overrides = [f"--{name}={value}" for name, value in given if name.startswith("config.")]
        read = plan.read_config(str(ROOT / config), overrides)
        assert read.init_from.startswith("/shared/") and read.data.sources.train.path.startswith("/shared/")


def test_every_command_that_trains_is_one_that_parses(calls):
    trained = [words for words in calls if "experiments.train" in words]
    assert len(trained) == 4  # two of them name no config, the slice's, and pkill's pattern
    for words in trained:
        if words[0] != "pkill":
            assert words[1:3] == ["-m", "experiments.train"]
            _check_training(words[3:])
    (batch,) = (words for words in calls if words[0] == "sbatch")
    assert (ROOT / batch[1]).is_file()
    _check_training(["--config", batch[2], "--workdir", batch[3], *batch[4:]])


def test_what_else_it_names_is_there(calls):
    started = {words[0] for words in calls}
    assert set(NAMES) <= started
    (minor,) = (re.search(r"--python 3\.(\d+) ", " ".join(words))[1] for words in calls if "venv" in words)
    least = re.search(r'python_requires=">=3\.(\d+)"', (ROOT / "setup.py").read_text())[1]
    assert int(minor) >= int(least)
    assert [words[-1] for words in calls if words[0] == "python3" and "-e" in words] == [".[tpu]"]
    for words in calls:
        for extra in re.findall(r"\.\[(\w+)\]", " ".join(words)):
            assert f'"{extra}": [' in (ROOT / "setup.py").read_text()
    applied = [words[words.index("-f") + 1] for words in calls if words[:2] == ["kubectl", "apply"]]
    manifests = [ROOT / name for name in applied if not name.startswith("https://")]
    assert len(applied) == 2 and len(manifests) == 1
    validate(yaml.safe_load(manifests[0].read_text()), JOBSET)


def test_the_image_holds_what_training_imports(tmp_path, calls):
    assert ["docker", "build", "-t", "IMAGE", "."] in calls
    lines = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines() if line and line[0] != "#"]
    assert [line[0] for line in lines].count("FROM") == 1
    assert {line[0] for line in lines} == {"FROM", "ARG", "WORKDIR", "COPY", "RUN"}
    for *names, place in (line[1:] for line in lines if line[0] == "COPY"):
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, tmp_path / place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, tmp_path / place)
    program = "import experiments.train, experiments.evaluate; print(experiments.train.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(tmp_path / "experiments/train.py"), done.stderr
    install = " ".join(next(line for line in lines if line[0] == "RUN"))
    assert install == 'RUN pip install --no-cache-dir -e ".[${EXTRA}]"' and ["ARG", "EXTRA=tpu"] in lines
    jobset = yaml.safe_load((ROOT / "deploy/jobset.yaml").read_text())
    (container,) = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    config = re.search(r"--config (\S+)", container["args"][0])[1]
    assert (tmp_path / config).is_file()
