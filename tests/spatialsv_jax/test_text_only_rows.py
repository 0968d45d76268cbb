"""Rows without pictures: the prompt of the published templates, and a model that sees nothing but their text."""

from pathlib import Path

import decoder_runs
import family_runs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.collate import collate
from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.packing import encode_turns
from data_pipelines.records import Question, Record
from data_pipelines.rows import RowBuilder
from data_pipelines.samples import SampleMaker
from spatialsv_jax.backbones.decoder import Decoder
from spatialsv_jax.losses import objective
from spatialsv_jax.model import LanguageConfig, LiftingConfig, SpatialMLLM, VisionConfig
from spatialsv_jax.processing import PROCESSORS
from spatialsv_jax.processing.llava_next_video import LlavaNextVideoProcessor
from spatialsv_jax.processing.tiny import TinyProcessor, build_tokenizer

GOLDENS = Path(__file__).parents[1] / "goldens"
CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
TEMPLATES = {  # as the published chat templates write a message without pictures
    "qwen2_5_vl": SYSTEM + CHATML,
    "llava_onevision1_5": SYSTEM + CHATML,
    "internvl3": CHATML,
    "llava_next_video": "<s>USER: {} ASSISTANT:",
}


@pytest.mark.parametrize("family", TEMPLATES)
def test_prompts_without_pictures_are_those_of_the_templates(family):
    processor = PROCESSORS[family].from_checkpoint(GOLDENS / family)
    prefix, text = processor.encode_prefix(0), "What is three plus four?"
    asked = processor.encode_question(text, pictures=False)
    tokens = [*prefix.tokens, *asked.tokens]
    assert tokens == processor.tokenizer.encode(TEMPLATES[family].format(text), add_special_tokens=False).ids
    assert processor.image_id not in tokens and prefix.image_token_index.shape == (0, np.prod(processor.grid_hw))
    np.testing.assert_array_equal(prefix.positions, np.arange(len(prefix.tokens))[:, None] + 0 * prefix.positions)
    assert prefix.question_start == len(prefix.tokens)
    question = Question("q", "t", "spatial", "word", text, "seven", turns=(("And more?", "eight"),))
    alone, answers = encode_turns(question, processor, pictures=False)
    assert alone[: len(asked.tokens)].tolist() == asked.tokens.tolist() and answers.sum() > 2


def record(number, views, words):
    """A record of grey pictures with one question; depth and cameras where it has pictures."""
    import io

    from PIL import Image

    def png(values):
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "PNG")
        return buffer.getvalue()

    rng = np.random.default_rng(number)
    pose = np.tile(np.eye(4), (views, 1, 1))
    pose[:, 0, 3] = np.arange(views)
    return Record(
        id=f"r{number}", dataset="d", scene=f"s{number}", setting="x", view_ids=tuple(map(str, range(views))),
        images=tuple(png(rng.integers(0, 255, (16, 16, 3), np.uint8)) for _ in range(views)),
        depths=tuple(png(rng.integers(900, 2000, (16, 16)).astype(np.uint16)) for _ in range(views)),
        depth_unit_m=0.001, intrinsics=np.tile([[16.0, 0, 8], [0, 16, 8], [0, 0, 1]], (views, 1, 1)), camera_to_world=pose,
        pose_valid=np.ones(views, bool), questions=(Question("q", "t", "spatial", "word", *words),),
    )  # fmt: skip


VISION = VisionConfig(image_size=16, patch_size=4, width=16, layers=1, heads=2)
RECORDS = (
    record(0, 2, ("what colour", "red")), record(1, 0, ("what is red and blue", "red blue")), record(2, 1, ("what", "blue")),
)  # fmt: skip


def batch_of(processor, records, **settings):
    values = {"questions": 2, "question_tokens": 12, "answer_tokens": 3, "views": 2, "label_size": (16, 16), **settings}
    config = DataConfig(sources=(), **values)
    maker = SampleMaker(SourceConfig(path="x"), config.sample_settings, processor)
    builder = RowBuilder(config, processor)
    rows = []
    for number, one in enumerate(records):
        sample = maker.prepare(one, tuple(range(len(one.view_ids))))
        rows.append(builder.row(sample, np.arange(1), sample, number, 0))
    return collate(rows, len(rows))


@pytest.fixture(scope="module")
def tiny():
    processor = TinyProcessor(build_tokenizer("what colour is red blue and".split()), 16, 4, 2)
    language = LanguageConfig(
        vocab_size=processor.vocab_size, width=16, layers=4, heads=4, kv_heads=2, head_dim=8, mlp_width=24, unroll=1
    )
    model = SpatialMLLM(VISION, language, LiftingConfig(width=8, channels=(4, 4, 4, 4), features=4))
    params = model.init_params(jax.random.key(0), batch_of(processor, RECORDS), label_hw=(16, 16))
    run = jax.jit(lambda params, batch: model.apply({"params": params}, batch, label_hw=(16, 16)))
    return processor, model, params, run


