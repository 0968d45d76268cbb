"""docs/bring_your_own_data.md: its commands run, its configs resolve, its messages are those of the validator."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from data_pipelines.manifest import PrepareError, read_manifest
from data_pipelines.sources import SOURCES
from data_pipelines.storage import open_split
from experiments import evaluate, prepare, reconstruct
from experiments.prepare import look

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/bring_your_own_data.md").read_text()
COMMANDS = [shlex.split(line) for line in re.findall(r"^    python -m (experiments\..*)$", PAGE, re.MULTILINE)]


def test_the_page_is_linked():
    assert "bring_your_own_data.md" in (ROOT / "README.md").read_text()
    assert "bring_your_own_data.md" in (ROOT / "docs/sources/README.md").read_text()


def test_its_commands_prepare_every_start(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    made = [words for words in COMMANDS if words[0] == "experiments.prepare"]
    for _, *words in made:
        assert prepare.main([*words, "--workers", "1", "--quiet"]) == 0
    assert len(made) == 5 and "3 rows can be used" in capsys.readouterr().out
    counts = {path.name: read_manifest(path)["splits"]["train"]["counts"] for path in (tmp_path / "data").iterdir()}
    assert counts["photos"]["frames_kept"] == counts["captures"]["frames_kept"] == 4
    assert counts["asked"]["rows_used"] == 3 and counts["asked"]["rows_changed/text_only"] == 1
    assert counts["joined"]["pictures/with_geometry"] == 3
    joined = open_split("data/joined", "train")
    assert all(joined[place].pose_valid.all() and all(joined[place].depths) for place in range(2))
    assert open_split("data/captures", "train")[0].depth_unit_m == joined[0].depth_unit_m == 0.001


def test_its_other_commands_resolve(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = {words[0]: words[1:] for words in COMMANDS}
    words = found["experiments.train"]

    def resolved(*more):
        arguments = ["train", f"--config={words[words.index('--config') + 1]}"]
        arguments += [word for word in (*words, *more) if word.startswith("--config.")]
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values)
        monkeypatch.setattr(sys, "argv", arguments)  # where overrides are looked for
        values(arguments)
        return values.config

    config = resolved()
    assert config.data.sources.train.path == "data/joined" and config.training.steps == 4
    assert (ROOT / config.init_from / "config.json").is_file()
    with pytest.raises(KeyError, match="trian"):
        resolved("--config.data.sources.trian.path=x")
    evaluate.parser().parse_args(found["experiments.evaluate"])
    assert all(
        Path(name).is_file() for name in reconstruct.parser().parse_args(found["experiments.reconstruct"]).images
    )


def row(text="<image>\nWhere?", *answers, **fields):
    said = [{"role": "user", "content": text}] + [{"role": "assistant", "content": answer} for answer in answers]
    return {"images": ["images/a.jpg"], "messages": said, **fields}


MISTAKES = {
    "more `<image>` than images": row("<image><image>\nWhere?", "Left."),
    "fewer": row("<image>\nWhere?", "Left.", images=["images/a.jpg", "images/b.jpg"]),
    "a file that is not there": row("<image>\nWhere?", "Left.", images=["images/none.jpg"]),
    "a path out of the folder": row("<image>\nWhere?", "Left.", images=["../a.jpg"]),
    "the answer is missing": row(),
    "an empty answer": row("<image>\nWhere?", ""),
    "two questions in a row": {"messages": [{"role": "user", "content": "Where?"}] * 2},
    "a letter that is no option": row("<image>\nWhere?\nA. left\nB. right", "C"),
    "another answer than the options": row("<image>\nWhere?\nA. left\nB. right", "purple"),
    "options that cannot be read": row("<image>\nWhere?\nA. left\nA. right", "A"),
    "pictures in another field": {**row("Where?", "Left."), "images": [], "image_path": "images/a.jpg"},
    "an answer not to be learned": {
        "messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Left.", "loss": False}]
    },
    "an answer with a tag": row("<image>\nWhere?", "<image>"),
    "no `messages`": {"images": ["images/a.jpg"]},
}


def test_the_messages_are_those_of_the_validator(tmp_path, capsys):
    table = dict(re.findall(r"^\| (.+?) \| `(.+)` \|$", PAGE.split("## What the validator says")[1], re.MULTILINE))
    raw = shutil.copytree(ROOT / "docs/examples/own_data/asked", tmp_path / "asked")
    for mistake, fields in MISTAKES.items():
        (raw / "questions.jsonl").write_text(f"{json.dumps(row('Hello?', 'Yes.'))}\n{json.dumps(fields)}\n")
        look("messages", SOURCES["messages"].settings(raw=str(raw)))
        said = capsys.readouterr().out
        assert "questions.jsonl, line 2: " in said and table[mistake] in said, (mistake, said)
    (raw / "images/broken.jpg").write_bytes((raw / "images/a.jpg").read_bytes()[:300])
    broken = json.dumps(row("<image>\nWhere?", "Left.", images=["images/broken.jpg"]))
    (raw / "questions.jsonl").write_text(f"{json.dumps(row('Hello?', 'Yes.'))}\n{broken}\n{{\n")
    settings = SOURCES["messages"].settings(raw=str(raw))
    prepare.prepare("messages", settings, tmp_path / "out", workers=None, progress=False)
    skipped = (tmp_path / "out/skipped.jsonl").read_text()
    assert table["a broken picture"] in skipped and table["a broken line"] in skipped
    assert set(table) == {*MISTAKES, "a broken picture", "a broken line"}
    (raw / "questions.jsonl").write_text("{\n")
    with pytest.raises(PrepareError, match="No row of .* can be used. Most frequent problems: .*not_json"):
        look("messages", settings)
