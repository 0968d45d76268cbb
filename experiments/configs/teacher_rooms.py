"""The network that labels rooms, a small Depth Anything 3 trained from nothing: depth, rays and features, no text.

Run: python -m experiments.train --config experiments/configs/teacher_rooms.py --workdir runs/teacher_rooms
"""

from experiments.configs.rooms_run import LAPTOP, label_phase, run, scale_for, teacher_phase


def get_config(arg: str | None = None):
    """The run: rooms, the teacher, its label files; `teacher_rooms.py:tiny` is a minute on two cores."""
    scale = scale_for(arg, LAPTOP)
    return run("teacher_rooms", scale, {"teacher": teacher_phase(scale), "label": label_phase()})
