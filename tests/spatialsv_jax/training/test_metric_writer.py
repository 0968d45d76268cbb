"""metrics.jsonl survives kills: torn and later lines go when a run is resumed."""

import json

from spatialsv_jax.training.metric_writer import MetricWriter


def test_resume_drops_later_and_torn_lines(tmp_path):
    writer = MetricWriter(tmp_path, 0, tensorboard=False)
    for step in range(4):
        writer.write(step, {"total": float(step), "bad": float("nan")})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "tot')
    writer = MetricWriter(tmp_path, 2, tensorboard=False)
    writer.write(2, {"total": 20.0})
    writer.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[0]["bad"] is None and rows[2]["total"] == 20.0


def test_event_files_are_written(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write(0, {"total": 1.0})
    writer.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))
