"""The command line of `experiments.label`, and the maker that it asks for."""

from __future__ import annotations

import argparse

from data_pipelines.labels.exports import NAMES
from data_pipelines.labels.pictures import RESIZES, SIDES
from experiments import hosts
from experiments.label_makers import Exports, Present, Rooms
from experiments.label_networks import Networks
from spatialsv_jax.training.sharding import MeshConfig


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
        "--resize", default="", help=f"how pictures are brought to size, the first by default: {RESIZES}"
    )
    result.add_argument(
        "--process_res", type=int, default=0, help=f"to what size (default {SIDES}, or of exports the maps' sides)"
    )
    networks = result.add_argument_group("da3 and vggt on this machine")
    networks.add_argument(
        "--views", type=int, default=0, help="views of a scene, fewer are padded (default: as many as it has)"
    )
    networks.add_argument("--metric_checkpoint", default="", help="da3: folder of DA3METRIC-LARGE, which gives metres")
    networks.add_argument("--features", type=int, choices=range(4), help="keep the features of this tap (default none)")
    networks.add_argument(
        "--cameras",
        choices=("head", "rays"),
        default="head",
        help="da3: of the camera head (default), or solved from the rays",
    )
    networks.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the backbone's products"
    )
    for axis, what in (
        ("data", "scenes"),
        ("fsdp", "scenes and parameters"),
        ("context", "views"),
        ("tensor", "heads and widths"),
    ):
        networks.add_argument(
            f"--config.mesh.{axis}",
            dest=f"mesh_{axis}",
            type=int,
            default=1,
            metavar="N",
            help=f"devices of a host that split {what}",
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
      ValueError: settings that do not fit together.
    """
    if args.check:
        return Present()
    if args.teacher == "rooms":
        return Rooms(args.model, args.rows or 8)
    if args.exports:
        how = (args.resize, args.metric, args.licence, args.process_res, args.made_of)
        return Exports(args.teacher, args.exports, args.checkpoint, *how)
    mesh = MeshConfig(args.mesh_data, args.mesh_fsdp, args.mesh_tensor, args.mesh_context)
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
