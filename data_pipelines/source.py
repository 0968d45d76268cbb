"""A source of the mixture: which of its records are used, and their samples, kept in a bounded memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_pipelines.config import ONLINE, SampleSettings, SourceConfig
from data_pipelines.labels import files as label_files
from data_pipelines.mixture import SceneGroups
from data_pipelines.online import OnlinePictures
from data_pipelines.samples import Sample, SampleMaker, too_many_views
from data_pipelines.splits import labelled_scenes
from data_pipelines.transforms.views import choose_views
from data_pipelines.vision_cache import VisionCache


class BoundedCache:
    """A thread-safe memory of results up to a byte budget.

    What is in stays in, and once the budget is used nothing more enters: every record is needed
    once per pass, so throwing out the least recently used one would throw out what comes next.

    Args:
      megabytes: the budget; 0 = remember nothing.
    """

    def __init__(self, megabytes: float):
        self._budget, self._lock = int(megabytes * 2**20), threading.Lock()
        self._values: dict = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key, make: Callable):
        """The remembered value of `key`, or `make()`, whose `kept()` is remembered when its `nbytes` fit."""
        value = self._values.get(key)
        if value is None:
            value = make()
            kept = value.kept()
            with self._lock:
                if key not in self._values and self.nbytes + kept.nbytes <= self._budget:
                    self._values[key] = kept
                    self.nbytes += kept.nbytes
        return value


class Source:
    """One source of the mixture: reads, prepares and remembers its samples.

    Args:
      config: what of the source is used.
      records: random access to its records, with `rows` (their index) as storage.RecordSource has it.
      buckets: (settings, processor) of each bucket: its shapes, and the family's processor at its picture size.
      cache: shared by all sources of a loader.
      number: place in the mixture.
      vision: of each bucket the cached features, or None.
      online: what makes pictures for the teacher in the training step; None = there is none.

    Attributes:
      feature_width: F of its teacher features, 0 = none.
      without_labels: number of records in use that have no label file; they are shown without geometry (or features).
      labelled: names of the scenes whose questions are shown.

    Raises:
      ValueError: label files without features, or a folder with none of its records.
    """

    def __init__(
        self,
        config: SourceConfig,
        records,
        buckets: Sequence[tuple[SampleSettings, object]],
        cache: BoundedCache,
        number: int,
        vision: Sequence[VisionCache | None],
        online: OnlinePictures | None = None,
    ):
        self.config, self.records, self.number = config, records, number
        ids = [
            row["id"] for row in (records.rows[int(index)] for index in used_records(config, records)) if row["views"]
        ]
        folders = {config.feature_folder, config.label_folder} - {""}
        missing = {folder: label_files.missing_labels(folder, ids) for folder in sorted(folders)}
        self.without_labels = len(frozenset().union(*missing.values()))
        self.feature_width = _feature_width(config, ids, missing, number)
        folder = config.feature_folder if self.feature_width else ""
        if config.online_features and online is not None:
            self.feature_width = online.feature_width
            if config.features == ONLINE and not self.feature_width:
                raise ValueError(
                    f"config.data.sources[{number}].features is 'online', but config.online.features is -1: name the tap to distil."
                )
        self.labelled = scenes_with_text(config, records)
        self._makers = [
            SampleMaker(config, settings, processor, folder, number, self.labelled, features, missing, online)
            for (settings, processor), features in zip(buckets, vision, strict=True)
        ]
        self._cache = cache
        self._available = np.array([row["views"] for row in records.rows], np.int32)

    def __len__(self) -> int:
        return len(self.records)

    def scene_groups(self) -> SceneGroups:
        """The records in use by scene, for `shuffle3d`."""
        members = used_records(self.config, self.records)
        return SceneGroups(members, [self.records.rows[int(index)]["scene"] for index in members])

    def scene_counts(self, members: np.ndarray) -> dict[str, int]:
        """Scenes among the records in use; those of them whose questions are shown, and the records with these."""
        rows = [self.records.rows[int(index)] for index in members]
        shown = self.labelled if self.config.text else ()
        with_text = [row["scene"] for row in rows if row["questions"] and row["scene"] in shown]
        return {
            "scenes": len({row["scene"] for row in rows}),
            "scenes_with_text": len(set(with_text)),
            "records_with_text": len(with_text),
        }

    def sample(
        self, index: int, visit: int, rng: np.random.Generator, views: int | None = None, bucket: int = 0
    ) -> Sample:
        """The sample of record `index` on pass `visit`, with the source's number of views or `views`."""
        count, maker = self.config.views if views is None else views, self._makers[bucket]
        chosen = choose_views(int(self._available[index]), count, index, visit, rng)
        if self.config.augment:
            shown = self._cache.get((self.number, index), lambda: maker.decode(self.records[index]))
            return maker.prepare_augmented(shown.take(np.array(chosen)), rng)
        key = (self.number, index, chosen, bucket)
        return self._cache.get(key, lambda: maker.prepare(self.records[index], chosen))


