"""Lets single files of the harnesses be imported and run without what they need for models, pictures and downloads."""

from __future__ import annotations

import importlib.abc
import importlib.util
import types
from pathlib import Path

STORE: dict[str, object] = {}  # what the kit "saves"


class Nothing:
    """Stands for any class or function of a package that is not there."""

    def __init__(self, *args, **kwargs): ...

    def __call__(self, *args, **kwargs):
        return self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()


class Empty(types.ModuleType):
    """A module of which every name is `Nothing`."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Nothing,), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Real modules for `real`, packages without their __init__ for their parents, empty ones for the rest of `roots`."""

    def __init__(self, roots: dict[str, Path | None], real: set[str]):
        self.roots, self.real = roots, real

    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root not in self.roots:
            return None
        base = self.roots[root]
        if name in self.real:
            file = base / (name.replace(".", "/") + ".py")
            return importlib.util.spec_from_file_location(name, file)
        return importlib.util.spec_from_loader(name, self, is_package=True)

    def create_module(self, spec):
        return Empty(spec.name)

    def exec_module(self, module): ...


def keep(value, path, *args, **kwargs):
    """The kit's dump."""
    STORE[str(path)] = value.copy() if hasattr(value, "copy") else value


def kept(path, *args, **kwargs):
    """The kit's load."""
    return STORE[str(path)]


def run_all(func, tasks, save=None, keys=None, **_):
    """The kit's track_progress_rich, one task after the other."""
    found = [func(**task) for task in tasks]
    if save is not None:
        keep(dict(zip(keys, found, strict=True)), save)
    return found


def file_module(path: Path):
    """A single file as a module."""
    spec = importlib.util.spec_from_file_location(path.parent.name.replace("-", "_") + path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
