"""The teacher in the training step (`config.online`): its checks, its weights, and where they lie."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax

from data_pipelines.config import DataConfig
from data_pipelines.online import OnlinePictures, fields
from spatialsv_jax.assembly import Settings
from spatialsv_jax.interop.tensor_files import ConversionError
from spatialsv_jax.losses.objective import active_terms
from spatialsv_jax.teachers import networks
from spatialsv_jax.teachers.online import OnlineConfig, Wanted, make_labels
from spatialsv_jax.training import sharding


def check_settings(settings: Settings, data: DataConfig, where: str = "config") -> None:
    """Compares config.online with the sources, and looks at the checkpoint's folder, before any work.

    Raises:
      ValueError: a setting that is missing, has no use or does not fit, named.
    """
    online, sources = settings.online, data.source_configs
    users = [number for number, source in enumerate(sources) if source.uses_teacher]
    if users and not online.teacher:
        raise ValueError(
            f"{where}.data.sources[{users[0]}] takes labels or features 'online', but {where}.online.teacher is ''. Set it to 'da3' "
            f"or 'vggt', and {where}.online.checkpoint to its folder."
        )
    if online.teacher and not users:
        raise ValueError(
            f"{where}.online.teacher is '{online.teacher}', but no source takes its labels: set {where}.data.sources.NAME.labels or "
            "features to 'online', or teacher to ''."
        )
    if not users:
        return
    for name in ("checkpoint", "metric_checkpoint"):
        if (place := getattr(online, name)) and not Path(place).is_dir():
            raise ValueError(
                f"{where}.online.{name} is '{place}', which is no folder. Give that of the published safetensors."
            )
    distilled = [number for number in users if sources[number].features == "online"]
    if distilled and online.tap is None:
        raise ValueError(
            f"{where}.data.sources[{distilled[0]}].features is 'online', but {where}.online.features is -1: name the tap."
        )
    if (
        "distill" in active_terms(settings.losses)
        and online.tap is None
        and not any(source.feature_folder for source in sources)
    ):
        raise ValueError(
            f"{where}.losses.distill needs features, but {where}.online.features is -1: name the tap to distil, 0 to 3."
        )
    outlined = outline(online, where)
    width, wanted = outlined.feature_width(), settings.lifting.distill_features
    takes = width and any(sources[number].online_features for number in users)
    if takes and "distill" in active_terms(settings.losses) and settings.model == "mllm" and width != wanted:
        raise ValueError(
            f"{where}.lifting.distill_features is {wanted}, but features of {outlined.name} are {width} wide. Set it to that."
        )


def _named(online: OnlineConfig, where: str, make: Callable) -> networks.Network:
    try:
        return make(
            online.teacher,
            online.checkpoint,
            online.metric_checkpoint,
            resize=online.resize,
            process_res=online.process_res,
            features=online.tap,
            dtype=online.dtype,
        )
    except (ConversionError, ValueError, OSError) as error:
        raise ValueError(f"{where}.online: {error}") from error


def outline(online: OnlineConfig, where: str = "config") -> networks.Network:
    """The teacher without its weights; see `networks.outline`.

    Raises:
      ValueError: a folder or setting that does not fit, under `where`.
    """
    return _named(online, where, networks.outline)


def wanted_of(data: DataConfig, tap: int | None) -> Wanted:
    """What the sources take, in the order of `source_index`; no features without a tap."""
    sources = data.source_configs
    return Wanted(
        geometry=tuple(source.online_geometry for source in sources),
        features=tuple(source.online_features and tap is not None for source in sources),
        quantile=tuple(source.confidence_quantile for source in sources),
        weights=tuple(source.confidence_weights for source in sources),
    )


@dataclasses.dataclass(frozen=True)
class Online:
    """The teacher of a phase.

    Attributes:
      network: with its weights on the devices of the mesh, or an outline with shapes alone.
      wanted: what the sources take of it.
      size: (h, w) of pictures as the config states them; (0, 0) = those of the first record.
      mesh: over which its parameters are split, by the rules of the model's.
    """

    network: networks.Network
    wanted: Wanted
    size: tuple[int, int]
    mesh: jax.sharding.Mesh

    @property
    def params(self) -> dict:
        """Its parameters, each device's part on it."""
        return self.network.params

    @functools.cached_property
    def shapes(self) -> dict:
        """Its parameters as ShapeDtypeStructs with shardings."""
        network = self.network
        modules = {"model": network.model} | ({"metric": network.metric} if network.metric else {})
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), network.params)
        return {name: placed(shapes[name], networks.axes_of(module), self.mesh) for name, module in modules.items()}

    def teach(self, params: dict, batch: dict) -> dict:
        """For `StepParts.teach`."""
        return make_labels(self.network, self.wanted, params, batch)

    @property
    def facts(self) -> dict:
        """What the run's record says of it: all that decides what it predicts, and its licence."""
        facts = {"teacher": self.network.family, "checkpoint": self.network.checkpoint, **self.network.facts}
        return facts | {"commercial_use": self.network.commercial}

    def text(self, flops_share: float, picture: tuple[int, ...]) -> str:
        """A line for the start-up table.

        Args:
          flops_share: its share of the step's FLOPs.
          picture: shape of its pictures of a batch.
        """
        from experiments.startup import number, size  # here: it imports this module

        count = sum(leaf.size for leaf in jax.tree.leaves(self.shapes))
        licence = self.network.licence or "not known"
        return (
            f"{self.network.family} of {self.network.name} ({self.network.checkpoint[:12]}), {number(count)} parameters, "
            f"{size(sharding.bytes_per_device(self.shapes))} per device, {self.network.model.sizes.dtype}, {flops_share:.0%} of the "
            f"FLOPs; pictures {list(picture)}, licence of its weights: {licence}"
        )


