"""One way to name a model: a run, a phase's workdir, one of its checkpoint steps, or a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spatialsv_jax import assembly, hf_models, processing
from spatialsv_jax.generation import decoding
from spatialsv_jax.geometry import solve_camera
from spatialsv_jax.interop import hub
from spatialsv_jax.interop.tensor_files import TensorFolder
from spatialsv_jax.picture_sizes import PictureSize, nearest, trained_sizes
from spatialsv_jax.processing.base import check_pictures
from spatialsv_jax.reconstruction import Reconstruction
from spatialsv_jax.training import sharding
from spatialsv_jax.training.checkpoints import CheckpointError, Checkpoints

QUESTION_STEP = 16  # tokens


@dataclasses.dataclass(frozen=True)
class Location:
    """A phase's folder and a step of it (None = the newest)."""

    workdir: Path
    step: int | None


def locate(path: str | Path) -> Location:
    """Tells a run (run.json), a phase (config.json) and a checkpoint step apart by content.

    A run stands for its last phase.

    Raises:
      FileNotFoundError: nothing at the path that can be loaded, with what was expected.
    """
    path = Path(path).absolute()
    if (path / "run.json").exists():
        phases = json.loads((path / "run.json").read_text())["phases"]
        trained = [path / folder for folder in phases.values() if (path / folder / "config.json").exists()]
        models = [
            folder for folder in trained if json.loads((folder / "config.json").read_text()).get("model") == "mllm"
        ]
        if models:
            return Location(models[-1], None)
    if (path / "config.json").exists() and (path / "checkpoints").is_dir():
        return Location(path, None)
    if path.name.isdigit() and path.parent.name == "checkpoints" and (path.parent.parent / "config.json").exists():
        return Location(path.parent.parent, int(path.name))
    raise FileNotFoundError(
        f"No model at {path}. Give the folder of a run (run.json), of a phase (config.json and checkpoints/), "
        "one of its steps (checkpoints/STEP), or a Hugging Face checkpoint (config.json with a model_type)."
    )


def load_processor(path: str | Path) -> processing.Processor:
    """The processor that was saved with the model at `path`."""
    return processing.load_processor(locate(path).workdir / "processor")


