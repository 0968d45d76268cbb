"""The command line of `experiments.label`, and the maker that it asks for."""

from __future__ import annotations

import argparse

import jax

from data_pipelines.labels.exports import NAMES
from data_pipelines.labels.pictures import RESIZES, SIDES
from experiments import hosts
from experiments.label_makers import Exports, Present, Rooms
from experiments.label_networks import Networks
from spatialsv_jax.teachers import networks
from spatialsv_jax.training.sharding import MeshConfig

_AXES = {"data": "scenes", "fsdp": "scenes and parameters", "context": "views", "tensor": "heads and widths"}
_SPELT = {f"mesh_{axis}": f"config.mesh.{axis}" for axis in _AXES} | {"exports": "from"}
# By which ways of labelling a flag is read, where not by all.
_READ_BY = {
    "model": ("rooms",),
    "rows": ("rooms", "here"),
    **dict.fromkeys(("checkpoint", "licence", "resize", "process_res"), ("exports", "here")),
    **dict.fromkeys(("metric", "made_of", "exports"), ("exports",)),
    **dict.fromkeys(("views", "metric_checkpoint", "features", "cameras", "dtype"), ("here",)),
    **dict.fromkeys((f"mesh_{axis}" for axis in _AXES), ("here",)),
}


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    result = argparse.ArgumentParser(prog="python -m experiments.label", description="Writes label files.")
    result.add_argument(
        "--teacher", choices=("rooms", *NAMES), default="rooms", help="which network labels (default rooms)"
    )
    result.add_argument("--model", help="rooms: workdir of the trained teacher")
    result.add_argument(
        "--checkpoint",
        default="",
        help="da3, vggt: folder of the published safetensors; with --from, name or hash of the weights",
    )
    result.add_argument(
        "--licence", default="", help="da3, vggt: of the weights, kept in the files; published names are known"
    )
    result.add_argument(
        "--resize",
        default="",
        help=f"da3, vggt: how pictures are brought to size, the first by default: {networks.RESIZES}; of exports {RESIZES}",
    )
    result.add_argument(
        "--process_res", type=int, default=0, help=f"to what size (default {SIDES}, or of exports the maps' sides)"
    )
    here = result.add_argument_group("da3 and vggt on this machine")
    here.add_argument(
        "--views", type=int, default=0, help="views of a scene, fewer are padded (default: as many as it has)"
    )
    here.add_argument("--metric_checkpoint", default="", help="da3: folder of DA3METRIC-LARGE, which gives metres")
    here.add_argument("--features", type=int, choices=range(4), help="keep the features of this tap (default none)")
    here.add_argument(
        "--cameras",
        choices=("head", "rays"),
        default="head",
        help="da3: of the camera head (default), or solved from the rays",
    )
    here.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the backbone's products")
    for axis, what in _AXES.items():
        here.add_argument(
            f"--config.mesh.{axis}",
            dest=f"mesh_{axis}",
            type=int,
            metavar="N",
            help=f"devices of a host that split {what} (default: without a mesh all split scenes)",
        )
    exports = result.add_argument_group("what da3 and vggt exported elsewhere")
    exports.add_argument("--from", dest="exports", help="folder of the exports, one folder a record")
    exports.add_argument("--made_of", default="", help="folder that --pictures wrote, to compare the exports with")
    exports.add_argument("--metric", action="store_true", help="lengths are metres")
    result.add_argument(
        "--pictures", action="store_true", help="write the records' pictures for other programs, no labels"
    )
    result.add_argument("--check", action="store_true", help="check and mask the label files that are there, make none")
    result.add_argument("--data", required=True, help="a prepared data set")
    result.add_argument("--out", required=True, help="folder for the label files (or pictures)")
    result.add_argument("--splits", default="train", help="comma-separated splits (default train)")
    result.add_argument(
        "--rows", type=int, default=0, help="records per forward pass (default: rooms 8, else one a device)"
    )
    result.add_argument(
        "--min_agreement", type=float, default=0.0, help="mask scenes whose views agree less, 0..1 (default 0: none)"
    )
    result.add_argument(
        "--beam",
        nargs="?",
        const="",
        help='as a Beam pipeline with these options, --beam="--runner=..." (docs/at_scale.md)',
    )
    hosts.add_arguments(result)
    return result


def maker_of(args: argparse.Namespace) -> Exports | Networks | Present | Rooms:
    """What makes the labels, as the flags say.

    Raises:
      ValueError: settings that do not fit together, or have no effect on what makes the labels.
    """
    kind = "--check" if args.check else "rooms" if args.teacher == "rooms" else "exports" if args.exports else "here"
    defaults = parser().get_default
    unused = [
        f"--{_SPELT.get(name, name)}"
        for name, kinds in sorted(_READ_BY.items())
        if kind not in kinds and getattr(args, name) != defaults(name)
    ]
    if unused:
        names = {"rooms": "the rooms teacher", "here": "what is labelled here with --checkpoint"}
        have, them = ("has", "it") if len(unused) == 1 else ("have", "them")
        raise ValueError(f"{', '.join(unused)} {have} no effect on {names.get(kind, kind)}. Leave {them} out.")
    if args.check:
        return Present()
    if args.teacher == "rooms":
        return Rooms(args.model, args.rows or 8)
    if args.exports:
        how = (args.resize, args.metric, args.licence, args.process_res, args.made_of)
        return Exports(args.teacher, args.exports, args.checkpoint, *how)
    sizes = {axis: getattr(args, f"mesh_{axis}") for axis in _AXES}
    if set(sizes.values()) == {None}:
        sizes["data"] = jax.local_device_count()
    mesh = MeshConfig(**{axis: 1 if size is None else size for axis, size in sizes.items()})
    return Networks(
        teacher=args.teacher,
        folder=args.checkpoint,
        metric=args.metric_checkpoint,
        rows=args.rows or mesh.data * mesh.fsdp,
        views=args.views,
        resize=args.resize,
        process_res=args.process_res,
        features=args.features,
        cameras=args.cameras,
        licence=args.licence,
        dtype=args.dtype,
        mesh=mesh,
    )
