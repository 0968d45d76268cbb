"""What a phase writes of the processor it starts with."""

import os
import types

import pytest

from data_pipelines import manifest
from experiments import starting
from experiments.starting import write_processor
from spatialsv_jax.processing import InternVL3Processor, TinyProcessor, build_tokenizer, load_processor


@pytest.fixture
def processor():
    return TinyProcessor(build_tokenizer(["what", "is", "the", "chair", "?"]), image_size=16, patch_size=4, merge=2)


def test_a_kill_while_a_processor_is_written_leaves_the_old_files_whole(processor, tmp_path, monkeypatch):
    """Going on writes it again over that of the start before."""
    place = tmp_path / "processor"
    write_processor(processor, place)
    before = {file.name: file.read_bytes() for file in place.iterdir()}
    assert sorted(before) == ["processor.json", "tokenizer.json"]

    def killed(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(manifest.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_processor(processor, place)
    assert {file.name: file.read_bytes() for file in place.iterdir()} == before
    opened = [open(place / name) for name in before]  # as another process may have them
    write_processor(processor, place)
    for stream, text in zip(opened, before.values(), strict=True):
        with stream:
            assert os.fstat(stream.fileno()).st_nlink == 0 and stream.read().encode() == text
    assert load_processor(place).tokenizer.to_str() == processor.tokenizer.to_str()


def test_a_new_processor_of_a_pretrained_family_is_written_when_it_is_asked_for(tmp_path):
    """Not before: a start that is refused leaves the workdir as it was. What a killed writer left is removed."""
    vision = types.SimpleNamespace(tile_size=28, patch_size=14, merge=2)
    made = starting._made(lambda place: InternVL3Processor.from_scratch(place, vision))
    assert not list(tmp_path.iterdir())
    (tmp_path / "tokenizer.json.7.0123abcd.tmp").write_text("{")
    write_processor(made, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["processor.json", "tokenizer.json"]
    assert load_processor(tmp_path).tokenizer.to_str() == made.tokenizer.to_str()
    (tmp_path / "tokenizer.json.7.0123abcd.tmp").write_text("{")
    write_processor(load_processor(tmp_path), tmp_path / "copy")
    assert sorted(file.name for file in (tmp_path / "copy").iterdir()) == ["processor.json", "tokenizer.json"]
