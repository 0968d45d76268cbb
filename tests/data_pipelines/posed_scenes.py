"""A miniature scan of the plane z = 0, ray-cast in closed form, and its conversion."""

import numpy as np
from PIL import Image

from data_pipelines.sources.posed_rgbd import Settings
from data_pipelines.storage import open_split
from experiments.prepare import prepare

WIDTH, HEIGHT, FOCAL = 32, 24, 40.0


def camera(frame, frames=8):
    """Looks down at the plane from about 2 m, tilted, moving along x."""
    tilt, turn = 0.3, 0.2 * frame / frames
    flip = np.diag([1.0, -1.0, -1.0])  # z towards the floor
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = about_z @ flip @ about_x
    pose[:3, 3] = [0.1 * frame, 0.05, 2.0]
    return pose


def plane_depth(pose, width=WIDTH, height=HEIGHT, focal=FOCAL):
    """Exact z-depth of the plane for pixel centres at +0.5 and the principal point in the middle."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(columns - width / 2) / focal, (rows - height / 2) / focal, np.ones_like(rows)], -1)
    return -pose[2, 3] / (rays @ pose[:3, :3].T)[..., 2]


def matrix(focal, width, height, shift=0.5):
    """4x4 as ScanNet writes it: the first pixel's centre is 0."""
    result = np.eye(4)
    result[0, 0] = result[1, 1] = focal
    result[:2, 2] = width / 2 - shift, height / 2 - shift
    return result


def write_scene(folder, frames=8, colour_scale=2, first=0):
    for part in ("color", "depth", "pose", "intrinsic"):
        (folder / part).mkdir(parents=True)
    width, height = WIDTH * colour_scale, HEIGHT * colour_scale
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", matrix(FOCAL, WIDTH, HEIGHT))
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", matrix(FOCAL * colour_scale, width, height))
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    for frame in range(first, first + frames):
        Image.fromarray(ramp.astype(np.uint8)).save(folder / "color" / f"{frame}.jpg", quality=95)
        steps = np.round(plane_depth(camera(frame)) * 1000).astype(np.uint16)
        Image.fromarray(steps).save(folder / "depth" / f"{frame}.png")
        np.savetxt(folder / "pose" / f"{frame}.txt", camera(frame))
    return folder


def convert(raw, out, **settings):
    manifest = prepare("posed_rgbd", Settings(raw=str(raw), **settings), out, workers=None, progress=False)
    return manifest, {split: open_split(out, split, verify=True) for split in manifest["splits"]}


def counts(manifest, split="train"):
    return manifest["splits"][split]["counts"]
