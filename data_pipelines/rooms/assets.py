"""The user's own meshes: a folder of GLB / OBJ files with a `catalog.json`, mixed in with the parametric ones.

`catalog.json` is a list (or {"assets": list}) of

    {"name": "egg_chair", "file": "egg_chair.glb", "category": "chair", "size": [0.8, 0.7, 1.1], "stands_on": "floor"}

`size` is width, depth, height in metres; `stands_on` is "floor", "wall" or a list of categories.
Without `file`, NAME.glb or NAME.obj is taken. Files are read with y up and the front along +z (the
glTF convention); `"up": "z"` means z up and the front along -y. Categories are single lower-case
words; new ones extend the vocabulary. `"ood": true` keeps a mesh for the out-of-distribution split, which
shows no others. A mesh's colour name is the nearest of `furniture.COLOURS` to
the colour of most of its surface.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import pathlib
import re

import numpy as np
import trimesh

from data_pipelines.rooms.furniture import CATEGORIES, COLOURS, Category
from data_pipelines.rooms.meshes import Model
from data_pipelines.rooms.questions.forms import vocabulary
from data_pipelines.rooms.textures import Material, linear_from_srgb

MAX_FACES = 200_000
MAX_FILE_BYTES = 256 * 2**20
_WORD = re.compile(r"[a-z]+")
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Asset:
    """One usable mesh. `face_slot` of the model indexes `materials`."""

    name: str
    category: str
    colour: str
    size: np.ndarray  # float64[3] metres
    stands_on: tuple[str, ...]  # ("floor",), ("wall",) or categories
    model: Model
    materials: tuple[Material, ...]
    ood: bool = False  # stands in the out-of-distribution split alone; the others stand in all but that

    @property
    def placement(self) -> str:
        """ "any" (floor), "hung" (wall) or "top"."""
        return {("floor",): "any", ("wall",): "hung"}.get(self.stands_on, "top")


@dataclasses.dataclass(frozen=True)
class AssetLibrary:
    """The usable assets of a folder, and why others were left out."""

    assets: tuple[Asset, ...]
    left_out: tuple[tuple[str, str], ...]  # (name, reason)

    def categories(self) -> dict[str, Category]:
        """Category words that the parametric furniture does not have, with where such things go."""
        found = {}
        for asset in self.assets:
            size = tuple(float(value) for value in asset.size)
            stands_on = asset.stands_on if asset.placement == "top" else ()
            bottom = (1.2, 1.5) if asset.placement == "hung" else (0.0, 0.0)
            found.setdefault(asset.category, Category(size, size, (), (), asset.placement, stands_on, 1.0, bottom))
        return found


class _BadAsset(ValueError):
    pass


class _FolderResolver(trimesh.resolvers.FilePathResolver):
    """Opens material and texture files inside the assets' folder only."""

    def __init__(self, path: pathlib.Path, root: pathlib.Path):
        super().__init__(str(path))
        self._folder, self._root = path.parent, root

    def get(self, name: str) -> bytes:
        target = (self._folder / name).resolve()
        if not target.is_relative_to(self._root):
            raise _BadAsset(f"refers to '{name}' outside the folder")
        return target.read_bytes()


