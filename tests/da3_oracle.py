"""Depth Anything 3's backbone in float64 NumPy, from tensors under their published names: view by view, views in the order in
which the published program treats them (the reference view first).
"""

import numpy as np
from scipy.special import erf


def taps(tensors, sizes, pixels, reference):
    """The four (patches [S,P,2C] for the head, camera rows [S,2C]) of one scene; pixels [S,H,W,3], views in input order."""
    tensors = {
        name.split("backbone.pretrained.")[1]: np.float64(value)
        for name, value in tensors.items()
        if "pretrained" in name
    }
    views, height, width, _ = pixels.shape
    grid = (height // 14, width // 14)
    kernel, bias = (tensors[f"patch_embed.proj.{part}"] for part in ("weight", "bias"))
    patches = pixels.reshape(views, grid[0], 14, grid[1], 14, 3).transpose(0, 1, 3, 5, 2, 4).reshape(views, -1, 588)
    x = patches @ kernel.reshape(len(kernel), -1).T + bias
    x = np.concatenate([np.broadcast_to(tensors["cls_token"], (views, 1, x.shape[-1])), x], 1)
    x = x + np.concatenate([tensors["pos_embed"][0, :1], resized(tensors["pos_embed"][0, 1:], grid)])
    places = np.array([(0, 0)] + [(row + 1, column + 1) for row in range(grid[0]) for column in range(grid[1])])
    order = [reference, *(view for view in range(views) if view != reference)]
    found, single = [], None
    for number in range(sizes.layers):
        if number == sizes.alt_start - 1:
            x = x[order]
        if number == sizes.alt_start:
            token = tensors["camera_token"][0]
            x = np.concatenate([np.stack([token[:1]] + [token[1:]] * (views - 1)), x[:, 1:]], 1)
        late = number >= sizes.alt_start
        if late and number % 2:
            flat = np.where(places > 0, 1, 0)
            rows = block(tensors, number, x.reshape(1, -1, x.shape[-1]), sizes, np.tile(flat, (views, 1)))
            x = rows.reshape(x.shape)
        else:
            x = single = block(tensors, number, x, sizes, places if late else None)
        if number in sizes.taps:
            both = np.concatenate([single, x], -1)[np.argsort(order)]
            half = x.shape[-1]
            normed = norm(both[:, 1:, half:], tensors["norm.weight"], tensors["norm.bias"], 1e-5)
            found.append((np.concatenate([both[:, 1:, :half], normed], -1), both[:, 0]))
    return found


def norm(x, weight, bias, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * weight + bias


def block(tensors, number, x, sizes, places):
    """One block over x[n,r,C]; `places` (row, column) of each of the r rows, None = neither rotary nor q/k norm."""
    part = lambda name: tensors[f"blocks.{number}.{name}"]
    linear = lambda x, name: x @ part(f"{name}.weight").T + part(f"{name}.bias")
    heads, dim = sizes.heads, sizes.width // sizes.heads
    y = linear(norm(x, part("norm1.weight"), part("norm1.bias"), 1e-6), "attn.qkv")
    query, key, value = y.reshape(*x.shape[:2], 3, heads, dim).transpose(2, 0, 3, 1, 4)
    if places is not None:
        query, key = (
            turned(norm(rows, part(f"attn.{name}.weight"), part(f"attn.{name}.bias"), 1e-5), places)
            for rows, name in ((query, "q_norm"), (key, "k_norm"))
        )
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(dim)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (weights / weights.sum(-1, keepdims=True) @ value).transpose(0, 2, 1, 3).reshape(x.shape)
    x = x + part("ls1.gamma") * linear(mixed, "attn.proj")
    y = norm(x, part("norm2.weight"), part("norm2.bias"), 1e-6)
    if sizes.mlp == "swiglu":
        gate, up = np.split(linear(y, "mlp.w12"), 2, -1)
        y = linear(gate / (1 + np.exp(-gate)) * up, "mlp.w3")
    else:
        y = linear(y, "mlp.fc1")
        y = linear(y * (1 + erf(y / np.sqrt(2))) / 2, "mlp.fc2")
    return x + part("ls2.gamma") * y


def turned(x, places, base=100.0):
    """x[n,heads,r,d] turned pair by pair: halves of a head by row and column, features k and k + d/4 of each half together."""
    out, half = x.copy(), x.shape[-1] // 2
    for axis in range(2):
        for k in range(half // 2):
            angle = places[:, axis] * base ** (-2 * k / half)
            first, second = axis * half + k, axis * half + k + half // 2
            out[..., first] = x[..., first] * np.cos(angle) - x[..., second] * np.sin(angle)
            out[..., second] = x[..., second] * np.cos(angle) + x[..., first] * np.sin(angle)
    return out


def resized(table, grid):
    """A position table [37*37,C] at another grid, sample by sample: bicubic, a = -0.75, with the published 0.1."""

    def weight(x):
        x = abs(x)
        if x < 1:
            return 1.25 * x**3 - 2.25 * x**2 + 1
        return -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3 if x < 2 else 0.0

    if grid == (37, 37):
        return table
    table = table.reshape(37, 37, -1)
    out = np.zeros((*grid, table.shape[-1]))
    for row, column in np.ndindex(*grid):
        y, x = ((place + 0.5) * 37 / (count + 0.1) - 0.5 for place, count in zip((row, column), grid, strict=True))
        for i in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
            for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                out[row, column] += weight(y - i) * weight(x - j) * table[min(max(i, 0), 36), min(max(j, 0), 36)]
    return out.reshape(-1, table.shape[-1])
