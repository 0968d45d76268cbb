"""Stands in for gcsfs: gs:// paths as files below $STORE, with gcsfs's memory for listings, which other processes do not share.

On the path it is found in workers too.
"""

from __future__ import annotations

import os

from fsspec.implementations.local import LocalFileSystem


class GCSFileSystem(LocalFileSystem):
    """A listed folder's contents are what they were then, until this process writes."""

    protocol = ("gcs", "gs")

    @classmethod
    def _strip_protocol(cls, path):
        path = os.fspath(path)
        return super()._strip_protocol(f"{os.environ['STORE']}/{path[5:]}" if path.startswith("gs://") else path)

    def ls(self, path, detail=False, **kwargs):
        path = self._strip_protocol(path)
        found = self._ls_from_cache(path)
        if found is None:
            self.dircache[path] = found = super().ls(path, detail=True)
        return found if detail else [entry["name"] for entry in found]

    def info(self, path, **kwargs):
        path = self._strip_protocol(path)
        for entry in self._ls_from_cache(path) or ():  # FileNotFoundError: the folder was listed without it
            if entry["name"] == path:
                return entry
        return super().info(path, **kwargs)

    def exists(self, path, **kwargs):
        try:
            self.info(path)
        except OSError:
            return False
        return True

    def isfile(self, path):
        return self.exists(path) and self.info(path)["type"] == "file"

    def isdir(self, path):
        return self.exists(path) and self.info(path)["type"] == "directory"

    def open(self, path, mode="rb", **kwargs):
        if "r" not in mode:
            self.dircache.clear()
        return super().open(path, mode, **kwargs)

    def mkdir(self, path, **kwargs):
        self.dircache.clear()
        super().mkdir(path, **kwargs)

    def makedirs(self, path, exist_ok=False):
        self.dircache.clear()
        super().makedirs(path, exist_ok)

    def rm(self, path, **kwargs):
        self.dircache.clear()
        super().rm(path, **kwargs)
