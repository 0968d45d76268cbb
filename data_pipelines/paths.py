"""Local folders and object stores alike: `gs://` paths go through epath, all others are pathlib's."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec.config
from etils import epath

# gcsfs remembers every listing for ever. Here one process looks for what others write, so none may be remembered, neither
# in this process nor in workers, which import this module with what they are given to do.
fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False


_usable: set[str] = set()  # kinds of store whose package was found


def as_path(path: str | os.PathLike) -> Path:
    """A `pathlib.Path`, or for `gs://bucket/...` an `epath.Path`, which has the same methods.

    Raises:
      ValueError: a remote path whose package is missing.
    """
    text = os.fspath(path)
    if "://" not in text:
        return Path(text)
    place, kind = epath.Path(text), text.partition("://")[0]
    if kind in _usable:  # a store is asked once, not for every path
        return place
    try:
        place.exists()
    except ImportError as error:
        raise ValueError(
            f"{text} needs a package that is not installed: pip install 'spatialsv-jax[gcs]' ({error})."
        ) from error
    _usable.add(kind)
    return place


def local_path(path: str | os.PathLike, what: str) -> Path:
    """The absolute path of what must lie in a file system.

    Raises:
      ValueError: it lies in an object store; `what` it is of.
    """
    if is_remote(path):
        raise ValueError(
            f"{what} is '{os.fspath(path)}', but must be a folder of a file system: give a local one and copy it, or mount the "
            "bucket (docs/at_scale.md)."
        )
    return Path(path).absolute()


def copies_folder() -> Path:
    """Where copies from object stores lie on this machine: $SPATIALSV_CACHE, by default ~/.cache/spatialsv_jax."""
    return Path(os.environ.get("SPATIALSV_CACHE") or Path.home() / ".cache" / "spatialsv_jax").expanduser().resolve()


def is_remote(path: os.PathLike) -> bool:
    """Whether a path lies in an object store: there are no locks and no renaming, and a written object shows at once whole."""
    return "://" in os.fspath(path)


def file_size(path: Path) -> int:
    """Bytes of a file."""
    found = path.stat()
    return found.length if is_remote(path) else found.st_size


def remove_tree(path: Path) -> None:
    """Removes a folder with all in it, if it is there."""
    if path.exists():
        epath.Path(path).rmtree()
