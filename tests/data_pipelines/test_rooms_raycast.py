"""Rays, depth, instances, normals and light against closed forms and a brute-force caster."""

import colorsys
import dataclasses

import numpy as np
import pytest
import room_checks

from data_pipelines.rooms import structure, textures
from data_pipelines.rooms.cameras import camera_pose, make_intrinsics
from data_pipelines.rooms.config import RoomsConfig
from data_pipelines.rooms.furniture import COLOURS
from data_pipelines.rooms.layout import make_scene
from data_pipelines.rooms.raycast import Raycaster
from data_pipelines.rooms.scene import Scene, SceneObject
from data_pipelines.rooms.textures import Material

SIZE = np.array([5.0, 4.0, 2.6])


def _plain(rgb):
    return Material("plain", "plain", 0, tuple(rgb), tuple(rgb))


def _bare_room(objects=(), extra=()) -> Scene:
    shell = structure.bare_shell(SIZE)
    materials = tuple(_plain((200, 200, 200)) for _ in structure.SHELL) + tuple(extra)
    return Scene("bare", 0, SIZE, tuple(objects), shell.vertices, shell.faces, shell.material, materials, shell.lights)


def _box(size, centre, material, yaw=0.0, index=0) -> SceneObject:
    size, centre = np.array(size, float), np.array(centre, float)
    unit = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]) * size
    c, s = np.cos(yaw), np.sin(yaw)
    turned = np.stack([c * unit[:, 0] - s * unit[:, 1], s * unit[:, 0] + c * unit[:, 1], unit[:, 2]], -1) + centre
    quads = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    faces = np.array([[q[0], q[k], q[k + 1]] for q in quads for k in (1, 2)], np.int32)
    face_material = np.full(12, material, np.int32)
    return SceneObject(
        index, "box", "red", "parametric", size, centre, yaw, None, turned.astype(np.float32), faces, face_material
    )


@pytest.fixture(scope="module")
def furnished():
    scene = make_scene(11, "train", RoomsConfig())
    return scene, Raycaster(scene)


def _poses(scene, count, rng):
    """From above head height near the walls, across the room."""
    for _ in range(count):
        angle = rng.uniform(-np.pi, np.pi)
        middle = scene.size[:2] / 2
        centre = middle + 0.36 * scene.size[:2] * np.array([np.cos(angle), np.sin(angle)])
        yield camera_pose(np.array([*centre, rng.uniform(1.9, 2.1)]), angle + np.pi, rng.uniform(0.3, 0.5))


def test_bare_room_depth_is_the_closed_form():
    scene = _bare_room()
    raycaster = Raycaster(scene)
    rng = np.random.default_rng(0)
    for pose in _poses(scene, 4, rng):
        intrinsics = make_intrinsics(rng.uniform(50, 90), 40)
        intrinsics[0, 2], intrinsics[1, 2], intrinsics[1, 1] = 23.3, 11.7, 1.3 * intrinsics[0, 0]
        view = raycaster.render(intrinsics, pose, 30, 40)
        assert view.depth.shape == (30, 40) and view.depth.dtype == np.float32 and view.rgb.dtype == np.uint8
        expected = room_checks.slab_depth(SIZE, intrinsics, pose, 30, 40)
        np.testing.assert_allclose(view.depth, expected, rtol=3e-5)
        assert (view.instance == -1).all()


