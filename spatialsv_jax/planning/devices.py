"""Devices to compile for: TPUs that are not there, or simulated ones of this machine."""

from __future__ import annotations

import os

import jax
from jax.experimental import topologies

from spatialsv_jax.planning import libtpu_log
from spatialsv_jax.planning.chips import Topology


def simulate(topology: Topology) -> None:
    """Has JAX keep to CPUs, and simulate the devices of a CPU topology or stand-ins for GPUs.

    Call it before anything starts JAX's backend: an accelerator of this machine may be another process's, and holds no
    part of a plan.

    Raises:
      ValueError: the backend runs already, with fewer devices.
    """
    jax.config.update("jax_platforms", "cpu")
    if topology.chip.platform == "tpu":
        return
    try:
        jax.config.update("jax_num_cpu_devices", topology.devices)
    except RuntimeError as error:
        if jax.device_count() < topology.devices:
            raise ValueError(
                f"{topology} needs {topology.devices} devices; JAX runs with {jax.device_count()}."
            ) from error


def abstract_devices(topology: Topology) -> list:
    """The devices of a slice, or of several.

    Raises:
      ValueError: libtpu is missing, libtpu knows no such slice, or a GPU topology (`compiles`).
    """
    if topology.chip.platform == "cpu":
        return jax.devices("cpu")[: topology.devices]
    if topology.chip.platform == "gpu":
        raise ValueError(f"{topology}: programs for GPUs are not compiled ahead of time here.")
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"Planning for {topology} needs libtpu, which compiles for TPUs without one: python -m pip install "
            "'spatialsv-jax[tpu_programs]'."
        ) from error
    # Compiling takes no TPU: other programs may do so beside this one, and nobody is asked which machine this is.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    libtpu_log.ask()
    # A host of these slices holds 4 chips, or the one of a single-chip slice.
    axes = len(topology.shape)
    options = {} if topology.devices > topology.slices else {"chips_per_host_bounds": [1] * max(axes, 3)}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"libtpu knows no slice {topology.name} ({str(error).splitlines()[0]}). Slices: "
            f"{', '.join(topology.chip.slices)}."
        ) from error
    return list(found.devices)


def compiles(topology: Topology) -> bool:
    """Whether programs for it are compiled here; those for GPUs are estimated."""
    return topology.chip.platform != "gpu"


def stand_ins(topology: Topology) -> list:
    """Simulated devices in place of GPUs, to trace a step on and see how it is split.

    Raises:
      ValueError: JAX runs already, with fewer devices.
    """
    if jax.device_count("cpu") < topology.devices:
        raise ValueError(
            f"{topology} needs {topology.devices} stand-ins; JAX runs with {jax.device_count('cpu')} devices."
        )
    return jax.devices("cpu")[: topology.devices]
