"""What do a model's features know of depth? Everything frozen but one depth DPT on them (the paper's section 2.2).

Run: python -m experiments.train --config experiments/configs/probe_depth.py --workdir runs/probe_depth

That probes a base on rooms; any models at any layers, in one table: python -m experiments.probe (docs/diagnosis.md).
"""

from ml_collections import ConfigDict

from experiments.configs import common
from experiments.configs.rooms_run import ablation

OFF = dict(text=0.0, ray=0.0, points=0.0)
LIFTING = dict(heads=("depth",), stop_gradient=True, fresh=True)


def get_config(arg: str | None = None):
    """The run; `probe_depth.py:tiny` is a minute on two cores."""
    config = ablation("probe_depth", arg, lifting=LIFTING, losses=OFF)
    phase = config.phases.probe_depth
    phase.training.gradient_norm_every = 0  # no gradient reaches the trunk
    phase.data.sources.rooms.text = False
    phase.data.update(questions=1, question_tokens=4, answer_tokens=1)
    return config


def phase(model: str, data: str, label_size: tuple[int, int], views: int, steps: int, rows: int) -> ConfigDict:
    """A probe of any model; its family and sizes are read from it.

    Args:
      model: a run, phase or step of ours, or a Hugging Face folder.
      data: prepared data with depth.
      label_size: (H, W) of the depth maps.
      views: of a sample at most.
      steps, rows: optimizer steps, and samples of a batch.
    """
    config = common.get_config()
    config.name, config.family, config.init_from = "probe_depth", "auto", model
    config.vision = ConfigDict(dict(trainable=False))
    config.language = ConfigDict(dict(attention="auto", remat="none"))
    config.lifting.update(**LIFTING)
    config.losses.update(**OFF)
    config.data.sources = {"probe": common.source(data, per_batch=rows, text=False)}
    config.data.update(questions=1, question_tokens=4, answer_tokens=1, label_size=label_size, views=views)
    config.training.update(steps=steps, log_every=max(1, steps // 50))
    config.checkpoint.update(every=steps, keep=1)
    config.evaluation.scenes = -1
    return config


def paper_scale(config: ConfigDict) -> None:
    """Heads and optimizer for a model of the paper's sizes instead of a laptop's."""
    config.language.dtype = "bfloat16"
    config.lifting.update(width=1024, channels=(256, 512, 1024, 1024), features=256, dtype="bfloat16")
    config.lifting.update(refine="folded", remat="full", chunk_views=1)
    config.optimizer.update(name="adamw", lifting=1e-4)