def test_depth_instance_and_normal_agree_with_brute_force(furnished):
    scene, raycaster = furnished
    corners, owner = room_checks.triangles(scene)
    rng = np.random.default_rng(1)
    shown = set()
    for pose in _poses(scene, 3, rng):
        intrinsics = make_intrinsics(80, 48)
        view = raycaster.render(intrinsics, pose, 48, 48)
        np.testing.assert_allclose(np.linalg.norm(view.normal, axis=-1), 1.0, atol=1e-5)
        wrong = 0
        for u, v in rng.integers(0, 48, (60, 2)):
            ray = pose[:3, :3] @ np.linalg.inv(intrinsics) @ np.array([u + 0.5, v + 0.5, 1.0])
            depth, face = room_checks.first_hit(pose[:3, 3], ray, corners)
            same = abs(depth - view.depth[v, u]) < 1e-3 and owner[face] == view.instance[v, u]
            wrong += not same  # a ray exactly along an edge may fall on either side of it
            if same:
                normal = np.cross(corners[face, 1] - corners[face, 0], corners[face, 2] - corners[face, 0])
                cosine = normal @ view.normal[v, u] / np.linalg.norm(normal)
                assert abs(cosine) > 0.999 and view.normal[v, u] @ ray < 0
                shown.add(int(owner[face]))
        assert wrong <= 1
    assert len(shown) >= 4


def test_removing_an_object_only_uncovers_what_lies_behind(furnished):
    scene, raycaster = furnished
    rng = np.random.default_rng(2)
    pose = next(_poses(scene, 1, rng))
    with_all = raycaster.render(make_intrinsics(85, 64), pose, 64, 64)
    names, counts = np.unique(with_all.instance[with_all.instance >= 0], return_counts=True)
    gone = int(names[counts.argmax()])
    kept = [dataclasses.replace(item, index=number) for number, item in enumerate(scene.objects) if number != gone]
    kept = [dataclasses.replace(item, index=number) for number, item in enumerate(kept)]
    without = Raycaster(dataclasses.replace(scene, objects=tuple(kept))).render(make_intrinsics(85, 64), pose, 64, 64)
    mine = with_all.instance == gone
    assert mine.sum() > 20
    assert (without.depth[mine] > with_all.depth[mine]).all()
    np.testing.assert_allclose(without.depth[~mine], with_all.depth[~mine], rtol=1e-5)


def test_look_is_the_geometry_of_render(furnished):
    scene, raycaster = furnished
    pose = next(_poses(scene, 1, np.random.default_rng(3)))
    view = raycaster.render(make_intrinsics(70, 32), pose, 32, 32)
    depth, instance = raycaster.look(make_intrinsics(70, 32), pose, 32, 32)
    np.testing.assert_array_equal(depth, view.depth)
    np.testing.assert_array_equal(instance, view.instance)


def test_antialiasing_changes_colours_only_at_edges(furnished):
    scene, raycaster = furnished
    pose = next(_poses(scene, 1, np.random.default_rng(4)))
    fine = raycaster.render(make_intrinsics(70, 48), pose, 48, 48, antialias=True)
    plain = raycaster.render(make_intrinsics(70, 48), pose, 48, 48, antialias=False)
    np.testing.assert_array_equal(fine.depth, plain.depth)
    np.testing.assert_array_equal(fine.instance, plain.instance)
    changed = (fine.rgb != plain.rgb).any(-1)
    assert 0 < changed.mean() < 0.6
    inner = np.zeros((48, 48), bool)
    same = [np.roll(plain.instance, shift, axis) == plain.instance for axis in (0, 1) for shift in (1, -1)]
    flat = [
        np.abs(np.roll(plain.normal, shift, axis) - plain.normal).max(-1) < 1e-6 for axis in (0, 1) for shift in (1, -1)
    ]
    inner[1:-1, 1:-1] = np.logical_and.reduce(same + flat)[1:-1, 1:-1]
    near = np.minimum.reduce([np.roll(plain.depth, shift, axis) for axis in (0, 1) for shift in (1, -1)])
    jump = [
        np.abs(np.roll(plain.depth, shift, axis) - plain.depth) < 0.09 * near for axis in (0, 1) for shift in (1, -1)
    ]
    inner &= np.logical_and.reduce(jump)
    assert inner.sum() > 300 and not changed[inner].any()


