"""A family's model against reference numbers of transformers: the normal suite checks committed ones, the parity
suite those that it makes on the spot (tests/goldens/make_*.py tells what a folder holds).
"""

import family_runs as runs
import numpy as np
from flax import traverse_util

from spatialsv_jax.interop.arrays import write_checkpoint

EXACT, ROUGH = 1e-4, 2e-2  # float32: absolute; bfloat16: times the largest absolute value of the reference


def rows_of(reference):
    """(number, pictures, question, mask of its real tokens) of each sample; padding is on the left."""
    for row, question in enumerate(reference["questions"]):
        pictures = []
        while f"picture_{row}_{len(pictures)}" in reference:
            pictures.append(reference[f"picture_{row}_{len(pictures)}"])
        yield row, pictures, str(question), reference["attention_mask"][row] == 1


def positions_of(reference, row, real, prefix=""):
    """int32[n,K]."""
    found = reference[f"{prefix}position_ids"]
    return found[:, row][:, real].T if found.ndim == 3 else found[row][real][:, None]


def check_tokens(folder, reference):
    """Ids and positions of every sample."""
    found = runs.imported(folder)
    for row, pictures, question, real in rows_of(reference):
        tokens, positions = runs.tokens_and_positions(runs.sample(found.processor, pictures, question))
        assert tokens.tolist() == reference["input_ids"][row][real].tolist()
        np.testing.assert_array_equal(positions, positions_of(reference, row, real))


def check_states(folder, reference, dtype="float32", prefix=""):
    """Tokens of the pictures, every hidden state and the logits, of every sample or (prefix "video_") of the video."""
    found, seen = runs.imported(folder, dtype), []
    names = {name: prefix + name + ("" if dtype == "float32" else f"_{dtype}") for name in ("hidden", "logits")}
    for row, batch, real in _batches(found.processor, reference, prefix):
        features, states, logits = runs.every_state(found, batch)
        valid = batch.get("feature_valid", np.ones(features.shape[:2], bool)[None])[0]
        slots = batch.get("feature_slots", batch["image_token_index"])[0][valid]
        seen.append(np.asarray(features, np.float32)[valid][np.argsort(slots)])
        _close(logits, reference[names["logits"]][row][real], dtype, f"logits {row}")
        for number, state in enumerate(states):
            _close(state, reference[names["hidden"]][number, row][real], dtype, f"state {number} of {row}")
    wanted = reference[f"{prefix}vision_tokens" + ("" if dtype == "float32" else f"_{dtype}")]
    _close(np.concatenate(seen), wanted, dtype, "vision tokens")


def check_video_tokens(folder, reference):
    """Ids and positions of the video's prompt."""
    found = runs.imported(folder)
    for row, batch, real in _batches(found.processor, reference, "video_"):
        tokens, positions = runs.tokens_and_positions(batch)
        assert tokens.tolist() == reference["video_input_ids"][row][real].tolist()
        np.testing.assert_array_equal(positions, positions_of(reference, row, real, "video_"))


def check_greedy(folder, reference):
    """The most likely tokens after every sample, with the cache."""
    found = runs.imported(folder)
    for row, pictures, question, _ in rows_of(reference):
        made = runs.greedy(found, runs.sample(found.processor, pictures, question), reference["greedy"].shape[1])
        assert made[0].tolist() == reference["greedy"][row].tolist()


def check_export(folder, out):
    """Written again, every file of weights has the same bytes."""
    found = runs.imported(folder)
    write_checkpoint(found.conversion, found.folder, traverse_util.flatten_dict(found.params, sep="/"), out)
    for file in found.folder.files:
        assert (out / file).read_bytes() == (found.folder.directory / file).read_bytes()


def _batches(processor, reference, prefix):
    if prefix:
        rate, question = float(reference["video_rate"]), str(reference["questions"][0])
        batch = runs.sample(processor, list(reference["video_frames"]), question, rate)
        yield 0, batch, np.ones(reference["video_input_ids"].shape[1], bool)
    else:
        for row, pictures, question, real in rows_of(reference):
            yield row, runs.sample(processor, pictures, question), real


def _close(found, wanted, dtype, what):
    found = np.asarray(found, np.float32)
    assert found.shape == wanted.shape, what
    allowed = EXACT if dtype == "float32" else ROUGH * np.abs(wanted).max()
    assert np.abs(found - wanted).max() <= allowed, (what, np.abs(found - wanted).max(), allowed)
