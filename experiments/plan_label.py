"""What labelling with a published teacher needs on devices that are not there: does it fit, how many pictures a second.

    python -m experiments.plan --label DA3-LARGE --topology v5e:4x4 [--views 8] [--picture 480x640] [--rows 4] [--mesh fsdp=4]

Every host of a slice labels scenes of its own (`experiments.label`), so one host's program is compiled and its rate counts once for each
host. docs/teachers.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from experiments.label_networks import PICTURES
from spatialsv_jax import target
from spatialsv_jax.interop.tensor_files import ConversionError, TensorFolder
from spatialsv_jax.planning import hlo, libtpu_log, memory, scheduled
from spatialsv_jax.planning.chips import Topology, parse_topology
from spatialsv_jax.planning.devices import abstract_devices, compiles, simulate, stand_ins
from spatialsv_jax.planning.liveness import Division, peak_bytes
from spatialsv_jax.planning.plan import CODE_NOTE, NOT_VERIFIED, gib, si
from spatialsv_jax.planning.roofline import ASSUMPTIONS, Roofline, roofline
from spatialsv_jax.teachers import networks
from spatialsv_jax.teachers.vggt import presets as vggt_presets
from spatialsv_jax.training import flops, sharding

READING = "Reading pictures, checks and writing of the label files by the host are not in these figures."


@dataclasses.dataclass(frozen=True)
class LabelPlan:
    """One forward pass of a teacher on one host, and what a slice of such hosts makes.

    Attributes:
      network: whose.
      topology: of the slice.
      local: of one host.
      mesh: over the host's devices.
      rows, views, size: scenes, views of each, and (H, W) that the teacher sees.
      memory, available: bytes per device; available 0 = not known.
      flops: of products and convolutions of one pass.
      times: of one pass.
      seconds_to_compile: None where nothing was compiled.
      notes: what the reader must know.
    """

    network: networks.Network
    topology: Topology
    local: Topology
    mesh: dict[str, int]
    rows: int
    views: int
    size: tuple[int, int]
    memory: memory.Memory
    available: int
    flops: float
    times: Roofline
    seconds_to_compile: float | None
    notes: tuple[str, ...]

    @property
    def pictures_per_second(self) -> float | None:
        """Of the whole slice; None where nothing is known of the chip."""
        return self.rows * self.views * self.topology.hosts / self.times.seconds if self.times.seconds else None

    def to_json(self) -> dict:
        """Plain values."""
        return {
            "teacher": self.network.name,
            "licence": self.network.licence,
            "topology": str(self.topology),
            "hosts": self.topology.hosts,
            "mesh": self.mesh,
            "rows": self.rows,
            "views": self.views,
            "size": list(self.size),
            "fits": memory.fits(self.memory, self.available),
            "bytes_available_per_device": self.available or None,
            "peak_bytes_per_device": self.memory.peak,
            "bytes_by_kind": {
                "parameters": self.memory.parameters,
                "batch": self.memory.batch,
                "temporaries": self.memory.temporaries,
                "generated_code": self.memory.code,
            },
            "memory_source": self.memory.source,
            "flops": self.flops,
            "flops_per_picture": self.flops / (self.rows * self.views),
            "roofline": dataclasses.asdict(self.times),
            "pictures_per_second": self.pictures_per_second,
            "compile_seconds": self.seconds_to_compile,
            "assumptions": list(ASSUMPTIONS),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """The plan as a readable table."""
        known, hosts = self.memory, self.topology.hosts
        free = self.available - known.peak
        verdict = {
            True: f"yes, {gib(free)} free",
            False: f"NO, {gib(-free)} too much: fewer --rows or --views, or a mesh with fsdp and context",
            None: "not known",
        }
        mesh = " ".join(f"{axis}={size}" for axis, size in self.mesh.items())
        count = sum(leaf.size for leaf in jax.tree.leaves(self.network.params))
        rows = [
            ("teacher", f"{self.network.name}, {si(count)}parameters, {self.network.licence}"),
            ("slice", f"{self.topology}: {hosts} hosts, each with {self.local.devices} devices ({mesh})"),
            ("pass", f"{self.rows} scenes of {self.views} views at {self.size[0]} x {self.size[1]}"),
            (
                "fits",
                f"{verdict[memory.fits(known, self.available)]}: {gib(known.peak)}"
                + (f" of {gib(self.available)} per device" if self.available else ""),
            ),
            (
                "bytes per device",
                f"parameters {gib(known.parameters)}, pictures {gib(known.batch)}, temporaries {gib(known.temporaries)}, "
                f"code {gib(known.code)} ({known.source})",
            ),
            ("work", f"{si(self.flops)}FLOP a pass, {si(self.flops / (self.rows * self.views))}FLOP a picture"),
        ]
        if self.times.seconds:
            rows += [
                (
                    "time",
                    f"about {self.times.seconds * 1e3:.0f} ms a pass ({self.times.bound}), MFU about {self.times.mfu:.0%}",
                ),
                ("rate", f"about {self.pictures_per_second:,.0f} pictures/s of the slice"),
                *(("assumed", line) for line in ASSUMPTIONS),
            ]
        rows += [("note", note) for note in self.notes]
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"  {key:<{width}}  {value}" for key, value in rows)


@dataclasses.dataclass(frozen=True)
class PlannedPass:
    """A teacher's pass on the devices of one host: the shapes of parameters, pictures [scenes, views, H, W, 3] and which are there."""

    network: networks.Network
    mesh: Mesh
    inputs: tuple

    def trace(self):
        """The pass, traced."""
        return jax.jit(self.network.predict).trace(*self.inputs)


