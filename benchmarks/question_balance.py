"""How many questions of each type a record has, and how far the most frequent answer gets.

    python -m benchmarks.question_balance [--records 400] [--views 4] [--size 64] [--form word]

Prints the table of docs/questions.md for training rooms of the default arguments.
"""

from __future__ import annotations

import argparse
import collections
import tempfile

from data_pipelines.rooms.generate import GENERATOR_VERSION
from data_pipelines.rooms.questions import TYPES
from data_pipelines.storage import open_split
from experiments.prepare import prepare_rooms


def balance(directory: str) -> tuple[dict[str, collections.Counter], int]:
    """Answers of each type over the training rooms of a data set, and the number of rooms."""
    answers: dict[str, collections.Counter] = {}
    records = open_split(directory, "train")
    for number in range(len(records)):
        for question in records[number].questions:
            answers.setdefault(question.type, collections.Counter())[question.answer] += 1
    return answers, len(records)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=400)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--form", default="word")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rooms = dict(scenes=args.records, validation=0, test=0, ood=0, views=args.views, size=args.size, form=args.form)
        prepare_rooms(f"{folder}/rooms", progress=False, **rooms)
        answers, records = balance(f"{folder}/rooms")
    total = sum(count.total() for count in answers.values())
    print(f"generator {GENERATOR_VERSION}, {records} rooms, {total / records:.0f} questions a record")
    print("| type | questions a record | most frequent answer |\n|---|---|---|")
    for name in (name for name in TYPES if name in answers):
        count = answers[name]
        print(f"| `{name}` | {count.total() / records:.1f} | {max(count.values()) / count.total():.2f} |")


if __name__ == "__main__":
    main()