def test_a_box_casts_a_shadow():
    lamp = structure.bare_shell(SIZE).lights[0]
    intrinsics, pose = make_intrinsics(60, 64), camera_pose([2.5, 0.4, 1.6], np.pi / 2, 0.5)
    empty = Raycaster(_bare_room()).render(intrinsics, pose, 64, 64, antialias=False)
    box = _box([0.7, 0.7, 0.1], [lamp[0], lamp[1] + 0.2, 1.7], len(structure.SHELL))
    shaded = Raycaster(_bare_room([box], [_plain((90, 90, 90))])).render(intrinsics, pose, 64, 64, antialias=False)
    floor = (empty.depth == shaded.depth) & (empty.normal[..., 2] > 0.9)
    change = empty.rgb[floor].astype(int).sum(-1) - shaded.rgb[floor].astype(int).sum(-1)
    assert (change >= -6).all(), "light was added"
    assert (change > 60).sum() > 30, "no shadow"
    assert ((change > 6) & (change < 40)).sum() > 5, "no soft border"
    assert (change <= 2).sum() > 200, "all is dark"


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_colour_names_match_what_is_seen(colour):
    box = _box([0.9, 0.9, 0.9], [2.5, 2.2, 0.45], len(structure.SHELL), 0.5)
    scene = _bare_room([box], [_plain(COLOURS[colour])])
    view = Raycaster(scene).render(make_intrinsics(60, 48), camera_pose([2.5, 0.5, 1.5], np.pi / 2, 0.45), 48, 48)
    rgb = view.rgb[view.instance == 0] / 255.0
    assert len(rgb) > 200
    hue, saturation, value = np.array([colorsys.rgb_to_hsv(*row) for row in rgb]).T
    if colour in ("white", "black"):
        assert np.median(saturation) < 0.2
        assert np.median(value) > 0.6 if colour == "white" else np.median(value) < 0.2
        return
    hues = {name: colorsys.rgb_to_hsv(*(np.array(rgb) / 255.0))[0] for name, rgb in COLOURS.items()}
    own = np.angle(np.exp(2j * np.pi * np.median(hue)) / np.exp(2j * np.pi * hues[colour]))
    others = [
        abs(np.angle(np.exp(2j * np.pi * np.median(hue)) / np.exp(2j * np.pi * other)))
        for name, other in hues.items()
        if name not in (colour, "white", "black")
    ]
    assert abs(own) < min(others)


def test_rendering_is_deterministic(furnished):
    scene, raycaster = furnished
    pose = next(_poses(scene, 1, np.random.default_rng(5)))
    first = raycaster.render(make_intrinsics(70, 32), pose, 32, 32)
    again = Raycaster(scene).render(make_intrinsics(70, 32), pose, 32, 32)
    np.testing.assert_array_equal(first.rgb, again.rgb)
    np.testing.assert_array_equal(first.depth, again.depth)


def test_patterns_tile_and_mips_are_means():
    flat, stride = textures.atlas(), textures.atlas_stride()
    assert len(flat) == stride * len(textures.PATTERNS) * textures.VARIANTS
    assert 0 <= flat.min() and flat.max() <= 1
    for kind in textures.PATTERNS:
        start = textures.pattern_index(kind, 1) * stride
        first = flat[start : start + textures.TILE**2].reshape(textures.TILE, textures.TILE)
        last = flat[start + textures.LEVEL_OFFSET[-2] : start + stride]
        np.testing.assert_allclose(last.mean(), first.mean(), atol=1e-5)
    with pytest.raises(ValueError, match="Pattern 'tartan'"):
        textures.pattern_index("tartan", 0)


def test_texture_sampling_wraps_and_hits_the_texel():
    start = np.full(3, textures.pattern_index("planks", 0) * textures.atlas_stride())
    texel = textures.atlas()[start[0] + 5 * textures.TILE + 9]
    uv = np.array([[9.5, 5.5], [9.5 + textures.TILE, 5.5], [9.5, 5.5 - 3 * textures.TILE]], np.float32) / textures.TILE
    np.testing.assert_allclose(textures.sample(start, uv, np.zeros(3, np.int64)), texel)
