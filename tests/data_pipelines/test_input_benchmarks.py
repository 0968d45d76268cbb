"""What benchmarks.input_pipeline computes beside times: memory over records, and the shapes of its demand."""

import numpy as np

from benchmarks.input_demand import of_recipe
from benchmarks.input_memory import resident_over, slope, walk_loader


def test_memory_is_read_while_every_record_is_drawn(tmp_path):
    loader = walk_loader(tmp_path, 72, workers=None)
    drawn, memory = resident_over(loader, 64, samples=2)
    assert drawn.tolist() == [32, 64] and (memory > 1).all()


def test_the_slope_is_that_behind_the_warm_up():
    drawn = np.arange(100, 10_100, 100)
    memory = np.where(drawn <= 2500, 0.2 * drawn, 500 + 0.003 * drawn)  # 3 MB per 1,000 records in the end
    memory[60] += 40  # one moment says little
    assert abs(slope(drawn, memory) - 3) < 0.1
    assert slope(drawn, np.minimum(drawn, 2500)) == 0


def test_the_demand_has_the_recipes_questions():
    batch = {"question_tokens": np.arange(12).reshape(2, 3, 2), "answer_valid": np.ones((2, 3, 1)), "view_valid": np.ones((2, 3))}  # fmt: skip
    assert of_recipe(batch, 2)["question_tokens"].tolist() == [[[0, 1], [2, 3]], [[6, 7], [8, 9]]]
    more = of_recipe(batch, 5)
    assert more["question_tokens"].shape == (2, 5, 2) and more["answer_valid"].shape == (2, 5, 1)
    assert more["view_valid"].shape == (2, 3)