def test_a_row_of_text_is_masked_everywhere(tiny):
    batch = batch_of(tiny[0], RECORDS)
    assert batch["view_valid"].tolist() == [[True, True], [False, False], [True, False]]
    assert batch["prefix_mask"].sum(1).tolist() == [len(tiny[0].encode_prefix(n).tokens) for n in (2, 0, 1)]
    for name in ("pixel_values", "depth", "valid", "covered", "pose_valid", "depth_valid", "has_geometry"):
        assert not batch[name][1].any()
    assert batch["has_text"].all() and batch["has_geometry"][0]


def test_other_rows_learn_the_same_beside_a_row_of_text(tiny):
    processor, model, params, run = tiny
    mixed, without = batch_of(processor, RECORDS), batch_of(processor, (RECORDS[0], RECORDS[2]))
    found, expected = run(params, mixed), run(params, without)
    np.testing.assert_allclose(found["answer_logits"][jnp.array([0, 2])], expected["answer_logits"], atol=2e-6)
    config = objective.ObjectiveConfig()
    names = [name for name in objective.active_terms(config) if name not in ("text", "distill")]
    parts = jax.jit(lambda predicted, batch: objective.term_parts(config, predicted, batch, names))
    own, other = parts(found, mixed), parts(expected, without)
    assert own.keys() == other.keys() == {"depth", "ray", "points"}
    for term in own:
        for name, part in own[term].items():
            wanted = other[term][name]
            assert part.count() == wanted.count() > 0
            np.testing.assert_allclose(part.total(), wanted.total(), rtol=2e-5, err_msg=name)


def bare_logits(language, params, tokens):
    """[S,N] of the language model alone."""
    tokens = jnp.asarray(tokens, jnp.int32)[None]
    return decoder_runs.apply(Decoder(language), params, tokens, jnp.ones(tokens.shape, bool))[1][0]


def expected_of(row, logits):
    """The logits before each answer token of a row's first question."""
    start = int(row["prefix_mask"].sum())
    return logits[start + row["answer_positions"][0][row["answer_valid"][0]] - 1]


def sequence(row):
    return np.concatenate(
        [row["prefix_tokens"][row["prefix_mask"]], row["question_tokens"][0][row["question_mask"][0]]]
    )


def test_a_row_of_text_is_the_language_model_alone(tiny):
    processor, model, params, run = tiny
    mixed = batch_of(processor, RECORDS)
    row = {name: value[1] for name, value in mixed.items()}
    logits = bare_logits(model.language, params["backbone"]["language"], sequence(row))
    found = run(params, mixed)["answer_logits"][1, 0][row["answer_valid"][0]]
    np.testing.assert_allclose(found, expected_of(row, logits), atol=2e-6)
    noise = {**mixed, "pixel_values": mixed["pixel_values"].copy()}
    noise["pixel_values"][1] = 9.0  # what stands in place of pictures is not looked at
    np.testing.assert_array_equal(run(params, noise)["answer_logits"], run(params, mixed)["answer_logits"])


@pytest.mark.parametrize("family", ["internvl3", "llava_next_video"])
def test_families_read_text_alone_too(family):
    found = family_runs.imported(GOLDENS / family)
    processor = found.processor
    batch = batch_of(processor, RECORDS[:2], question_tokens=64, answer_tokens=16)
    run = jax.jit(lambda params, batch: found.model.apply({"params": params}, batch, label_hw=(16, 16), lift=False))
    row = {name: value[1] for name, value in batch.items()}
    language = found.params["backbone"]["language"]
    logits = bare_logits(found.model.language, language, sequence(row))
    seen = run(found.params, batch)["answer_logits"][1, 0][row["answer_valid"][0]]
    np.testing.assert_allclose(seen, expected_of(row, logits), atol=2e-4)


def test_slots_of_tiles_have_room_for_rows_of_text(tmp_path):
    """Any-resolution pictures: a row of text has the same fields, none of which is valid."""
    vision = dict(image_size=(16, 32), tile_size=16, patch_size=4, pool=2)
    from spatialsv_jax.backbones.llava_next_video.model import VisionConfig as TileVision

    processor = LlavaNextVideoProcessor.from_scratch(tmp_path, TileVision(**vision))
    batch = batch_of(processor, RECORDS[:2], question_tokens=64, answer_tokens=16, label_size=(8, 8))
    assert batch["feature_valid"][0].any() and not batch["feature_valid"][1].any()
