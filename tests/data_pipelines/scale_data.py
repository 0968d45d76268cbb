"""What the tests of Beam and of object stores share: rooms, a scene with a teacher's export, the bytes of a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from data_pipelines.labels.files import label_path
from data_pipelines.sources import SOURCES
from data_pipelines.storage import open_split
from experiments.prepare import prepare, prepare_rooms

LAYOUTS = Path(__file__).parents[1] / "layouts"
ROOMS = dict(scenes=24, validation=0, test=1, ood=0, views=2, size=24)


def local_rooms(folder: Path) -> Path:
    """Rooms made by one process."""
    prepare_rooms(folder, workers=None, progress=False, **ROOMS)
    return folder


def exported_scene(root: Path) -> tuple[Path, Path]:
    """(data, exports): a record of four views and VGGT's export of them."""
    prepare("nerfstudio", SOURCES["nerfstudio"].settings(raw=str(LAYOUTS / "nerfstudio"), views=4), root / "data", workers=None, progress=False)  # fmt: skip
    record = open_split(root / "data", "train")[0]
    place = root / "exports" / label_path("", record.id).name.removesuffix(".npz") / "predictions.npz"
    place.parent.mkdir(parents=True)
    shutil.copy(LAYOUTS / "teachers/vggt_predictions.npz", place)
    return root / "data", root / "exports"


def files_of(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
