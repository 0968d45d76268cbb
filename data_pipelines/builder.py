"""The tensorflow-datasets builder of prepared data: resumable, on all cores, without tensorflow.

`SpatialRecords(data_dir=DIR, plan=PLAN).download_and_prepare()` writes ArrayRecord shards and the
metadata of tensorflow-datasets into DIR itself, so that `tfds.builder_from_directory(DIR)` and
its `as_data_source(split)` read them anywhere. The library's own `download_and_prepare` works in
a temporary folder of random name and starts from nothing after a kill, hence the override.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from data_pipelines import manifest as manifest_lib
from data_pipelines import shards
from data_pipelines.begun import BEGUN, arguments_of, begun_with, made_with
from data_pipelines.manifest import DATASET_NAME, MANIFEST_NAME, PROGRESS_NAME, SHARD_SUFFIX, PrepareError
from data_pipelines.paths import as_path, is_remote, remove_tree
from data_pipelines.records import FORMAT_VERSION
from data_pipelines.serialization import features
from data_pipelines.sources.base import Plan


class SpatialRecords(tfds.core.DatasetBuilder, skip_registration=True):
    """Posed views, geometry and questions of scenes (`data_pipelines.records.Record`)."""

    name = DATASET_NAME
    VERSION = tfds.core.Version(f"{FORMAT_VERSION}.0.0")

    def __init__(self, *, data_dir: str | os.PathLike, plan: Plan | None = None):
        """`plan` is needed for `download_and_prepare` only."""
        self._plan = plan
        if plan is not None:
            _refuse_foreign(as_path(data_dir))
        super().__init__(data_dir=os.fspath(data_dir))
        self.info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)

    def download_and_prepare(
        self,
        *,
        workers: int | None = 0,
        progress: bool = True,
        build: Callable[[Plan, Path], dict[str, list[dict]]] | None = None,
    ) -> dict:
        """Makes what is missing and returns the manifest; returns at once when all is there.

        Args:
          workers: processes; 0 = one per usable core; None = none, all in this process.
          progress: show a bar.
          build: (plan, directory) -> summaries of all shards by split; makes them instead of `shards.build`.

        Raises:
          PrepareError: the folder holds other data or data of other arguments, is in use, cannot
            be written, or an item failed. Finished shards are always kept.
        """
        plan = self._plan
        if plan is None:
            raise PrepareError("SpatialRecords needs a plan to make data; to read data, use storage.open_split.")
        directory = as_path(self.data_dir)
        if finished := finished_manifest(plan, directory):
            return finished
        with _claim(plan, directory):
            summaries = build(plan, directory) if build else shards.build(plan, directory, workers, progress)
            with shards.storage_errors(directory / MANIFEST_NAME):
                return self._finish(plan, directory, summaries)

    def _finish(self, plan: Plan, directory: Path, summaries: dict[str, list[dict]]) -> dict:
        manifest = _manifest(plan, summaries)
        _check_ids(plan, summaries)
        for split, parts in summaries.items():
            lines = [json.dumps(row, sort_keys=True) for part in parts for row in part["rows"]]
            path = directory / index_name(split)
            manifest_lib.write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
            manifest["splits"][split]["index"] = {"file": path.name, "sha256": manifest_lib.sha256_of(path)}
        skipped = [
            json.dumps({"split": split, **row}, sort_keys=True)
            for split, parts in summaries.items()
            for part in parts
            for row in part["skipped"]
        ]
        manifest_lib.write_atomically(directory / "skipped.jsonl", "".join(f"{line}\n" for line in skipped).encode())
        manifest["skipped"] = {"file": "skipped.jsonl", "lines": len(skipped)}
        self._write_tfds_metadata(directory, summaries)
        manifest_lib.write_atomically(directory / MANIFEST_NAME, manifest_lib.to_json(manifest).encode())
        remove_tree(directory / PROGRESS_NAME)
        return manifest

    def _write_tfds_metadata(self, directory: Path, summaries: dict[str, list[dict]]) -> None:
        template = tfds.core.ShardedFileTemplate(
            data_dir=directory, dataset_name=DATASET_NAME, filetype_suffix=SHARD_SUFFIX
        )
        infos = [
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[part["records"] for part in parts],
                num_bytes=sum(part["bytes"] for part in parts),
                filename_template=template.replace(split=split),
            )
            for split, parts in summaries.items()
        ]
        self.info.set_splits(tfds.core.SplitDict(infos))
        with tempfile.TemporaryDirectory() as temporary:
            self.info.write_to_directory(temporary)
            for path in sorted(Path(temporary).iterdir()):
                manifest_lib.write_atomically(directory / path.name, path.read_bytes())

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Views of scenes with depth, cameras and questions; see manifest.json.",
            features=features(),
            disable_shuffling=True,
        )

    def _build_data_dir(self, data_dir: str) -> tuple[str, str]:
        return data_dir, data_dir

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        raise NotImplementedError("SpatialRecords.download_and_prepare writes in place; call that.")

    def _as_dataset(self, *args, **kwargs):
        raise NotImplementedError("ArrayRecord has no as_dataset: use as_data_source, or storage.open_split.")


def index_name(split: str) -> str:
    """File with one JSON line per record: id, scene, setting, views, height, width, questions."""
    return f"records-{split}.jsonl"


def finished_manifest(plan: Plan, directory: Path) -> dict | None:
    """The manifest if `directory` holds exactly what `plan` would make, None if it is unfinished or new.

    What a preparation that was killed while it tidied up has left there is removed.

    Raises:
      PrepareError: it is finished with other arguments (naming them), or damaged.
    """
    if not (directory / MANIFEST_NAME).exists():
        return None
    manifest = manifest_lib.read_manifest(directory)
    _refuse_others(directory, manifest["arguments"], arguments_of(plan))
    manifest_lib.check_shards(directory, manifest, tuple(manifest["splits"]))
    remove_tree(directory / PROGRESS_NAME)
    return manifest


def _refuse_others(directory: Path, there: dict, asked: dict) -> None:
    if lines := manifest_lib.differences(there, asked):
        raise PrepareError(
            f"{directory} was prepared with other arguments: {'; '.join(lines)}. Nothing was changed. "
            "Choose another --out, or delete the folder."
        )


def _refuse_foreign(directory: Path) -> None:
    """A folder is ours if it is new, empty, or has a manifest or a begun preparation in it."""
    if directory.exists() and not directory.is_dir():
        raise PrepareError(f"{directory} is a file. Choose another --out.")
    if not directory.is_dir() or (directory / MANIFEST_NAME).exists():
        return
    if (directory / PROGRESS_NAME / BEGUN).exists():
        return
    foreign = sorted(path.name for path in directory.iterdir() if path.name != PROGRESS_NAME)
    if foreign:
        raise PrepareError(
            f"{directory} already holds {', '.join(foreign[:5])}{' ...' if len(foreign) > 5 else ''}, "
            "which no preparation made. Nothing was changed. Choose an empty --out."
        )


@contextlib.contextmanager
def _claim(plan: Plan, directory: Path) -> Iterator[None]:
    """Takes the folder for this preparation alone, if nothing was begun there with other arguments."""
    progress = directory / PROGRESS_NAME
    begun = progress / BEGUN
    try:
        progress.mkdir(parents=True, exist_ok=True)
        with _lock(progress / "lock"):
            made_something = any(progress.glob(f"{DATASET_NAME}-*.json"))
            if begun.exists() and made_something:
                _refuse_others(directory, json.loads(begun.read_text(encoding="utf-8")), begun_with(plan))
            else:
                manifest_lib.write_atomically(begun, manifest_lib.to_json(begun_with(plan)).encode())
            for leftover in progress.glob("*.tmp"):
                leftover.unlink()
            yield
    except OSError as error:
        raise PrepareError(
            f"Cannot write into {directory}: {error}. Choose another --out or mend its rights."
        ) from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    import fcntl

    if is_remote(path):  # object stores know no locks
        yield
        return
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PrepareError(f"Another process is preparing {path.parent.parent}. Wait for it, or end it.") from None
        yield


def _check_ids(plan: Plan, summaries: dict[str, list[dict]]) -> None:
    """Ids are unique over all splits, and no scene is in two splits unless the plan says so."""
    seen: dict[str, str] = {}
    scenes: dict[str, str] = {}
    for split, parts in summaries.items():
        for row in (row for part in parts for row in part["rows"]):
            if row["id"] in seen:
                raise PrepareError(f"Record id '{row['id']}' occurs in '{seen[row['id']]}' and again in '{split}'.")
            seen[row["id"]] = split
            if scenes.setdefault(row["scene"], split) != split and not plan.scenes_shared:
                raise PrepareError(f"Scene '{row['scene']}' is in '{scenes[row['scene']]}' and in '{split}'.")
        if not any(part["records"] for part in parts):
            reasons = collections.Counter(row["reason"] for part in parts for row in part["skipped"])
            raise PrepareError(f"Split '{split}' has no record. Most frequent reasons: {reasons.most_common(3)}.")


def _manifest(plan: Plan, summaries: dict[str, list[dict]]) -> dict:
    splits = {}
    for split, parts in summaries.items():
        counts: collections.Counter = collections.Counter()
        buckets: collections.Counter = collections.Counter()
        settings: collections.Counter = collections.Counter()
        questions: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
        scenes = set()
        for part in parts:
            counts.update(part["counts"])
            for group, types in part["question_types"].items():
                questions[group].update(types)
            for row in part["rows"]:
                buckets[row["views"], row["height"], row["width"]] += 1
                settings[row["setting"]] += 1
                scenes.add(row["scene"])
        splits[split] = {
            "records": sum(part["records"] for part in parts),
            "scenes": len(scenes),
            "shards": [{name: part[name] for name in ("file", "records", "bytes", "sha256")} for part in parts],
            "buckets": [
                {"views": views, "height": height, "width": width, "records": number}
                for (views, height, width), number in sorted(buckets.items())
            ],
            "settings": dict(settings),
            "question_types": {group: dict(types) for group, types in questions.items()},
            "counts": dict(counts),
        }
    data = [shard["sha256"] for split in sorted(splits) for shard in splits[split]["shards"]]
    return {
        "format_version": FORMAT_VERSION,
        "dataset": DATASET_NAME,
        "generator": {"source": plan.source, "version": plan.version},
        "arguments": arguments_of(plan),
        "origin": dict(plan.origin),
        "made_with": made_with(plan),
        "data_sha256": manifest_lib.fingerprint(data),
        "scenes_shared_between_splits": plan.scenes_shared,
        "vocabulary": list(plan.vocabulary),
        "splits": splits,
    }