def read_params(path: str | Path) -> dict[str, Any]:
    """The parameters of the model at `path` as NumPy arrays."""
    location = locate(path)
    return Checkpoints(location.workdir / "checkpoints", create=False).restore_params(location.step)[0]


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained model ready for use.

    Attributes:
      model: the pure module; params: its parameters (device arrays).
      config: the resolved config of its phase; settings: the same, checked.
      processor: pictures and text to model inputs.
      label_hw: height and width of its depth maps.
      path, step: where it came from.
      meta: what the checkpoint says of its data and objective.
      sizes: picture sizes that it was trained with; those of `processor` and `label_hw` alone if empty.
    """

    model: Any
    params: Any
    config: dict
    settings: assembly.Settings
    processor: processing.Processor
    label_hw: tuple[int, int]
    path: Path
    step: int
    meta: dict
    sizes: tuple[PictureSize, ...] = ()

    def fitted(self, shapes: Sequence[tuple[int, int]]) -> LoadedModel:
        """The same model with the trained picture size that suits pictures of (height, width) `shapes` best."""
        best = nearest(self.sizes or (PictureSize(self.processor.image_size, self.label_hw),), shapes)
        if best.image_size == self.processor.image_size:
            return self
        return dataclasses.replace(
            self, processor=self.processor.resized(best.image_size), label_hw=best.label_hw, sizes=()
        )

    @property
    def can_lift(self) -> bool:
        """Whether it has heads that reconstruct."""
        return self.settings.model == "teacher" or bool(self.settings.lifting.heads)

    def apply(self, params, batch: dict) -> dict:
        """All predictions for a batch of spec.BATCH; pure, to be jitted by the caller."""
        lift = "lifting" in params or self.settings.model == "teacher"
        return self.model.apply({"params": params}, batch, label_hw=self.label_hw, lift=lift)

    def answer(
        self,
        images: list[np.ndarray],
        questions: list[str],
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """Answers, all questions of one batch, each unaware of the others.

        Args:
          images: uint8[h,w,3] pictures in prompt order; a question names view k as `<view:K>`, K from 0.
          questions: texts in the language that the tokenizer knows.
          max_new_tokens: limit of an answer's length.
          temperature: 0 = the most probable token at every step, else tokens drawn from softmax(logits / temperature).
          seed: of the draws.

        Raises:
          ValueError: pictures or texts that the processor refuses, or more tokens than the model was made for.
        """
        batch = self.inputs(images, questions, native=True)
        length = batch["prefix_tokens"].shape[1] + batch["question_tokens"].shape[2] + max_new_tokens
        self.settings.language.check_length(length)
        if temperature:
            tokens = _sampled(self, max_new_tokens)(self.params, batch, float(temperature), jax.random.key(seed))
        else:
            tokens = _greedy(self, max_new_tokens)(self.params, batch)
        return [self.processor.decode(row) for row in np.asarray(tokens)[0, : len(questions)]]

    def reconstruct(self, images: list[np.ndarray]) -> Reconstruction:
        """Depth, cameras and points of some pictures, at the trained size that suits them best.

        Raises:
          ValueError: the model has no lifting heads, or pictures that `processing.base.check_pictures` refuses.
        """
        check_pictures(images)
        fitted = self.fitted([image.shape[:2] for image in images])
        if fitted is not self:
            return fitted.reconstruct(images)
        missing = {"depth", "ray", "points"} - set(self.settings.lifting.heads)
        if self.settings.model != "teacher" and missing:
            raise ValueError(f"The model at {self.path} was trained without the heads {sorted(missing)}.")
        batch = self.inputs(images, ())
        found = {
            name: np.asarray(value[0])
            for name, value in _forward(self)(self.params, batch).items()
            if value is not None
        }
        fit = solve_camera(found["ray"].astype(np.float64), found["ray_confidence"].astype(np.float64))
        return Reconstruction(
            images=np.stack([self.processor.resize(image) for image in images]),
            **{name: found[name] for name in Reconstruction.__dataclass_fields__ if name in found},
            intrinsics=fit.intrinsics,
            camera_to_world=fit.camera_to_world,
            camera_ok=fit.ok,
        )

    def inputs(
        self, images: list[np.ndarray], questions: tuple[str, ...] | list[str], native: bool = False
    ) -> dict[str, np.ndarray]:
        """A batch of one row with `questions` unanswered and no labels.

        Args:
          images: uint8[h,w,3] in prompt order.
          questions: may be empty.
          native: pictures at the sizes that the published model would choose, not at the training size.

        Raises:
          ValueError: pictures that `processing.base.check_pictures` refuses.
        """
        check_pictures(images)
        if native:
            prefix, pixels = self.processor.native(images)
        else:
            prefix, pixels = self.processor.encode_prefix(len(images)), self.processor.pixels(images)
        encoded = [self.processor.encode_question(text, None)[0] for text in questions] or [np.zeros(1, np.int32)]
        # Rounded up, so that not every length of a question compiles a program of its own.
        length = -(-max(len(tokens) for tokens in encoded) // QUESTION_STEP) * QUESTION_STEP
        tokens, mask = (
            np.full((1, len(encoded), length), self.processor.pad_id, np.int32),
            np.zeros((1, len(encoded), length), bool),
        )
        for row, ids in enumerate(encoded):
            tokens[0, row, : len(ids)], mask[0, row, : len(ids)] = ids, True
        views, (height, width) = len(images), self.label_hw
        batch = {
            "prefix_tokens": prefix.tokens[None],
            "prefix_mask": np.ones((1, len(prefix.tokens)), bool),
            "prefix_positions": prefix.positions[None],
            "question_tokens": tokens,
            "question_mask": mask,
            "question_start": np.array([prefix.question_start], np.int32),
            "question_valid": np.full((1, len(encoded)), bool(questions)),
            "answer_mask": np.zeros_like(mask),
            "answer_positions": np.zeros((1, len(encoded), 1), np.int32),
            "answer_valid": np.zeros((1, len(encoded), 1), bool),
            "pixel_values": pixels.pixel_values[None],
            "image_token_index": prefix.image_token_index[None],
            "view_valid": np.ones((1, views), bool),
            "covered": np.ones((1, views, height, width), bool),
        }
        for name in ("feature_slots", "feature_valid"):
            if getattr(prefix, name) is not None:
                batch[name] = getattr(prefix, name)[None]
        return batch


def load(path: str | Path, mesh: sharding.MeshConfig | None = None) -> LoadedModel:
    """Loads the model at `path`: of ours (see `locate`), or a Hugging Face folder, which has no heads.

    Args:
      path: the model.
      mesh: how to split its parameters over the devices, for models that one device cannot hold; None = one device.

    Raises:
      FileNotFoundError, CheckpointError, ValueError: with the path and what was expected.
    """
    if hub.is_checkpoint(path):
        return _load_checkpoint(hub.open_checkpoint(path), mesh)
    location = locate(path)
    config = json.loads((location.workdir / "config.json").read_text())
    settings = assembly.read_settings(config, f"{location.workdir}/config.json")
    processor = processing.load_processor(location.workdir / "processor")
    params, meta, step = Checkpoints(location.workdir / "checkpoints", create=False).restore_params(location.step)
    model = assembly.build_model(settings, processor)
    loaded = LoadedModel(
        model,
        params,
        config,
        settings,
        processor,
        tuple(config["data"]["label_size"]),
        location.workdir,
        step,
        meta,
    )
    own = PictureSize(processor.image_size, loaded.label_hw)
    loaded = dataclasses.replace(loaded, sizes=trained_sizes(location.workdir, own))
    shapes = _check_params(loaded)
    places = jax.tree.map(lambda leaf: leaf.sharding, _placed(loaded, shapes, mesh)) if mesh else jax.devices()[0]
    return dataclasses.replace(loaded, params=jax.device_put(params, places))


def _placed(loaded: LoadedModel, shapes: dict, mesh: sharding.MeshConfig | None) -> dict:
    """The shapes with shardings over the mesh, as in training; None = as they are."""
    if mesh is None:
        return shapes
    batch = loaded.inputs([np.zeros((8, 8, 3), np.uint8)], ())
    axes = loaded.model.logical_axes(batch, label_hw=loaded.label_hw)
    axes = {name: axes[name] for name in shapes}
    places, _ = sharding.parameter_shardings(shapes, axes, sharding.make_mesh(mesh))
    return sharding.with_shardings(shapes, places)


def _load_checkpoint(checkpoint: hub.Checkpoint, mesh: sharding.MeshConfig | None) -> LoadedModel:
    """A Hugging Face folder; parameters keep its type of numbers."""
    if checkpoint.vision is None:
        raise ValueError(
            f"{checkpoint.directory} holds a language model alone. Train it with pictures first: "
            "experiments/configs/smol.py with config.init_from."
        )
    processor = hf_models.processor_of(checkpoint)
    dtype = hf_models.own_type(TensorFolder(checkpoint.directory))
    settings = hf_models.settings_of(checkpoint, dtype)
    label_hw = hf_models.label_size(processor)
    loaded = LoadedModel(
        assembly.build_model(settings, processor),
        {},
        hf_models.as_config(settings, label_hw),
        settings,
        processor,
        label_hw,
        checkpoint.directory,
        0,
        {},
    )
    batch = loaded.inputs([np.zeros((8, 8, 3), np.uint8)], ())
    shapes = _placed(loaded, hub.parameter_shapes(loaded.model, batch, label_hw), mesh)
    params, _, _ = hf_models.read_parameters(checkpoint, shapes, dtype)
    return dataclasses.replace(loaded, params=params)


def _check_params(loaded: LoadedModel) -> dict:
    """Compares the checkpoint's tree with the model's: Linen would silently ignore extra parameters. Its shapes."""
    batch = loaded.inputs([np.zeros((8, 8, 3), np.uint8)], ())
    expected = jax.eval_shape(lambda: loaded.model.init_params(jax.random.key(0), batch, label_hw=loaded.label_hw))
    shapes = lambda tree: {
        jax.tree_util.keystr(p): tuple(x.shape) for p, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    want, have = shapes(expected), shapes(loaded.params)
    wrong = [
        f"{name}: checkpoint {have.get(name)}, model {want.get(name)}"
        for name in sorted({*want, *have})
        if want.get(name) != have.get(name)
    ]
    if wrong:
        raise CheckpointError(f"The checkpoint in {loaded.path} does not fit its config.json:\n  " + "\n  ".join(wrong))
    return expected


@functools.lru_cache(maxsize=8)
def _compiled(model, label_hw, lift: bool, max_new_tokens: int, stop_ids: tuple[int, ...]):
    """Compiled functions by what is static; a loaded model is not hashable, its module is."""
    forward = jax.jit(lambda params, batch: model.apply({"params": params}, batch, label_hw=label_hw, lift=lift))
    greedy = jax.jit(lambda params, batch: decoding.greedy(model, params, batch, max_new_tokens, stop_ids))
    sampled = jax.jit(
        lambda params, batch, temperature, key: decoding.sample(
            model, params, batch, max_new_tokens, stop_ids, temperature=temperature, key=key
        )
    )
    return forward, greedy, sampled


def _forward(loaded: LoadedModel):
    return _compiled(loaded.model, loaded.label_hw, True, 0, loaded.processor.stop_ids)[0]


def _greedy(loaded: LoadedModel, max_new_tokens: int):
    return _compiled(loaded.model, loaded.label_hw, False, max_new_tokens, loaded.processor.stop_ids)[1]


def _sampled(loaded: LoadedModel, max_new_tokens: int):
    return _compiled(loaded.model, loaded.label_hw, False, max_new_tokens, loaded.processor.stop_ids)[2]
