"""The quickstart grown up: more rooms and steps, then a teacher, its features and the full objective.

Run: python -m experiments.train --config experiments/configs/laptop.py --workdir runs/laptop

`spatial` trains the encoder too, because this model starts from nothing, and sees more geometry from
mirrored and recoloured copies without text. `full` continues from it with the encoder frozen, as in
the paper; depth and cameras stay the measured ones, the features to distil come from the label files.
"""

from experiments.configs import common
from experiments.configs.rooms_run import LAPTOP, base_phase, label_phase, run, scale_for, spatial_phase, teacher_phase


def get_config(arg: str | None = None):
    """The run; `laptop.py:tiny` is a minute on two cores."""
    scale = scale_for(arg, LAPTOP)
    teacher = teacher_phase(scale)
    spatial, full = spatial_phase(scale), spatial_phase(scale, "full", init_from="spatial")
    for config in (spatial, full):
        config.data.sources.rooms.per_batch = scale.rows - 1
        config.data.sources.mirrored = common.source(per_batch=2, text=False, augment=True)
        config.data.cache_mb = 4096  # 8,000 rooms stay in memory once read
        config.optimizer.weight_decay = 0.1  # over so many steps as much as the quickstart's 0.5
    spatial.vision.trainable = True
    full.training.steps = 3 * scale.spatial_steps // 10
    full.losses.distill = 1.0
    full.lifting.distill_features = teacher.teacher.width
    full.data.sources.rooms.features = "label"
    phases = {
        "base": base_phase(scale),
        "spatial": spatial,
        "teacher": teacher,
        "label": label_phase(),
        "full": full,
    }
    return run("laptop", scale, phases)