def plan_pass(
    network: networks.Network,
    local: Topology,
    mesh: sharding.MeshConfig,
    rows: int,
    views: int,
    picture: tuple[int, int],
) -> PlannedPass:
    """Everything of a pass but the compiling; arguments and errors as in `plan_labels`."""
    devices = abstract_devices(local) if compiles(local) else stand_ins(local)
    made = sharding.make_mesh(mesh, devices)
    sharding.check_rows(rows, made)
    if views % made.shape["context"]:
        raise ValueError(f"--views {views} is no multiple of the mesh's context axis, {made.shape['context']}.")
    size = network.prepared_shape([picture] * views)
    shapes = network.parameter_shapes()
    places, _ = sharding.parameter_shardings(shapes, network.parameter_axes(), made)
    params = sharding.with_shardings(shapes, places)
    layout = NamedSharding(made, PICTURES)
    pixels = jax.ShapeDtypeStruct((rows, views, *size, 3), jnp.float32, sharding=layout)
    valid = jax.ShapeDtypeStruct((rows, views), jnp.bool_, sharding=layout)
    return PlannedPass(network, made, (params, pixels, valid))


def lower(network: networks.Network, local: Topology, *how) -> jax.stages.Lowered:
    """The pass lowered for TPUs that are not there, for `scheduled.schedule`; arguments of `plan_pass`."""
    with target.compiling_for(local.chip.platform):
        planned = plan_pass(network, local, *how)
        with jax.set_mesh(planned.mesh):
            return planned.trace().lower()


def plan_labels(
    network: networks.Network,
    topology: Topology,
    mesh: sharding.MeshConfig,
    rows: int,
    views: int,
    picture: tuple[int, int],
    compile: bool = True,
    whole: bool = False,
) -> LabelPlan:
    """The plan of a teacher's pass.

    Args:
      network: of `networks.published`.
      topology: the slice.
      mesh: over the devices of one host.
      rows: scenes of a pass on a host.
      views: of a scene.
      picture: (height, width) of the pictures in the data set.
      compile: whether to compile; False estimates memory.
      whole: whether to make a TPU program's kernels too (`plan.plan`).

    Raises:
      ValueError: rows or views that the mesh does not divide, or a mesh that is not the host's.
    """
    local = host_of(topology)
    planned = plan_pass(network, local, mesh, rows, views, picture)
    params, pixels, valid = planned.inputs
    made = planned.mesh
    known = (sharding.bytes_per_device(params), 0, sharding.bytes_per_device((pixels, valid)))
    available, moved, seconds = topology.chip.memory_bytes, None, None
    platform = "tpu" if topology.chip.platform == "gpu" else topology.chip.platform
    began = time.perf_counter()
    with target.compiling_for(platform), jax.set_mesh(made):
        traced = planned.trace()
        share = math.prod(made.shape[axis] for axis in (*sharding.BATCH_AXES, "context"))
        peak = round(peak_bytes(traced.jaxpr, Division({}, 1 / share)))
        found = memory.Memory(*known, peak, 0, sum(known) + peak, "estimate")
        if compile and compiles(local):
            try:
                if local.chip.platform == "tpu" and not whole:
                    program = scheduled.schedule(lower, network, local, mesh, rows, views, picture)
                    found, text = memory.scheduled(known, program), program.text
                else:
                    with libtpu_log.written() as log:
                        program = traced.lower().compile()
                    found = memory.compiled(known, program.memory_analysis(), libtpu_log.gaps(log.text))
                    text = program.as_text()
                moved = hlo.collectives(text, made.size)
            except (scheduled.Refused, jax.errors.JaxRuntimeError) as error:
                if (said := memory.refused(known, str(error))) is None:
                    raise
                found, available = said
            seconds = time.perf_counter() - began
    weights = [1.0] * len(jax.tree.leaves(params)) + [None, None]
    costs = flops.costs(traced.jaxpr, weights)
    notes = (READING, *[NOT_VERIFIED] * (topology.chip.platform == "gpu"), *[CODE_NOTE] * (found.source == "scheduled"))
    total = sum(cost.matrix for cost in costs.values())
    times = roofline(costs, moved, local, 0.0)
    return LabelPlan(
        network, topology, local, dict(made.shape), rows, views, pixels.shape[2:4], found, available, total, times, seconds,
        notes,
    )  # fmt: skip


