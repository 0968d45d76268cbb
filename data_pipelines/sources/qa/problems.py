"""What is wrong with a row: every problem with its field and the form that was expected, collected to the end of the row."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from data_pipelines.manifest import PrepareError, write_atomically
from data_pipelines.paths import as_path

PRINTED = 20  # problems that a message lists; all of them are in the list that is written


class RowError(ValueError):
    """A row that cannot be used: the field, and what is wrong with it or was expected.

    Args:
      field: name of the field, "" = the whole row.
      problem: what is wrong.
      kind: one word for the counts.
    """

    def __init__(self, field: str, problem: str, kind: str):
        self.field, self.problem, self.kind = field, problem, kind
        self.problems: tuple[RowError, ...] = (self,)
        self.media: tuple = ()  # what the row shows all the same, for a check of its files
        self.scene = ""
        super().__init__(f"'{field}': {problem}" if field else problem)

    @classmethod
    def several(cls, problems: Sequence[RowError], media: Sequence = (), scene: str = "") -> RowError:
        """All problems of a row as one error; its kind is that of the first."""
        whole = cls(problems[0].field, problems[0].problem, problems[0].kind)
        whole.problems, whole.media, whole.scene = tuple(problems), tuple(media), scene
        return whole

    def __str__(self) -> str:
        alone = super().__str__
        return "; ".join([alone()] if len(self.problems) == 1 else [str(one) for one in self.problems])


class Checks:
    """Runs checks to the end of a row and keeps what each of them found."""

    def __init__(self):
        self.found: list[RowError] = []

    def __call__(self, check: Callable, *args, default=None):
        """What `check(*args)` returns; `default` where it found a problem, which is kept."""
        try:
            return check(*args)
        except RowError as error:
            self.found += error.problems
            return default

    def add(self, field: str, problem: str, kind: str) -> None:
        """Keeps a problem."""
        self.found.append(RowError(field, problem, kind))

    def close(self, media: Sequence = (), scene: str = "") -> None:
        """Ends the row.

        Raises:
          RowError: with every problem that was found.
        """
        if self.found:
            raise RowError.several(self.found, media, scene)


class RowsRefused(PrepareError):
    """Rows that stop a preparation; holds all reasons, which `write` lists.

    Args:
      message: which file they are of.
      problems: (place, reason) of everything that was left out.
    """

    def __init__(self, message: str, problems: Sequence[tuple[str, str]]):
        self.problems = tuple(problems)
        lines = [f"  {place}: {reason}" for place, reason in self.problems[:PRINTED]]
        more = len(self.problems) - len(lines)
        super().__init__("\n".join([message, *lines, *([f"  and {more} more"] if more else [])]))

    def write(self, out) -> str:
        """Writes all reasons beside the folder `out`, which stays as it is; returns the file's path."""
        path = as_path(f"{str(out).rstrip('/')}.skipped.jsonl")
        lines = [json.dumps({"id": place, "reason": reason}, sort_keys=True) for place, reason in self.problems]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            return f"{path}, which cannot be written ({error})"
        return str(path)