def used_records(config: SourceConfig, records) -> np.ndarray:
    """Indices of the records in use: all, or those of scenes with text, or those of the others (`config.unlabelled`).

    Records without pictures are used for their text alone.
    """
    labelled = scenes_with_text(config, records)

    def used(row: dict) -> bool:
        with_text = row["scene"] in labelled
        wanted = {"keep": True, "drop": with_text, "only": not with_text}[config.unlabelled]
        return wanted and (row["views"] > 0 or (config.text and with_text))

    return np.flatnonzero([used(row) for row in records.rows])


def scenes_with_text(config: SourceConfig, records) -> frozenset[str]:
    """The scenes whose questions are shown: drawn from those that have a question (of any group and type)."""
    asked = (row["scene"] for row in records.rows if row["questions"])
    return labelled_scenes(asked, config.text_share, config.text_seed)


def check_splits(settings: Sequence[SourceConfig], records: Sequence) -> None:
    """Refuses scenes that one source shows with text and another of the same data without because its share leaves them out.

    A source with `text` False and no share shows the data without text on purpose and is no such source.

    Raises:
      ValueError: naming both sources and a scene.
    """
    asked, shown = [], []  # of each source: scenes with questions that it shows, and those whose text
    for setting, opened in zip(settings, records, strict=True):
        with_text = scenes_with_text(setting, opened)
        own = (opened.rows[int(index)] for index in used_records(setting, opened))
        asked.append({row["scene"] for row in own if row["questions"]})
        shown.append((asked[-1] & with_text if setting.text else set(), asked[-1] - with_text))
    same = [_identity(setting, opened) for setting, opened in zip(settings, records, strict=True)]
    for number, (_, without) in enumerate(shown):
        for other, (with_text, _) in enumerate(shown):
            if same[number] == same[other] and (both := without & with_text):
                shares = [(settings[one].text_share, settings[one].text_seed) for one in (number, other)]
                raise ValueError(
                    f"config.data.sources[{number}] shows scenes of {settings[number].path} without text, [{other}] with: their "
                    f"(text_share, text_seed) are {shares[0]} and {shares[1]}, so {len(both)} scenes would be both, e.g. "
                    f"'{min(both)}'. Make them equal, and let one drop what the other shows only."
                )


def _identity(config: SourceConfig, records) -> tuple[str, str]:
    """What tells the data of sources apart: the data set's hash and the split; of records without a manifest, their path."""
    known = getattr(records, "manifest", {}).get("data_sha256")
    path = config.path.rstrip("/") if "://" in config.path else os.path.realpath(config.path)
    return known or path, config.split


def shown_views(config: SourceConfig, records, limit: int, number: int) -> np.ndarray:
    """int32[n]: views that a sample of each record shows.

    Raises:
      ValueError: more than `limit`, naming the record and the source `number`.
    """
    available = np.array([row["views"] for row in records.rows], np.int32)
    shown = np.minimum(available, config.views) if config.views else available
    if len(shown) and shown.max() > limit:
        index = int(shown.argmax())
        raise too_many_views(records.rows[index]["id"], int(shown[index]), limit, number)
    return shown


def _feature_width(config: SourceConfig, ids: Sequence[str], missing: Mapping[str, frozenset[str]], number: int) -> int:
    first = next((name for name in ids if name not in missing.get(config.feature_folder, ())), None)
    if not config.feature_folder or first is None:
        return 0
    features = label_files.read_labels(config.feature_folder, first).features
    if features is not None and features.size:
        return int(features.shape[-1])
    if config.features == "auto":
        return 0
    raise ValueError(
        f"The label files in {config.feature_folder} hold no teacher features; "
        f"set config.data.sources[{number}].features to 'none'."
    )