def load_assets(folder: str) -> AssetLibrary:
    """Reads the catalog and every mesh; bad ones are logged and left out. No folder ("") gives no assets.

    Raises:
      FileNotFoundError: no such folder or no catalog.json in it.
      ValueError: the catalog is not JSON or not a list of entries.
    """
    if not folder:
        return AssetLibrary((), ())
    root = pathlib.Path(folder).resolve()
    catalog = root / "catalog.json"
    if not catalog.is_file():
        raise FileNotFoundError(
            f"Assets folder '{folder}' has no catalog.json. Expected a list of meshes in {catalog}."
        )
    return _load(str(root), os.stat(catalog).st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _load(folder: str, _changed: int) -> AssetLibrary:
    root = pathlib.Path(folder)
    try:
        entries = json.loads((root / "catalog.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{root / 'catalog.json'} is not JSON: {error}.") from error
    if isinstance(entries, dict):
        entries = entries.get("assets")
    if not isinstance(entries, list):
        raise ValueError(f"{root / 'catalog.json'} must hold a list of meshes or {{'assets': [...]}}.")
    assets, left_out, names = [], [], set()
    for number, entry in enumerate(entries):
        name = str(entry.get("name", f"entry {number}")) if isinstance(entry, dict) else f"entry {number}"
        try:
            if name in names:
                raise _BadAsset("name occurs twice")
            assets.append(_read(root, entry))
            names.add(name)
        except _BadAsset as error:
            left_out.append((name, str(error)))
    while unsupported := _first_unsupported(assets):
        asset, reason = unsupported
        assets.remove(asset)
        left_out.append((asset.name, reason))
    for name, reason in left_out:
        _LOG.warning("Asset '%s' of %s left out: %s.", name, root, reason)
    return AssetLibrary(tuple(assets), tuple(left_out))


def _first_unsupported(assets: list[Asset]) -> tuple[Asset, str] | None:
    """An asset that stands on a category that no split of it has, and why it must go."""
    for asset in assets:
        if asset.placement == "top":
            known = {*CATEGORIES, *(other.category for other in assets if other.ood == asset.ood)}
            if unknown := [name for name in asset.stands_on if name not in known]:
                return asset, f"stands_on names {unknown}, which no room has"
    return None


def _read(root: pathlib.Path, entry) -> Asset:
    name, category, size, stands_on, up, ood = _check_entry(entry)
    path = _find(root, name, entry.get("file"))
    vertices, faces, colours = _mesh(path, root)
    if up == "y":
        vertices = vertices[:, [0, 2, 1]] * np.array([1.0, -1.0, 1.0])
    low, high = vertices.min(0), vertices.max(0)
    if (high - low).min() <= 1e-9 * (high - low).max():
        raise _BadAsset("mesh is flat: its bounding box has no volume")
    centred = (vertices - (low + high) / 2) / (high - low) * size + np.array([0.0, 0.0, size[2] / 2])
    slots, palette, colour = _palette(centred, faces, colours)
    materials = tuple(Material(f"asset {name}", "plain", 0, tuple(row), tuple(row)) for row in palette)
    model = Model(centred, faces, slots, ())
    return Asset(name, category, colour, size, stands_on, model, materials, ood)


def _check_entry(entry) -> tuple[str, str, np.ndarray, tuple[str, ...], str, bool]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise _BadAsset("entry is not an object with a 'name'")
    category = entry.get("category")
    if not isinstance(category, str) or not _WORD.fullmatch(category):
        raise _BadAsset(f"category {category!r} is not one lower-case word")
    if category in set(vocabulary()) - set(CATEGORIES):  # "red" or "left" would be two answers in one
        raise _BadAsset(f"category '{category}' is a colour or another word of the questions")
    try:
        size = np.array(entry.get("size"), np.float64)
    except (TypeError, ValueError):
        size = np.zeros(0)
    if size.shape != (3,) or not np.isfinite(size).all() or size.min() < 0.01 or size.max() > 6.0:
        raise _BadAsset(f"size {entry.get('size')!r} is not three lengths of 0.01 to 6 metres")
    stands_on = entry.get("stands_on", entry.get("stands-on", "floor"))
    stands_on = (stands_on,) if isinstance(stands_on, str) else tuple(stands_on) if isinstance(stands_on, list) else ()
    if not stands_on or not all(isinstance(word, str) and _WORD.fullmatch(word) for word in stands_on):
        raise _BadAsset(f"stands_on {entry.get('stands_on')!r} is not 'floor', 'wall' or a list of categories")
    if len(stands_on) > 1 and {"floor", "wall"} & set(stands_on):
        raise _BadAsset("stands_on mixes 'floor' or 'wall' with categories")
    up = entry.get("up", "y")
    if up not in ("y", "z"):
        raise _BadAsset(f"up {up!r} is not 'y' or 'z'")
    ood = entry.get("ood", False)
    if not isinstance(ood, bool):
        raise _BadAsset(f"ood {ood!r} is not true or false")
    return entry["name"], category, size, stands_on, up, ood


def _find(root: pathlib.Path, name: str, file) -> pathlib.Path:
    candidates = [file] if isinstance(file, str) else [f"{name}.glb", f"{name}.obj"]
    for candidate in candidates:
        path = (root / candidate).resolve()
        if not path.is_relative_to(root):
            raise _BadAsset(f"file '{candidate}' lies outside the folder")
        if path.suffix.lower() not in (".glb", ".obj"):
            raise _BadAsset(f"file '{candidate}' is not .glb or .obj")
        if path.is_file():
            if path.stat().st_size > MAX_FILE_BYTES:
                raise _BadAsset(f"file '{candidate}' has more than {MAX_FILE_BYTES >> 20} MiB")
            return path
    raise _BadAsset(f"file missing: {' or '.join(map(str, candidates))}")


def _mesh(path: pathlib.Path, root: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices float64[N,3], faces int32[M,3], face colours sRGB float64[M,3] of all meshes of the file."""
    try:
        with open(path, "rb") as file:
            loaded = trimesh.load_scene(
                file, file_type=path.suffix[1:].lower(), resolver=_FolderResolver(path, root), process=False
            )
        parts = [part for part in loaded.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    except Exception as error:  # a mesh file may break its reader in any way; the reason is reported
        raise _BadAsset(f"cannot be read ({type(error).__name__}: {error})") from error
    if not parts:
        raise _BadAsset("mesh is empty")
    total = sum(len(part.faces) for part in parts)
    if total > MAX_FACES:
        raise _BadAsset(f"mesh has {total} faces, more than {MAX_FACES}")
    shift = np.concatenate([[0], np.cumsum([len(part.vertices) for part in parts])])
    vertices = np.concatenate([np.asarray(part.vertices, np.float64) for part in parts])
    faces = np.concatenate([np.asarray(part.faces) + shift[k] for k, part in enumerate(parts)])
    colours = np.concatenate([_face_colours(part) for part in parts])
    if not np.isfinite(vertices).all():
        raise _BadAsset("mesh has NaN or infinite vertices")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise _BadAsset("mesh has faces that name missing vertices")
    used = np.unique(faces)  # stray vertices must not stretch the bounding box
    renumber = np.zeros(len(vertices), np.int32)
    renumber[used] = np.arange(len(used), dtype=np.int32)
    return vertices[used], renumber[faces], colours


def _face_colours(mesh: trimesh.Trimesh) -> np.ndarray:
    """sRGB float64[M,3]: face or vertex colours, the texture at the corners, or the material's one colour."""
    visual, corners = mesh.visual, np.asarray(mesh.faces)
    if visual.kind == "texture":
        material = visual.material
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        if image is not None and visual.uv is not None and len(visual.uv) == len(mesh.vertices):
            return _texels(image, visual.uv)[corners].mean(1)
        return np.tile(np.asarray(material.main_color, np.float64)[:3], (len(corners), 1))
    return np.asarray(visual.face_colors, np.float64)[:, :3]


def _texels(image, uv: np.ndarray) -> np.ndarray:
    """sRGB float64[N,3] of a texture image at uv (v up, wrapped); a coordinate that is no number counts as 0."""
    pixels = np.asarray(image.convert("RGB"), np.float64)
    height, width = pixels.shape[:2]
    wrapped = np.nan_to_num(np.asarray(uv, np.float64), nan=0.0, posinf=0.0, neginf=0.0) % 1.0
    column = np.minimum((wrapped[:, 0] * width).astype(int), width - 1)
    row = np.minimum(((1.0 - wrapped[:, 1]) * height).astype(int), height - 1)
    return pixels[row, column]


def _palette(vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Few colours that stand for all: palette index per face, palette float64[K,3], name of the main colour."""
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    if area.sum() <= 0:
        raise _BadAsset("mesh has no surface")
    coarse = np.minimum(colours // 32, 7) * 32 + 16
    values, number = np.unique(coarse, axis=0, return_inverse=True)
    weight = np.bincount(number.ravel(), area, len(values))
    keep = np.argsort(-weight, kind="stable")[:32]
    nearest = np.argmin(((values[:, None] - values[keep][None]) ** 2).sum(-1), 1)
    names = np.argmin(
        ((_lab(values)[:, None] - _lab(np.array(list(COLOURS.values()), np.float64))[None]) ** 2).sum(-1), 1
    )
    main = list(COLOURS)[int(np.argmax(np.bincount(names, weight, len(COLOURS))))]
    return nearest[number.ravel()].astype(np.int32), values[keep], main


def _lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of sRGB 0..255, float64[N,3]."""
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear_from_srgb(rgb) @ matrix.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)
