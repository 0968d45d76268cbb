"""What the model sees while it is trained: the report's cards of a few records, for TensorBoard (training.cards_every)."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from data_pipelines import storage
from data_pipelines.buckets import at_size
from data_pipelines.loader import Loader, evaluation_batches
from data_pipelines.manifest import read_manifest
from experiments.evaluation_groups import Subset
from experiments.scene_figures import scene_figure
from spatialsv_jax.assembly import Settings
from spatialsv_jax.evaluation.predictions import MAP_FIELDS, Engine, outcomes
from spatialsv_jax.losses.objective import active_terms
from spatialsv_jax.partitioning import BATCH_AXES
from spatialsv_jax.report import cards

RECORDS = 2


class Cards:
    """Pictures of the first records of the first source with geometry: of its `validation` split, else of its own split.

    Args:
      model, settings: of the phase.
      loader: of its data; its first bucket's shapes are shown.
      processor: the model family's.
      mesh: where the parameters are.

    Raises:
      ValueError: nothing to draw: no 3D loss has a weight, or no source has geometry.
    """

    def __init__(self, model, settings: Settings, loader: Loader, processor, mesh):
        where = f"config.training.cards_every is {settings.training.cards_every}, but"
        if settings.model != "teacher" and not set(active_terms(settings.losses)) - {"text", "distill"}:
            raise ValueError(f"{where} no 3D loss has a weight, so there is nothing to draw. Set it to 0.")
        sources = [source.config for source in loader.sources if source.config.geometry]
        if not sources:
            raise ValueError(f"{where} no source has geometry, so there is nothing to draw. Set it to 0.")
        bucket, self._mesh = loader.choice.buckets[0], mesh
        self._records = _shown(sources[0], bucket.views)
        config = dataclasses.replace(
            loader.config, sources=(), questions=1, views=bucket.views, label_size=bucket.label_size,
            question_tokens=bucket.question_tokens,
        )  # fmt: skip
        split = int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
        rows = -(-len(self._records) // split) * split
        fitted = at_size(processor, bucket.image_size)
        self._batches = list(evaluation_batches(config, fitted, self._records, rows, groups=()))

        def lift(params, batch):
            found = model.apply({"params": params}, batch, label_hw=bucket.label_size, lift=True)
            return {name: found[name] for name in MAP_FIELDS if name in found}

        # On every process: the parameters may be spread over all of them.
        self._lift = jax.jit(lift, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, state) -> dict[str, np.ndarray]:
        """The cards of a training state by `cards/RECORD`, uint8[H,W,3]; empty on other processes than the first.

        Raises:
          FloatingPointError: a map holds NaN or inf.
        """
        with jax.set_mesh(self._mesh):
            lifted = [jax.device_get(self._lift(state.params, batch)) for batch, _ in self._batches]
        if jax.process_index() != 0:
            return {}
        maps = iter(lifted)
        engine = Engine(lift=lambda batch: next(maps), answer=None, decode=str, black=lambda views: None)
        found = {}
        for outcome in outcomes(engine, self._batches, blind=False):
            found[f"cards/{outcome.record.id}"] = cards.card(scene_figure(outcome, f"step {int(state.step)}"))
        return found


def _shown(source, views: int) -> Subset:
    split = "validation" if "validation" in read_manifest(source.path)["splits"] else source.split
    records = storage.open_split(source.path, split)
    return Subset(records, range(min(RECORDS, len(records))), views)