def placed(shapes: dict, axes: dict, mesh: jax.sharding.Mesh) -> dict:
    """Shapes of parameters with the shardings that their logical axes say."""
    places, _ = sharding.parameter_shardings(shapes, axes, mesh)
    return sharding.with_shardings(shapes, places)


def open_teacher(settings: Settings, data: DataConfig, mesh: jax.sharding.Mesh, where: str = "config") -> Online | None:
    """The teacher that the config names, its weights read; None without one.

    Raises:
      ValueError: weights that cannot be read or do not fit.
    """
    online = settings.online
    if not online.teacher:
        return None
    place = lambda module, shapes: placed(shapes, networks.axes_of(module), mesh)
    load = functools.partial(networks.load, progress=jax.process_index() == 0, place=place)
    network = _named(online, where, load)
    return Online(network, wanted_of(data, network.features), (online.height, online.width), mesh)


def outlined_teacher(settings: Settings, data: DataConfig, mesh: jax.sharding.Mesh) -> Online | None:
    """The same without weights, for plans; its folder need not be there if its name is a published one."""
    if not settings.online.teacher:
        return None
    return Online(
        outline(settings.online),
        wanted_of(data, settings.online.tap),
        (settings.online.height, settings.online.width),
        mesh,
    )


def batch_shapes(online: Online, rows: int, views: int, label_size: tuple[int, int], grid_hw: tuple[int, int]) -> dict:
    """Shapes of the fields of `spec.ONLINE` of a batch that no data set gives.

    Pictures are as the config states them, else square ones of the teacher's side.
    """
    size = online.size
    if size == (0, 0):
        size = online.network.prepared_shape([(online.network.process_res,) * 2])
    blank = OnlinePictures(online.network, size, online.network.feature_width()).blank(views, label_size, grid_hw)
    return {
        name: jax.ShapeDtypeStruct((rows, *value.shape), value.dtype)
        for name, value in fields(blank, views, blank).items()
    }
