"""The commands that `benchmarks.chaos` kills, and how what they leave is compared with undisturbed runs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOSSES = ("total", "text", "gradient_norm/all")
CONFIG = """
from experiments.configs import common

def get_config():
    config = common.get_config()
    config.name = "phase"
    config.model = "{model}"
    config.vision.update(image_size=32, patch_size=8, width=32, layers=1, heads=2, trainable=True)
    config.language.update(width=32, layers=4, heads=2, kv_heads=1, head_dim=16, mlp_width=64, unroll=1)
    if config.model == "mllm":  # text alone: the least to compile, and the rest is written to disk alike
        config.lifting.heads = ()
        config.losses.update(depth=0.0, ray=0.0, points=0.0)
    config.teacher.update(image_size=32, width=32, heads=2, channels=(8, 8, 8, 8), features=8)
    config.losses.text = {text}
    config.data.sources.rooms = common.source("{data}", per_batch=8, text={text} > 0)
    config.data.update(questions=4, question_tokens=40, answer_tokens=2, views=2, label_size=(16, 16))
    config.training.update(steps={steps}, log_every=1, tensorboard=False, log_records=True)
    config.optimizer.update({{group: 1e-4 for group in ("vision", "projector", "language", "lifting")}})
    config.optimizer.name = "adamw"
    config.checkpoint.update(every={every}, keep={keep})
    config.evaluation.scenes = -1
    return config
"""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A command to be killed.

    Attributes:
      name: of the rows of the table.
      command: folder -> arguments of the Python that does the work in it.
      begun: folder -> marks in it, of which a start of the command makes new ones once its work proper is under way (after
        imports and compilations).
      moment: the same, for when to begin counting down to the kill.
      loadable: folder -> problems with what can be loaded from it now, after a kill.
      compare: folder -> differences to the undisturbed run.
      complete: folder -> whether a killed start had done everything, so that the command refuses to be started again.
      window_s: the kill comes uniformly within so many seconds of the moment; 0 = as long as the work takes.
    """

    name: str
    command: Callable[[Path], list[str]]
    begun: Callable[[Path], frozenset]
    moment: Callable[[Path], frozenset]
    loadable: Callable[[Path], list[str]]
    compare: Callable[[Path], list[str]]
    window_s: float = 0.0
    complete: Callable[[Path], bool] = lambda folder: False


def start(command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen:
    """A command in a process of its own, its output in `log`."""
    with open(log, "a") as file:
        return subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env={**os.environ, **environment}, stdout=file, stderr=file
        )


def finish(command: Sequence[str], log: Path, **environment: str) -> None:
    """Runs a command to its end.

    Raises:
      RuntimeError: it failed; with the end of its log.
    """
    if (code := start(command, log, **environment).wait()) != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {code}: {log.read_text()[-3000:]}")


def marks(folder: Path, pattern: str) -> frozenset:
    """(inode, time of change) of the files in a folder: each is another one once it was written anew."""
    found = set()
    for path in folder.glob(pattern) if folder.is_dir() else ():
        try:
            there = path.stat()
        except FileNotFoundError:  # renamed meanwhile
            continue
        found.add((there.st_ino, there.st_ctime_ns))
    return frozenset(found)


