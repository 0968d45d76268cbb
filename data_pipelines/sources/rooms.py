"""rooms: the procedural generator as a source; one room is one record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_pipelines.manifest import PrepareError, fingerprint, sha256_of
from data_pipelines.records import Record
from data_pipelines.rooms.config import SPLITS, RoomsConfig
from data_pipelines.sources.base import Plan, Source, Tally, shard_items

VERSION = "1"  # raise when the generator makes other records from the same arguments


@dataclasses.dataclass(frozen=True)
class RoomsSettings(RoomsConfig):
    """The generator's settings and how many rooms each split gets."""

    scenes: int = dataclasses.field(default=0, metadata={"help": "rooms for training"})
    validation: int | None = dataclasses.field(
        default=None, metadata={"help": "rooms for validation (default: a twentieth of --scenes, at least 8)"}
    )
    test: int | None = dataclasses.field(default=None, metadata={"help": "rooms for test (default likewise)"})
    ood: int | None = dataclasses.field(
        default=None, metadata={"help": "rooms of other shapes, textures and sizes, for test (default likewise)"}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.scenes < 1:
            raise ValueError(f"--scenes is {self.scenes}; expected 1 or more rooms for training.")
        for name in ("validation", "test", "ood"):
            number = getattr(self, name)
            if number is None:
                object.__setattr__(self, name, max(8, self.scenes // 20))
            elif number < 0:
                raise ValueError(f"--{name} is {number}; expected 0 or more.")


def plan(settings: RoomsSettings) -> Plan:
    """Counts the rooms of each split; splits never share a room.

    Raises:
      PrepareError: an assets folder without catalog.json.
    """
    names = [field.name for field in dataclasses.fields(RoomsConfig)]
    config = RoomsConfig(**{name: getattr(settings, name) for name in names})
    wanted = dict(zip(SPLITS, (settings.scenes, settings.validation, settings.test, settings.ood), strict=True))
    items = {split: number for split, number in wanted.items() if number}
    arguments = {**dataclasses.asdict(settings), "assets": _assets_fingerprint(config.assets)}
    return Plan(
        source="rooms",
        version=VERSION,
        arguments=arguments,
        origin={"assets": str(Path(config.assets).resolve()) if config.assets else ""},
        items=items,
        items_per_shard=shard_items(max(items.values()), 16),
        steps=sum(items.values()),
        unit="room",
        state=config,
    )


def _assets_fingerprint(folder: str) -> str:
    """Stands for the folder's content in the arguments: the catalogue's bytes, every file's name and size."""
    if not folder:
        return ""
    root = Path(folder)
    catalogue = root / "catalog.json"
    if not catalogue.is_file():
        raise PrepareError(f"--assets {folder}: no catalog.json in it.")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return fingerprint([sha256_of(catalogue), *(f"{path.relative_to(root)} {path.stat().st_size}" for path in files)])


def make(plan: Plan, split: str, index: int, tally: Tally) -> Iterator[Record]:
    """One room, rendered and asked about; see `Source`."""
    from data_pipelines.rooms import generate  # loads Embree: in workers only

    record, stats = generate.make_record(plan.state, split, index)
    tally.add(stats)
    tally.step()
    yield record


def _summary(counts: Mapping[str, float], records: int) -> list[str]:
    return [f"{name}: {number:g} ({number / max(1, records):.2f} per room)" for name, number in sorted(counts.items())]


SOURCE = Source(RoomsSettings, plan, make, _summary)
