"""metrics.jsonl survives kills: torn and later lines go when a run is resumed."""

import io
import json
import struct
import time

import numpy as np
import pytest
from PIL import Image
from tensorboardX import event_file_writer
from tensorboardX.proto.event_pb2 import Event

from spatialsv_jax.training.metric_writer import MetricWriter, RecordLog, read_records


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


def events(folder):
    """The events of the one file in a folder: TFRecord frames of length, checksum, message, checksum."""
    (file,) = folder.glob("events.*")
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[12 + length + 4 :]
    return found


def test_a_logged_step_is_one_event_with_all_its_scalars(tmp_path):
    rows = {step: {f"term_{number}/weight": step + number / 4 for number in range(40)} for step in (0, 10, 20)}
    writer = MetricWriter(tmp_path, 0)
    for step, scalars in rows.items():
        writer.write(step, scalars)
    writer.close()
    found = [event for event in events(tmp_path / "tensorboard") if event.HasField("summary")]
    assert [event.step for event in found] == list(rows)
    assert [{one.tag: one.simple_value for one in event.summary.value} for event in found] == list(rows.values())


def test_pictures_go_to_the_event_file_alone(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    for folder, tensorboard in (("with", True), ("without", False)):
        (tmp_path / folder).mkdir()
        writer = MetricWriter(tmp_path / folder, 0, tensorboard)
        writer.write_pictures(3, {"cards/a": picture})
        writer.close()
    assert (tmp_path / "with" / "metrics.jsonl").read_text() == ""
    (events,) = (tmp_path / "with" / "tensorboard").glob("events.*")
    data = events.read_bytes()
    begin = data.index(b"\x89PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data[begin:]))), picture)
    assert b"cards/a" in data and not (tmp_path / "without" / "tensorboard").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_event_files_on_a_full_disk_neither_stop_nor_block_a_run(tmp_path, monkeypatch):
    def full(self, event):
        raise OSError(28, "No space left on device")

    said, began = [], time.monotonic()
    writer = MetricWriter(tmp_path, 0, say=said.append)
    monkeypatch.setattr(event_file_writer.EventsWriter, "write_event", full)
    for step in range(8):
        writer.write(step, {"total": 1.0})
        time.sleep(0.05)
    writer.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8
    assert len(said) == 1 and "TensorBoard could not be written" in said[0] and time.monotonic() - began < 20


def test_a_metrics_file_that_cannot_be_written_is_named(tmp_path):
    writer = MetricWriter(tmp_path, 0, tensorboard=False)
    writer._file.close()
    writer._file = open("/dev/full", "w", buffering=1)
    with pytest.raises(OSError, match=r"No space left on device. Make room, then .*metrics.jsonl"):
        writer.write(0, {"total": 1.0})


def test_records_are_noted_and_those_of_later_steps_dropped(tmp_path):
    (tmp_path / "records-p1.jsonl").write_text("".join(f'{{"step": {step}, "records": [9]}}\n' for step in range(4)))
    for start in (0, 2):
        log = RecordLog(tmp_path, start)
        for step in range(start, 4):
            log.write(step, np.array([step, start], np.int32))
        log.close()
    rows = [json.loads(line) for line in (tmp_path / "records-p0.jsonl").read_text().splitlines()]
    assert rows == [{"step": step, "records": [step, 0 if step < 2 else 2]} for step in range(4)]
    assert not (tmp_path / "records-p1.jsonl").read_text()  # there is one process now, which began anew


def test_records_of_a_step_are_read_in_the_order_of_the_processes(tmp_path):
    for process in (0, 2, 10):
        lines = [json.dumps({"step": step, "records": [process, step]}) + "\n" for step in (0, 1)]
        (tmp_path / f"records-p{process}.jsonl").write_text("".join(lines) + '{"step": 2, "rec')
    assert read_records(tmp_path, 1) == [0, 1, 2, 1, 10, 1]
    assert read_records(tmp_path, 2) is None and read_records(tmp_path / "none", 0) is None
