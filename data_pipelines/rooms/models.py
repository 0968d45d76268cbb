"""Builds the mesh of any parametric category, and the materials of its parts."""

from __future__ import annotations

import numpy as np

from data_pipelines.rooms import models_seats, models_storage, models_things
from data_pipelines.rooms.furniture import CATEGORIES
from data_pipelines.rooms.meshes import SLOTS, Kit, Model
from data_pipelines.rooms.textures import Material

MODELS = {**models_seats.MODELS, **models_storage.MODELS, **models_things.MODELS}


def build(category: str, family: str, size: np.ndarray, rng: np.random.Generator) -> Model:
    """The mesh of `category` in its own frame, bounding box exactly `size` (width, depth, height in metres).

    Raises:
      ValueError: unknown category, or a family that the category does not have.
    """
    if category not in MODELS:
        raise ValueError(f"Category '{category}' unknown. Categories: {', '.join(sorted(MODELS))}.")
    families = CATEGORIES[category].families + CATEGORIES[category].ood_families
    if family not in families:
        raise ValueError(f"Category '{category}' has no family '{family}'. Families: {', '.join(families)}.")
    kit = Kit(size, rng)
    MODELS[category](kit, family)
    return kit.finish()


def accent_materials(rng: np.random.Generator) -> tuple[Material, ...]:
    """The scene's materials for SLOTS[1:] (all but "main"), in that order."""
    wood = ((150, 104, 64), (112, 74, 46), (188, 150, 106))[int(rng.integers(3))]
    dark_wood = tuple(0.78 * channel for channel in wood)
    table = {
        "wood": Material("wood", "wood", int(rng.integers(3)), dark_wood, wood, 0.7),
        "metal": Material("metal", "brushed", 0, (128, 130, 134), (172, 174, 178), 0.3),
        "dark": Material("dark", "plain", 0, (52, 50, 50), (52, 50, 50)),
        "light": Material("light", "fabric", 0, (216, 214, 206), (232, 230, 224), 0.3),
        "paper": Material("paper", "plain", 0, (202, 190, 166), (202, 190, 166)),
        "glow": Material("glow", "plain", 0, (255, 236, 190), (255, 236, 190), 1.0, 0.8),
    }
    return tuple(table[slot] for slot in SLOTS[1:])
