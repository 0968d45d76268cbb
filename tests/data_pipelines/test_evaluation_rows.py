"""Evaluation batches: every question once, geometry once, padding rows empty, choices of records."""

from __future__ import annotations

import collections

import loader_fakes as fakes
import numpy as np
from test_loader import PROCESSOR, RECORDS, settings

from data_pipelines.loader import evaluation_batches
from spatialsv_jax import spec


def test_evaluation_asks_every_question_once_and_counts_geometry_once():
    records = fakes.Records([*RECORDS, fakes.record(9, questions=0)])
    asked, firsts, order = collections.Counter(), collections.Counter(), []
    for batch, rows in evaluation_batches(settings(), PROCESSOR, records, batch_size=4):
        assert spec.check(batch)["B"] == len(rows) == 4
        for number, row in enumerate(rows):
            if row is None:
                for name in (
                    "view_valid",
                    "question_valid",
                    "has_text",
                    "has_geometry",
                    "valid",
                    "covered",
                    "prefix_mask",
                    "answer_mask",
                ):
                    assert not batch[name][number].any(), name
                np.testing.assert_array_equal(batch["camera_to_world"][number], np.tile(np.eye(4), (3, 1, 1)))
                continue
            order.append(row.index)
            assert records[row.index] is row.record and batch["record_index"][number] == row.index
            firsts[row.record.id] += row.first
            assert batch["question_valid"][number].sum() == len(row.questions)
            for slot, question in enumerate(row.questions):
                asked[question.id] += 1
                tokens, mask, answer = (
                    batch[name][number, slot] for name in ("question_tokens", "question_mask", "answer_mask")
                )
                expected = PROCESSOR.encode_question(question.text, question.answer)
                np.testing.assert_array_equal(tokens[mask], expected.tokens)
                np.testing.assert_array_equal(answer[mask], expected.answer_mask)
            assert batch["has_geometry"][number]
    assert asked == {question.id: 1 for record in records for question in record.questions}
    assert firsts == {record.id: 1 for record in records}
    assert order == sorted(order)


def test_evaluation_of_some_records_and_groups():
    def indices(**changes):
        batches = evaluation_batches(settings(), PROCESSOR, RECORDS, 4, **changes)
        return [row for _, rows in batches for row in rows if row is not None]

    some = indices(max_records=3, seed=5)
    assert len({row.index for row in some}) == 3
    assert [row.index for row in some] == [row.index for row in indices(max_records=3, seed=5)]
    spatial = indices(groups=("spatial",))
    assert {question.group for row in spatial for question in row.questions} == {"spatial"}
