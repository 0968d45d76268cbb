"""A benchmark's question as a model is asked it, and the pictures that go with it."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from data_pipelines.manifest import PrepareError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FIELD = re.compile(r"\{(\w+)\}")


class RawError(PrepareError):
    """A raw file of a benchmark that cannot be used; the message names file, row and field."""


@dataclasses.dataclass(frozen=True)
class Media:
    """One picture or video of a question; nothing is read before it is asked for.

    Attributes:
      kind: "image" or "video".
      name: as the row names it, or its place in the table that holds it; tells media of a benchmark apart.
      path: the file, or the zip archive that has it; None where its bytes come from `load`.
      member: name in the archive.
      load: the bytes of a picture that a table holds.
      missing: there is no such file.
    """

    kind: str
    name: str
    path: Path | None = None
    member: str | None = None
    load: Callable[[], bytes] | None = None
    missing: bool = False

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
          RawError: it is missing, or its archive is broken.
        """
        if self.missing:
            raise RawError(f"{self.name} is missing.")
        if self.load is not None:
            return self.load()
        try:
            if self.member is None:
                return self.path.read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.member)
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, KeyError) as error:
            raise RawError(f"{self.name} in {self.path} cannot be read: {error}.") from error

    @contextlib.contextmanager
    def file(self) -> Iterator[Path]:
        """A path to the file (for videos: a folder of frames too), unpacked for the time being where an archive has it.

        Raises:
          RawError: as `read`.
        """
        if self.member is None:
            if self.missing:
                raise RawError(f"{self.name} is missing.")
            yield self.path
            return
        with tempfile.TemporaryDirectory() as folder:
            unpacked = Path(folder) / Path(self.member).name
            try:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as source:
                    with open(unpacked, "wb") as target:
                        shutil.copyfileobj(source, target)
            except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, KeyError) as error:
                raise RawError(f"{self.name} in {self.path} cannot be read: {error}.") from error
            yield unpacked


@dataclasses.dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
      id: unique in the benchmark; what its scorers read (MindCube's setting, 3DSRBench's qid, MMBench's index).
      place: file and row, as errors name them.
      question_type: task, category or level, as the scorers know it.
      question: as the benchmark has it.
      prompt: as the model is asked, without the pictures, which stand before it; `<view:K>` names picture K, from 0.
      options: the options' texts as the benchmark has them; None where there are none.
      ground_truth: the true answer; several where the benchmark has several (ScanQA).
      media: pictures in the order of the prompt, or videos.
      scene: what questions share their pictures, or None.
      dataset: the source within the benchmark, or None.
      row: the raw row without pictures, for logs of other harnesses.
    """

    id: str
    place: str
    question_type: str
    question: str
    prompt: str
    options: tuple[str, ...] | None
    ground_truth: str | tuple[str, ...]
    media: tuple[Media, ...]
    scene: str | None = None
    dataset: str | None = None
    row: Mapping = dataclasses.field(default_factory=dict)


def filled(template: str, **values: str) -> str:
    """A prompt from its template: `{question}`, `{options}`, `{letters}`, ... of `values`; other braces stay as they are."""
    return _FIELD.sub(lambda match: values.get(match[1], match[0]), template)


def lettered(options, form: str = "{}. {}") -> str:
    """Options line by line, with letters from A on."""
    return "\n".join(form.format(letter, text) for letter, text in zip(LETTERS, options, strict=False))