def files_of(folder: Path, skip: Sequence[str] = ()) -> dict[str, bytes]:
    """Relative path -> contents."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.name not in skip}


def differing(one: dict, other: dict) -> list[str]:
    """Keys whose values are not the same in both."""
    return [f"{key} differs" for key in sorted(set(one) | set(other)) if one.get(key) != other.get(key)]


def lines_of(folder: Path, name: str, keys: Sequence[str]) -> dict[int, dict]:
    """Step -> chosen values of the whole lines of a JSON-lines file."""
    rows = {}
    for line in (folder / name).read_text().splitlines() if (folder / name).exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # torn by the kill; a resume drops it
            continue
        rows[row["step"]] = {key: row.get(key) for key in keys}
    return rows


class Commands:
    """Makes the undisturbed results in `work` and knows the scenarios that are compared with them."""

    def __init__(self, work: Path, steps: int):
        self.work, self.log, self._steps = work, work / "log.txt", steps
        self._digests: dict[int, str] = {}

    def prepare(self) -> None:
        """Runs everything once without a disturbance; what an earlier call in the same folder made is taken."""
        for name, every, keep, model, weight in (
            ("train", 4, 2, "mllm", 1.0), ("keep_all", 4, 1000, "mllm", 1.0), ("teacher", 1, 1, "teacher", 0.0),
        ):  # fmt: skip
            steps = 1 if model == "teacher" else self._steps
            text = CONFIG.format(
                data=self.work / "rooms", steps=steps, every=every, keep=keep, model=model, text=weight
            )
            (self.work / f"{name}.py").write_text(text)
        golden, imported = ROOT / "tests" / "goldens" / "qwen2_5_vl", self.work / "golden"
        shutil.copytree(golden, imported, ignore=shutil.ignore_patterns("reference*"), dirs_exist_ok=True)
        model = ["-m", "experiments.import_hf", "--checkpoint", str(imported), "--out", str(self.work / "model")]
        for done, command in (
            ("rooms/manifest.json", self._prepare(self.work / "rooms")),
            ("whole/finished.json", self.train(self.work / "whole", "keep_all")),
            ("teacher/finished.json", self.train(self.work / "teacher", "teacher")),
            ("labels/labels.json", self._label(self.work / "labels")),
            ("da3/labels.json", self._label_da3(self.work / "da3")),
            ("model/config.json", model),
            ("export/config.json", self._export(self.work / "export")),
        ):
            if not (self.work / done).exists():
                print(f"undisturbed: {' '.join(command)}", flush=True)
                finish(command, self.log)

    def scenarios(self) -> list[Scenario]:
        """All of them."""
        metrics = lambda folder: marks(folder / "run", "metrics.jsonl")
        saving = lambda folder: marks(folder / "run" / "checkpoints", "*.orbax-checkpoint-tmp*")
        shards = lambda folder: marks(folder / "rooms" / ".preparing", "*.tmp")
        labels = lambda folder: marks(folder / "labels", "*.npz")
        of_da3 = lambda folder: marks(folder / "da3", "*.npz")
        export = lambda folder: marks(folder, ".export.partial") | marks(folder, "export")
        train = lambda folder: self.train(folder / "run", "train")
        return [
            Scenario(
                "preparing",
                lambda folder: self._prepare(folder / "rooms"),
                shards,
                shards,
                self._loadable_rooms,
                lambda folder: differing(files_of(self.work / "rooms"), files_of(folder / "rooms")),
            ),
            Scenario(
                "labelling",
                lambda folder: self._label(folder / "labels"),
                labels,
                labels,
                lambda folder: self._loadable_labels(folder, "labels"),
                lambda folder: differing(*(self._labels(place / "labels") for place in (self.work, folder))),
            ),
            Scenario(
                "labelling with da3",
                lambda folder: self._label_da3(folder / "da3"),
                of_da3,
                of_da3,
                lambda folder: self._loadable_labels(folder, "da3"),
                lambda folder: differing(*(self._labels(place / "da3") for place in (self.work, folder))),
            ),
            Scenario(
                "exporting",
                lambda folder: self._export(folder / "export"),
                export,
                export,
                self._loadable_export,
                lambda folder: differing(files_of(self.work / "export"), files_of(folder / "export")),
                complete=lambda folder: (folder / "export").exists(),
            ),
            Scenario("training", train, metrics, metrics, self._loadable_run, self._compare_runs),
            Scenario("saving", train, metrics, saving, self._loadable_run, self._compare_runs, window_s=0.3),
        ]

    def _prepare(self, out: Path) -> list[str]:
        rooms = dict(scenes=48, views=2, size=32, validation=0, test=4, ood=0)
        return [
            "-m", "experiments.prepare", "--source", "rooms", "--quiet", "--out", str(out), "--workers", "1",
            *(word for name, value in rooms.items() for word in (f"--{name}", str(value))),
        ]  # fmt: skip

    def train(self, out: Path, config: str) -> list[str]:
        """The training command with one of the configs that `prepare` wrote."""
        return ["-m", "experiments.train", "--config", str(self.work / f"{config}.py"), "--workdir", str(out)]

    def _label(self, out: Path) -> list[str]:
        model, data = str(self.work / "teacher"), str(self.work / "rooms")
        return ["-m", "experiments.label", "--model", model, "--data", data, "--out", str(out), "--rows", "2"]

    def _label_da3(self, out: Path) -> list[str]:
        """Depth Anything 3 in this process, a tiny random checkpoint."""
        weights, data = str(ROOT / "tests" / "goldens" / "da3"), str(self.work / "rooms")
        how = ["--process_res", "28", "--features", "3", "--licence", "none", "--rows", "2", "--config.mesh.data", "1"]
        command = ["-m", "experiments.label", "--teacher", "da3", "--checkpoint", weights]
        return [*command, *how, "--data", data, "--out", str(out)]

    def _export(self, out: Path) -> list[str]:
        return ["-m", "experiments.export_hf", "--model", str(self.work / "model"), "--out", str(out)]

    def _digest(self, run: Path, step: int | None) -> tuple[int, str]:
        from experiments.label_makers import parameters_hash
        from spatialsv_jax.training.checkpoints import Checkpoints

        params, _, step = Checkpoints(run / "checkpoints", create=False).restore_params(step)
        return step, parameters_hash(params)

    def _expected(self, step: int) -> str:
        if step not in self._digests:
            self._digests[step] = self._digest(self.work / "whole", step)[1]
        return self._digests[step]

    def _loadable_run(self, folder: Path) -> list[str]:
        run, problems = folder / "run", []
        for name, keys in (("metrics.jsonl", LOSSES), ("records-p0.jsonl", ("records",))):
            expected = lines_of(self.work / "whole", name, keys)
            problems += [
                f"{name}: step {step}" for step, row in lines_of(run, name, keys).items() if row != expected[step]
            ]
        if (run / "checkpoints").is_dir() and any(path.name.isdigit() for path in (run / "checkpoints").iterdir()):
            step, digest = self._digest(run, None)
            problems += [f"checkpoint {step} holds other parameters"] if digest != self._expected(step) else []
        return problems

    def _compare_runs(self, folder: Path) -> list[str]:
        run, problems = folder / "run", self._loadable_run(folder)
        for name, keys in (("metrics.jsonl", LOSSES), ("records-p0.jsonl", ("records",))):
            problems += differing(lines_of(self.work / "whole", name, keys), lines_of(run, name, keys))
        last = self._digest(run, None)[0]
        leftovers = [path.name for path in run.iterdir() if path.name == "lock.json" or ".partial" in path.name]
        return problems + leftovers + ([] if last == self._steps else [f"ended at step {last}"])

    def _loadable_rooms(self, folder: Path) -> list[str]:
        from data_pipelines.manifest import PrepareError
        from data_pipelines.storage import open_split

        try:
            source = open_split(folder / "rooms", "train", verify=True)
        except PrepareError as error:
            return [] if "unfinished" in str(error) or "is not a folder" in str(error) else [str(error)]
        return [] if len(source) == 48 else [f"{len(source)} records"]

    def _labels(self, folder: Path) -> dict[str, bytes]:
        found = files_of(folder, ("labels.json", "agreement-0.jsonl"))  # these count what this start did
        return {name: data for name, data in found.items() if not name.endswith(".tmp")}  # removed when a minute old

    def _loadable_labels(self, folder: Path, name: str) -> list[str]:
        from data_pipelines.labels.files import read_labels
        from data_pipelines.storage import open_split

        out = folder / name
        there = {path.name for path in out.glob("*.npz")} if out.is_dir() else ()
        expected, found = self._labels(self.work / name), self._labels(out) if there else {}
        problems = [f"{file} differs" for file in there if found[file] != expected[file]]
        for record in open_split(self.work / "rooms", "train").ids:
            if f"{record}.npz" in there:
                read_labels(out, record)
        return problems

    def _loadable_export(self, folder: Path) -> list[str]:
        if not (folder / "export").exists():
            return []
        return differing(files_of(self.work / "export"), files_of(folder / "export"))
