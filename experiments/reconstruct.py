"""What a model believes of any pictures: `python -m experiments.reconstruct --model DIR --images a.png b.png --out DIR`.

Writes per view a 16-bit depth PNG and a coloured one, all arrays (reconstruction.npz), the cameras
(cameras.json), the point clouds (GLB and PLY) and a page (index.html). Lengths are in scene units:
1 is the mean distance of the points from the first camera. `--questions "..."` asks as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from experiments import reporting
from spatialsv_jax.evaluation.statistics import write_json

DEPTH_STEP = 0.001  # scene units per step of the 16-bit depth PNG


class UsageError(ValueError):
    """Something the user gave cannot be used."""


def read_images(paths: Sequence[str]) -> list[np.ndarray]:
    """Pictures as uint8[h,w,3], in the given order, turned upright by their EXIF tag.

    Raises:
      UsageError: naming every path that is missing or no readable picture.
    """
    from PIL import ImageOps

    images, problems = [], []
    for path in paths:
        try:
            with Image.open(path) as picture:
                images.append(np.asarray(ImageOps.exif_transpose(picture).convert("RGB")))
        except FileNotFoundError:
            problems.append(f"{path}: no such file")
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on broken files
            problems.append(f"{path}: no readable picture ({error})")
    if problems:
        raise UsageError("Cannot read " + "; ".join(problems) + ". Give PNG or JPEG files.")
    return images


def reconstruct(
    loaded, images: list[np.ndarray], names: Sequence[str], out: Path, questions: Sequence[str] = (), kinds=None
) -> None:
    """Reconstructs the pictures and writes everything into `out`.

    Args:
      loaded: a LoadedModel.
      images: uint8[h,w,3] in prompt order.
      names: what to call them on the page.
      out: made when missing.
      questions: texts in the model's language; "view 1" names the first picture.
      kinds: formats of report.exports to write; None = all that need no further package.

    Raises:
      UsageError: more pictures than the model was trained with.
      ValueError: a model without heads, or a word that the tokenizer does not know.
    """
    most = int(loaded.config["data"]["views"])
    if len(images) > most:
        raise UsageError(
            f"{len(images)} pictures were given, but the model was trained with at most {most}. Give fewer --images."
        )
    answers = loaded.answer(images, list(questions)) if questions else []
    found = loaded.reconstruct(images)
    out.mkdir(parents=True, exist_ok=True)
    _write_arrays(found, names, out)
    _write_page(found, images, names, out, list(zip(questions, answers, strict=True)), loaded, kinds)


def _write_arrays(found, names: Sequence[str], out: Path) -> None:
    from spatialsv_jax.report import images as pictures

    arrays = {name: getattr(found, name) for name in found.__dataclass_fields__}
    np.savez_compressed(out / "reconstruction.npz", **arrays)
    scale = pictures.value_range((found.depth, np.ones(found.depth.shape, bool)))
    for view, depth in enumerate(found.depth):
        steps = np.clip(np.round(depth / DEPTH_STEP), 0, 65535).astype(np.uint16)
        (out / f"depth_{view + 1}.png").write_bytes(pictures.encode(steps))
        coloured = pictures.colourise(depth, np.ones(depth.shape, bool), scale, "turbo_r")
        (out / f"depth_{view + 1}_colour.png").write_bytes(pictures.encode(coloured))
    height, width = found.depth.shape[1:]
    cameras = {
        "convention": "OpenCV axes (x right, y down, z forward), pixel centres at +0.5; camera_to_world in the first view's frame",
        "length_unit": "scene unit: mean distance of the points from the first camera",
        "depth_png_unit": DEPTH_STEP,
        "map_size": {"height": height, "width": width},
        "views": [
            {
                "image": str(name),
                "camera_fits": bool(found.camera_ok[view]),
                "intrinsics": found.intrinsics[view] if found.camera_ok[view] else None,
                "camera_to_world": found.camera_to_world[view] if found.camera_ok[view] else None,
            }
            for view, name in enumerate(names)
        ],
    }
    write_json(out / "cameras.json", cameras)


def _write_page(found, images, names, out: Path, asked, loaded, kinds) -> None:
    from spatialsv_jax import geometry
    from spatialsv_jax.report import exports, markup, viewer_data
    from spatialsv_jax.report.figure import Geometry, SceneFigure
    from spatialsv_jax.report.scene_section import write_scene

    everywhere = np.ones(found.depth.shape, bool)
    clouds = {"depth + rays": geometry.points_from_rays(found.ray, found.depth), "points head": found.points}
    predicted = Geometry(
        found.depth,
        everywhere,
        everywhere,
        found.intrinsics,
        found.camera_to_world,
        found.camera_ok,
        clouds,
        found.depth_confidence,
        {"depth + rays": found.depth_confidence, "points head": found.points_confidence},
    )
    figure = SceneFigure(
        title=", ".join(str(name) for name in names),
        tags=(),
        note="There is no truth to compare with: this is what the model believes. Lengths are in scene units.",
        images=images,
        predicted=predicted,
        true=None,
        questions=[{"question": question, "prediction": answer} for question, answer in asked],
    )
    section, entries = write_scene(figure, out, "cloud", exports.DEFAULT if kinds is None else kinds)
    viewer = viewer_data.write_runs(out, [{"name": str(loaded.path), "scenes": entries}])
    body = (
        f"<h1>Reconstruction</h1>"
        f'<p class="soft">{markup.esc(loaded.path)}, step {loaded.step}, objective <b>{markup.esc(loaded.settings.objective_name)}</b>. '
        'Beside this page: depth as 16-bit PNG, <a href="reconstruction.npz">reconstruction.npz</a>, <a href="cameras.json">cameras.json</a>, '
        f"point clouds.</p>{viewer}{section}"
    )
    (out / "index.html").write_text(markup.document("Reconstruction", body), "utf-8")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from experiments import placing

    result = argparse.ArgumentParser(prog="python -m experiments.reconstruct", description="Reconstructs pictures.")
    result.add_argument("--model", required=True, help="a run, a phase's workdir, or checkpoints/STEP")
    result.add_argument("--images", required=True, nargs="+", help="pictures of one place, in order")
    result.add_argument("--out", required=True, help="folder to write into")
    placing.add_flags(result)
    result.add_argument("--questions", nargs="*", default=[], help="questions about the pictures")
    result.add_argument(
        "--exports", nargs="*", metavar="FORMAT", help="glb ply npz colmap tum rerun (default: all but rerun)"
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 2 for a mistake in its arguments or files."""
    flags = parser().parse_args(argv)

    def work() -> None:
        images = read_images(flags.images)
        from experiments import placing
        from spatialsv_jax import loading

        names = [Path(path).name for path in flags.images]
        model = loading.load(flags.model, placing.mesh_of(flags.fsdp, flags.tensor), flags.dtype)
        reconstruct(model, images, names, Path(flags.out), flags.questions, flags.exports)
        print(f"wrote {Path(flags.out) / 'index.html'}")

    return reporting.exit_code(work, (OSError, ValueError, ImportError))


if __name__ == "__main__":
    sys.exit(main())
