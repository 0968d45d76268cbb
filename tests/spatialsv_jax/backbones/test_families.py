"""The families' models and processors against transformers (tests/goldens/make_*.py)."""

import functools
from pathlib import Path

import family_checks as checks
import family_runs as runs
import numpy as np
import pytest

GOLDENS = Path(__file__).parents[2] / "goldens"
FAMILIES = ("qwen2_5_vl", "internvl3", "llava_next_video", "llava_onevision1_5")
WITH_VIDEO = FAMILIES


@functools.cache
def reference(name):
    with np.load(GOLDENS / name / "reference.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", FAMILIES)
def test_token_ids_and_positions(name):
    checks.check_tokens(GOLDENS / name, reference(name))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_vision_tokens_hidden_states_and_logits(name, dtype):
    checks.check_states(GOLDENS / name, reference(name), dtype)


@pytest.mark.parametrize("name", WITH_VIDEO)
def test_video(name):
    checks.check_video_tokens(GOLDENS / name, reference(name))
    checks.check_states(GOLDENS / name, reference(name), "float32", "video_")
    checks.check_states(GOLDENS / name, reference(name), "bfloat16", "video_")


@pytest.mark.parametrize("name", FAMILIES)
def test_thirty_two_greedy_tokens(name):
    checks.check_greedy(GOLDENS / name, reference(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_export_gives_the_same_bytes(name, tmp_path):
    checks.check_export(GOLDENS / name, tmp_path)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision1_5"])
def test_pixel_values_of_merged_grids(name):
    """Patches in the order of merge blocks, channels first, each frame twice: as the published processor cuts them."""
    processor, wanted = runs.imported(GOLDENS / name).processor, reference(name)
    size, merge = processor.pictures.patch_size, processor.pictures.merge
    cut = []
    for _, pictures, _, _ in checks.rows_of(wanted):
        for picture in pictures:
            pixels = processor.native([picture])[1].pixel_values[0]
            rows, columns = (side // (size * merge) for side in pixels.shape[:2])
            blocks = pixels.reshape(rows, merge, size, columns, merge, size, 3).transpose(0, 3, 1, 4, 6, 2, 5)
            frames = wanted["pixel_values"].shape[1] // (3 * size * size)
            twice = np.repeat(blocks[..., None, :, :], frames, axis=-3)
            cut.append(twice.reshape(rows * columns * merge * merge, -1))
    np.testing.assert_allclose(np.concatenate(cut), wanted["pixel_values"], atol=1e-6)


@pytest.mark.parametrize("name", ["internvl3", "llava_next_video"])
def test_pixel_values_of_tiles(name):
    """Channels last here, first there; LLaVA's are padded to the largest number of tiles there."""
    processor, wanted = runs.imported(GOLDENS / name).processor, reference(name)
    pictures = [picture for _, shown, _, _ in checks.rows_of(wanted) for picture in shown]
    tiles = [processor.native([picture])[1].pixel_values.transpose(0, 3, 1, 2) for picture in pictures]
    theirs = wanted["pixel_values"]
    if theirs.ndim == 5:
        theirs = np.concatenate([own[: len(tile)] for own, tile in zip(theirs, tiles, strict=True)])
    np.testing.assert_allclose(np.concatenate(tiles), theirs, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_of_different_prompts_gives_the_tokens_of_each_alone(name):
    found = runs.imported(GOLDENS / name)
    pictures = [np.full((40, 60, 3), value, np.uint8) for value in (10, 120, 200)]
    alone = [
        runs.trained_sample(found.processor, pictures[:count], text)
        for count, text in ((3, "Where?"), (1, "How far is it?"))
    ]
    together = runs.greedy(found, runs.stack(alone, found.processor.pad_id), 12)
    for row, batch in enumerate(alone):
        assert together[row].tolist() == runs.greedy(found, batch, 12)[0].tolist()
