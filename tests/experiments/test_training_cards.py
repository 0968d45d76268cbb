"""Cards in the event files of a real run are those of its checkpoints; a run without 3D losses is refused."""

from __future__ import annotations

import dataclasses
import io
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from data_pipelines import storage
from experiments.evaluation_groups import Groups
from experiments.scene_figures import scene_figure
from experiments.training_cards import Cards
from spatialsv_jax import loading
from spatialsv_jax.losses.objective import ObjectiveConfig
from spatialsv_jax.report import cards


def _pictures(folder):
    """(tag, step) -> picture, of all event files: records of length, its checksum, an Event, its checksum."""
    found = {}
    for path in sorted(folder.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                if value.HasField("image"):
                    encoded = value.image.encoded_image_string
                    found[value.tag, event.step] = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    return found


def test_event_files_hold_the_cards_of_the_state_at_that_step(tiny_run):
    found = _pictures(tiny_run / "spatial" / "tensorboard")
    records = storage.open_split(tiny_run / "data" / "rooms", "validation")
    assert sorted(found) == [(f"cards/{records.ids[index]}", 1) for index in range(2)]  # after 2 of 3 steps
    loaded = loading.load(tiny_run / "spatial" / "checkpoints" / "2")
    groups = Groups(loaded, records, range(2), storage.open_split(tiny_run / "data" / "rooms", "train"), 2, 0)
    for outcome in groups.outcomes(range(2), blind=False):
        expected = cards.card(scene_figure(outcome, "step 2"))
        seen = found[f"cards/{outcome.record.id}", 1]
        assert seen.shape == expected.shape
        # Another program of other shapes: its rounding may change a splat here and there.
        assert (np.abs(seen.astype(int) - expected).max(-1) > 8).mean() < 0.02


def test_a_card_shows_the_rows_of_the_page(tiny_run):
    records = storage.open_split(tiny_run / "data" / "rooms", "test")
    groups = Groups(
        loading.load(tiny_run), records, range(1), storage.open_split(tiny_run / "data" / "rooms", "train"), 1, 0
    )
    (outcome,) = groups.outcomes([0], blind=False)
    figure = scene_figure(outcome, "why")
    picture = cards.card(figure, tile=64)
    height = (
        18 + 5 * (64 + cards.GAP) + 150 + cards.GAP
    )  # picture, two depths, error, confidence; three clouds in a row
    assert picture.dtype == np.uint8 and picture.shape == (height, cards.LABEL_WIDTH + 3 * (200 + cards.GAP), 3)
    own = np.asarray(Image.fromarray(figure.images[0]).resize((64, 64), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(picture[18 : 18 + 64, cards.LABEL_WIDTH : cards.LABEL_WIDTH + 64], own)
    empty = cards.card(dataclasses.replace(figure, predicted=None, true=None))
    assert empty.shape[0] == 18 + 128 + cards.GAP


def test_nothing_to_draw_is_an_error():
    settings = SimpleNamespace(
        model="mllm", losses=ObjectiveConfig(depth=0.0, ray=0.0, points=0.0), training=SimpleNamespace(cards_every=5)
    )
    with pytest.raises(ValueError, match="cards_every is 5, but no 3D loss has a weight"):
        Cards(None, settings, None, None, None)
