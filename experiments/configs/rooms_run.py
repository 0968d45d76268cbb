"""The phases that runs on procedural rooms are made of; the config files choose and change them.

base: text only, grounding questions on single views, encoder trained (a small model learns no
spatial question before it can bind words to places). spatial: encoder frozen, the SpatialSV
objective on several views. teacher: the small Depth Anything 3 that labels rooms. label: its files.
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from experiments.configs import common


@dataclasses.dataclass(frozen=True)
class Scale:
    """What differs between a smoke test, the quickstart and the laptop run.

    Attributes:
      scenes, test, other: training rooms, test rooms, and rooms of the validation and ood splits each.
      image: picture side in pixels; labels: label side; patch: vision patch side.
      base_steps, spatial_steps, teacher_steps: optimizer steps of each phase.
      rows: rooms of a global batch with all their views; the base takes twice as many single views.
      singles: of the base's views those that are asked single questions, the others get scans.
      questions: packed questions of a room in the spatial phase.
      width, layers: of the language model; vision_layers: of the encoder.
      dpt, features_3d: DPT channels and features.
    """

    scenes: int = 64
    test: int = 8
    other: int = 4
    image: int = 64
    labels: int = 32
    patch: int = 8
    base_steps: int = 30
    spatial_steps: int = 30
    teacher_steps: int = 30
    rows: int = 4
    singles: int = 2
    questions: int = 24
    width: int = 96
    layers: int = 4
    vision_layers: int = 2
    dpt: tuple[int, ...] = (16, 32, 32, 32)
    features_3d: int = 16


TINY = Scale()


def scale_for(arg: str | None, default: Scale) -> Scale:
    """The scale that a config file's argument names: "" its own, "tiny" a minute on two cores.

    Raises:
      ValueError: another argument.
    """
    if arg in (None, ""):
        return default
    if arg == "tiny":
        return TINY
    raise ValueError(f"Config argument '{arg}' is unknown; use none, or 'tiny'.")


def prepare_rooms(scale: Scale) -> ConfigDict:
    """Arguments of experiments.prepare for the rooms of a run."""
    return ConfigDict(
        dict(
            scenes=scale.scenes, views=4, size=scale.image, validation=scale.other, test=scale.test,
            ood=scale.other, form="word", scans=True, mix=common.ROOMS_MIX, assets="", workers=0, seed=0,
        )
    )  # fmt: skip


def phase(scale: Scale, name: str) -> ConfigDict:
    """A phase with the sizes of `scale` filled in."""
    config = common.get_config()
    config.name = name
    config.vision.update(image_size=scale.image, patch_size=scale.patch, width=scale.width, layers=scale.vision_layers)
    config.language.update(width=scale.width, layers=scale.layers, head_dim=scale.width // config.language.heads)
    config.lifting.update(channels=scale.dpt, features=scale.features_3d)
    config.teacher.update(
        image_size=scale.image, patch_size=scale.patch, channels=scale.dpt, features=scale.features_3d
    )
    config.data.label_size = (scale.labels, scale.labels)
    # On matrices this small three steps do what five do with the plain norm, in two thirds of the time.
    config.optimizer.update(newton_schulz_steps=3, preconditioning="aol")
    return config


def base_phase(scale: Scale) -> ConfigDict:
    """Language first: grounding questions about single views, everything trained, no geometry.

    Scans ask about all places of a picture: the encoder learns colours, things and distances from them
    in a fraction of the steps that single questions take.
    """
    config = phase(scale, "base")
    config.vision.trainable = True
    config.lifting.heads = ()
    config.losses.update(depth=0.0, ray=0.0, points=0.0)
    shown = dict(path="rooms", views=1, geometry=False)
    config.data.sources = {"scans": common.source(groups=("scan",), per_batch=2 * scale.rows - scale.singles, **shown)}
    if scale.singles:
        config.data.sources.singles = common.source(groups=("grounding",), per_batch=scale.singles, **shown)
    config.data.update(questions=12, question_tokens=15 if scale.singles else 11, answer_tokens=6, views=1)
    config.training.steps = scale.base_steps
    config.checkpoint.every = max(1, scale.base_steps // 2)
    return config


def spatial_phase(scale: Scale, name: str = "spatial", init_from: str = "base") -> ConfigDict:
    """The objective `tasks`: text and the three lifting tasks with measured labels, encoder frozen."""
    config = phase(scale, name)
    config.init_from = init_from
    config.data.sources.rooms = common.source(per_batch=scale.rows)
    config.data.update(questions=scale.questions, question_tokens=32, answer_tokens=2, views=4)
    config.training.steps = scale.spatial_steps
    config.training.gradient_norm_every = max(1, scale.spatial_steps // 5)
    config.checkpoint.every = max(1, scale.spatial_steps // 2)
    return config


def teacher_phase(scale: Scale) -> ConfigDict:
    """The rooms teacher, trained on the rooms' exact geometry without text.

    It has no point head and so no point term. (Depth Anything 3's own, `lifted_points`, made the rays worse: docs/teachers.md.)
    """
    config = phase(scale, "teacher")
    config.model = "teacher"
    config.losses.update(text=0.0, points=0.0)
    config.data.sources.rooms = common.source(per_batch=scale.rows, text=False)
    config.data.update(questions=1, question_tokens=4, answer_tokens=1, views=4)
    config.training.steps = scale.teacher_steps
    config.checkpoint.every = max(1, scale.teacher_steps // 2)
    return config


def label_phase() -> ConfigDict:
    """Label files of the teacher for the rooms it was trained on and for those held out."""
    return ConfigDict(dict(stage="label", teacher="teacher", data="rooms", splits=("train",)))


def run(name: str, scale: Scale, phases: dict[str, ConfigDict], evaluate: int = 0) -> ConfigDict:
    """A run: rooms, phases in order, evaluation of the last on unseen rooms.

    Args:
      name: of the run.
      scale: sizes.
      phases: name -> phase, in order.
      evaluate: test rooms to evaluate; 0 = all, -1 = none.
    """
    return ConfigDict(
        dict(
            name=name,
            reuse="",  # another run whose data and phases of the same settings are taken over
            prepare=dict(rooms=prepare_rooms(scale)),
            phases=phases,
            order=tuple(phases),  # a ConfigDict sorts its keys
            evaluation=dict(split="test", scenes=evaluate, report_scenes=6),
        )
    )


def ablation(name: str, arg: str | None, teacher: bool = False, **changes: dict) -> ConfigDict:
    """A run of base, teacher where needed, and one spatial phase that differs in `changes`.

    Args:
      name: of the run and its last phase.
      arg: the config file's argument.
      teacher: whether there is a teacher whose features are distilled. Depth and cameras are the measured ones
        everywhere, so that configs differ in the signal alone.
      changes: section -> values to change in the spatial phase.
    """
    scale = scale_for(arg, LAPTOP)
    phases = {"base": base_phase(scale)}
    config = spatial_phase(scale, name)
    if teacher:
        phases |= {"teacher": teacher_phase(scale), "label": label_phase()}
        config.data.sources.rooms.features = "label"
        config.lifting.distill_features = phases["teacher"].teacher.width
    for section, values in changes.items():
        config[section].update(values)
    return run(name, scale, {**phases, name: config})


def label_share(name: str, arg: str | None, spatial: bool, unlabelled: bool) -> ConfigDict:
    """A row of the paper's semi-supervised table: the last phase has questions about a share of the scenes only.

    Every row shows as many labelled rooms a step and has as many steps, so that two rows differ in what is said of
    these rooms and in the rooms without text beside them, not in how often a question was seen.

    Args:
      name: of the run and its last phase.
      arg: the config file's argument: "", "tiny", the percentage of scenes with text (50 by default), or "tiny,25".
      spatial: whether there are 3D losses and distillation.
      unlabelled: whether as many rooms without text stand in every batch.

    Raises:
      ValueError: another argument.
    """
    words = [word for word in (arg or "").split(",") if word]
    numbers = [word for word in words if word.isdigit()]
    others = [word for word in words if not word.isdigit()]
    if len(numbers) > 1 or len(others) > 1 or not 0 < int(numbers[0] if numbers else 50) <= 100:
        raise ValueError(f"Config argument '{arg}' is unknown; use none, 'tiny', a percentage in 1..100, or 'tiny,25'.")
    share = int(numbers[0] if numbers else 50) / 100
    if share == 1 and unlabelled:
        raise ValueError("With text for 100 % of the scenes none is left without: use full.py.")
    off = dict(depth=0.0, ray=0.0, points=0.0)
    losses = dict(losses=dict(distill=1.0)) if spatial else dict(losses=off, lifting=dict(heads=()))
    config = ablation(name, others[0] if others else None, teacher=spatial, **losses)
    data = config.phases[name].data
    rooms = data.sources.rooms
    rows = rooms.per_batch
    shown = dict(features=rooms.features, geometry=spatial)
    data.sources = common.divided("rooms", share, rows, rows * unlabelled, **shown)
    return config


QUICKSTART = Scale(
    scenes=1500, test=120, other=10, labels=24, base_steps=1300, spatial_steps=2000, rows=4, singles=0, questions=6,
    vision_layers=1,
)  # fmt: skip
LAPTOP = Scale(
    scenes=8000, test=200, other=100, base_steps=2500, spatial_steps=8800, teacher_steps=1000, rows=4, questions=4,
    width=128,
)  # fmt: skip
