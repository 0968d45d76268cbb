"""rooms: the procedural generator as a source; one room is one record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import data_pipelines.rooms
from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError, fingerprint, sha256_of
from data_pipelines.records import Record
from data_pipelines.rooms.config import SPLITS, RoomsConfig, distribution
from data_pipelines.rooms.questions import vocabulary
from data_pipelines.sources.base import Plan, Source, Tally, code_fingerprint, shard_items


@dataclasses.dataclass(frozen=True)
class RoomsSettings(RoomsConfig):
    """The generator's settings and how many rooms each split gets."""

    scenes: int = flag(0, "rooms for training")
    validation: int | None = flag(None, "rooms for validation; none = a twentieth of --scenes, at least 8")
    test: int | None = flag(None, "rooms for test, likewise")
    ood: int | None = flag(None, "rooms of other shapes, textures and sizes, for test, likewise")

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
      ValueError: categories that no room has, or none of them on the floor.
    """
    names = [field.name for field in dataclasses.fields(RoomsConfig)]
    config = RoomsConfig(**{name: getattr(settings, name) for name in names})
    wanted = dict(zip(SPLITS, (settings.scenes, settings.validation, settings.test, settings.ood), strict=True))
    items = {split: number for split, number in wanted.items() if number}
    arguments = {**dataclasses.asdict(settings), "assets": _assets_fingerprint(config.assets)}
    _check_categories(config, items)
    return Plan(
        source="rooms",
        version=_generator().GENERATOR_VERSION,
        code=code_fingerprint(Path(data_pipelines.rooms.__path__[0])),
        arguments=arguments,
        origin={"assets": str(Path(config.assets).resolve()) if config.assets else ""},
        items=items,
        items_per_shard=shard_items(max(items.values()), 8),
        steps=sum(items.values()),
        unit="room",
        state=config,
        vocabulary=_new_words(config),
    )


def _check_categories(config: RoomsConfig, splits: Iterable[str]) -> None:
    if config.categories or config.assets:
        from data_pipelines.rooms.assets import load_assets
        from data_pipelines.rooms.layout import category_table

        for split in splits:
            category_table(config, load_assets(config.assets), distribution(split).ood_shapes)


def _new_words(config: RoomsConfig) -> tuple[str, ...]:
    """Categories of the user's own meshes; a tokenizer made for the data must know them."""
    if not config.assets:
        return ()
    return tuple(sorted(set(vocabulary(_generator().question_words(config))) - set(vocabulary())))


def _assets_fingerprint(folder: str) -> str:
    """Stands for the folder's content in the arguments."""
    if not folder:
        return ""
    root = Path(folder)
    if not (root / "catalog.json").is_file():
        raise PrepareError(f"--assets {folder}: no catalog.json in it.")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return fingerprint([f"{path.relative_to(root)} {sha256_of(path)}" for path in files])


def _generator():
    """Loaded late: Embree and the meshes are no concern of the other sources."""
    from data_pipelines.rooms import generate

    return generate


def make(plan: Plan, split: str, index: int, tally: Tally) -> Iterator[Record]:
    """One room, rendered and asked about; see `Source`."""
    if (split, index) == ("train", 0) and plan.state.assets:
        from data_pipelines.rooms.assets import load_assets

        for name, reason in load_assets(plan.state.assets).left_out:
            tally.skip(name, reason, "assets_left_out")
    record, stats = _generator().make_record(plan.state, split, index)
    tally.add({name: value for name, value in stats.items() if name != "assets_left_out"})
    tally.step()
    yield record


def _summary(counts: Mapping[str, float], records: int) -> list[str]:
    tried = counts.get("tried", 0)
    refused = {name: counts[name] for name in ("close", "empty", "apart") if counts.get(name)}
    lines = [
        f"views tried: {tried:g}, refused {sum(refused.values()) / max(1, tried):.1%} "
        f"({', '.join(f'{name} {number:g}' for name, number in refused.items()) or 'none'}); "
        f"rooms given up: {counts.get('rooms_rejected', 0):g}"
    ]
    settings = {name.split("/")[1]: number for name, number in sorted(counts.items()) if name.startswith("setting/")}
    if settings:
        lines.append("view settings: " + ", ".join(f"{name} {n / records:.0%}" for name, n in settings.items()))
    made = {name.split("/")[-1]: n for name, n in sorted(counts.items()) if name.startswith("questions/made/")}
    if made:
        lines.append("questions: " + ", ".join(f"{name} {n:g}" for name, n in made.items()))
    if counts.get("assets_left_out"):
        lines.append(f"assets left out: {counts['assets_left_out']:g}")
    return lines


SOURCE = Source(RoomsSettings, plan, make, _summary)