def host_of(topology: Topology) -> Topology:
    """The part of a slice that one host has."""
    shapes = [parse_topology(f"{topology.chip.name}:{shape}") for shape in topology.chip.slices]
    alone = [one for one in shapes if one.hosts == 1]
    return topology if topology.hosts == 1 else max(alone, key=lambda one: one.devices)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those of a plan for labelling."""
    made = parser.add_argument_group("labelling (docs/teachers.md)")
    made.add_argument(
        "--label", default="", metavar="TEACHER", help="plans labelling with DA3-LARGE, VGGT-1B, ...; no --config"
    )
    made.add_argument("--views", type=int, default=8, help="--label: views of a scene (default 8)")
    made.add_argument("--picture", default="480x640", help="--label: height x width of the pictures (default 480x640)")
    made.add_argument(
        "--rows", type=int, default=0, help="--label: scenes of a pass on each host (default one for each device)"
    )
    made.add_argument("--metric", action="store_true", help="--label: with DA3METRIC-LARGE beside it")
    made.add_argument("--process_res", type=int, default=0, help="--label: as in experiments.label")


def run(arguments: argparse.Namespace) -> dict:
    """Makes and prints the plan; returns its JSON.

    Raises:
      ValueError: an unknown teacher, or settings that do not fit together.
    """
    topology = parse_topology(arguments.topology)
    height, _, width = arguments.picture.partition("x")
    if (
        not (height.isdigit() and width.isdigit() and int(height) and int(width))
        or arguments.views < 1
        or arguments.rows < 0
    ):
        raise ValueError(
            f"--picture {arguments.picture} is no HEIGHTxWIDTH, or --views {arguments.views} or --rows {arguments.rows} no count."
        )
    local = host_of(topology)
    simulate(local)
    mesh = mesh_of(arguments.mesh, local.devices)
    network = network_of(arguments.label, arguments.metric, arguments.process_res)
    rows = arguments.rows or mesh.data * mesh.fsdp
    found = plan_labels(
        network,
        topology,
        mesh,
        rows,
        arguments.views,
        (int(height), int(width)),
        not arguments.estimate,
        arguments.whole,
    )
    print(found.text(), flush=True)
    return found.to_json()


def network_of(name: str, metric: bool, process_res: int) -> networks.Network:
    """The published teacher of this name, or the one in this folder, without weights.

    Raises:
      ValueError: there is none, or it gives no cameras.
    """
    family = "vggt" if vggt_presets.published(name) or _is_vggt(name) else "da3"
    try:
        return networks.outline(family, name, "DA3METRIC-LARGE" if metric else "", process_res=process_res)
    except ConversionError as error:
        raise ValueError(str(error)) from error


def _is_vggt(folder: str) -> bool:
    return Path(folder).is_dir() and any(name.startswith("aggregator.") for name in TensorFolder(folder).tensors)


def mesh_of(text: str, devices: int) -> sharding.MeshConfig:
    """The mesh of `--mesh`, axes that are not named 1; without one all devices take scenes of their own.

    Raises:
      ValueError: an axis that is none, or no number.
    """
    sizes = {"data": devices} if not text else {"data": 1}
    for entry in filter(None, text.split(",")):
        axis, _, size = entry.partition("=")
        if axis not in sharding.AXES or not size.isdigit():
            raise ValueError(f"--mesh {text}: '{entry}' is no axis=size; axes: {', '.join(sharding.AXES)}.")
        sizes[axis] = int(size)
    return sharding.MeshConfig(**sizes)
