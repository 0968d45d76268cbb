"""The manifests in deploy/ are what the schedulers read, and start commands that exist."""

import copy
import math
import os
import re
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from absl import flags
from jobset_schema import JOBSET

from experiments import stopping, train

ROOT = Path(__file__).parents[2]


@pytest.fixture
def jobset():
    return yaml.safe_load((ROOT / "deploy/jobset.yaml").read_text())


def _flags(command: str) -> dict[str, str]:
    words = [word for word in shlex.split(command) if word.startswith("--") or not word.startswith("-")]
    found = re.findall(r"--([\w.]+)[ =](\S+)", " ".join(words))
    return dict(found)


def test_the_jobset_is_valid(jobset):
    jsonschema.Draft202012Validator.check_schema(JOBSET)
    jsonschema.validate(jobset, JOBSET)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("apiVersion",), "jobset.x-k8s.io/v1"),
        (("spec", "failurePolicy", "maxRestart"), 3),
        (("spec", "failurePolicy", "rules", 0, "action"), "Restart"),
        (("spec", "failurePolicy", "rules", 0, "name"), "exit-75"),
        (("spec", "replicatedJobs", 0, "template", "spec", "parallelism"), "4"),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers"), []),
        (
            ("spec", "replicatedJobs", 0, "template", "spec", "podFailurePolicy", "rules", 0, "onExitCodes", "values"),
            [75, 75],
        ),
    ],
)
def test_mistakes_in_it_would_be_found(jobset, place, value):
    inner = broken = copy.deepcopy(jobset)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, JOBSET)


def test_it_asks_for_a_whole_slice_and_leaves_time_to_save(jobset):
    (entry,) = jobset["spec"]["replicatedJobs"]
    job = entry["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = math.prod(map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")))
    assert job["parallelism"] == job["completions"] == chips // container["resources"]["limits"]["google.com/tpu"]
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"  # what a policy for exit codes needs
    given = _flags(container["args"][0])
    assert container["args"][0].startswith("exec python -m experiments.train ")
    assert (ROOT / given["config"]).is_file()
    assert float(given["grace_s"]) < pod["terminationGracePeriodSeconds"]
    known = {name for name in given if name in flags.FLAGS or name.startswith("config.")}
    assert train and known == set(given)
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [stopping.RESUMABLE]}
    (restart,) = jobset["spec"]["failurePolicy"]["rules"]
    assert restart["action"] == "RestartJobSetAndIgnoreMaxRestarts" and restart["onJobFailureReasons"] == [
        "PodFailurePolicy"
    ]
    mounted = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == mounted


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (stopping.RESUMABLE, True)])
def test_the_slurm_script_queues_a_stopped_job_again(tmp_path, code, requeued):
    """With stand-ins for Slurm's commands that note how they were called."""
    for name, end in (("srun", f"exit {code}"), ("scontrol", "")):
        (tmp_path / name).write_text(f'#!/bin/bash\necho {name} "$@" >> {tmp_path}/calls\n{end}\n')
        (tmp_path / name).chmod(0o755)
    script, environment = (
        ROOT / "deploy/slurm.sbatch",
        {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"},
    )
    run = subprocess.run([str(script), "c.py", "/shared/run", "--config.seed=1"], env={**os.environ, **environment})
    assert run.returncode == code
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].endswith("-m experiments.train --config c.py --workdir /shared/run --grace_s 150 --config.seed=1")
    assert (calls[1:] == ["scontrol requeue 42"]) == requeued and len(calls) == 1 + requeued
    text = script.read_text()
    assert float(re.search(r"--signal=TERM@(\d+)", text)[1]) > float(_flags(calls[0])["grace_s"])


def test_every_option_of_the_slurm_script_is_one_of_sbatch():
    options = re.findall(r"^#SBATCH --([\w-]+)", (ROOT / "deploy/slurm.sbatch").read_text(), re.MULTILINE)
    known = {
        "job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal", "requeue", "open-mode", "output",
    }  # fmt: skip
    assert options and set(options) <= known
