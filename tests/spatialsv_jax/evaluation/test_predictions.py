"""Inference over evaluation batches: every question once, every record once, blind means black."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipelines.loader import evaluation_batches
from spatialsv_jax.evaluation import predictions


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_every_record_and_question_once_in_order(records, processor, data_config, make_engine, batch_size):
    batches = evaluation_batches(data_config, processor, records, batch_size)
    found = list(predictions.outcomes(make_engine(), batches))
    assert [outcome.record.id for outcome in found] == [record.id for record in records]
    for outcome, record in zip(found, records, strict=True):
        assert [question.id for question in outcome.questions] == [question.id for question in record.questions]
        assert outcome.answers == [question.answer for question in record.questions]
        assert outcome.blind_answers == ["black black black black"] * len(record.questions)


def test_maps_belong_to_their_record(records, processor, data_config, make_engine):
    found = list(predictions.outcomes(make_engine(1.25), evaluation_batches(data_config, processor, records, 4), False))
    for outcome in found:
        mask = outcome.depth_mask
        assert mask.mean() > 0.9
        np.testing.assert_allclose(outcome.maps["depth"][mask] / outcome.labels["depth"][mask], 1.25, rtol=1e-5)
        assert outcome.blind_answers == []


def test_models_without_heads_or_without_a_voice(records, processor, data_config, make_engine):
    mute = list(predictions.outcomes(make_engine(talks=False), evaluation_batches(data_config, processor, records, 4)))
    assert all(outcome.answers == [] and outcome.questions == [] and outcome.maps for outcome in mute)
    flat = list(predictions.outcomes(make_engine(heads=()), evaluation_batches(data_config, processor, records, 4)))
    assert all(outcome.maps == {} and outcome.answers for outcome in flat)


def test_nan_in_a_map_is_an_error_that_names_it(records, processor, data_config, make_engine):
    engine = make_engine(depth_factor=np.nan)
    with pytest.raises(FloatingPointError, match="depth holds NaN"):
        list(predictions.outcomes(engine, evaluation_batches(data_config, processor, records[:1], 1)))


def test_questions_are_shown_as_the_model_reads_them():
    assert predictions.spoken("what is in <view:0> and <view:11> ?") == "what is in view 1 and view 12 ?"
