"""Names and shapes of Depth Anything 3's checkpoints, written out independently of the table that reads them."""

import numpy as np
from safetensors.numpy import save_file


def block(prefix, width, hidden, head_dim=0, swiglu=False):
    """Tensors of one transformer block; `head_dim` > 0: with q/k norms."""
    found = {}
    for name in ("norm1", "norm2"):
        found |= {f"{prefix}{name}.weight": (width,), f"{prefix}{name}.bias": (width,)}
    found |= layer(f"{prefix}attn.qkv", 3 * width, width) | layer(f"{prefix}attn.proj", width, width)
    for name in ("q_norm", "k_norm") if head_dim else ():
        found |= {f"{prefix}attn.{name}.weight": (head_dim,), f"{prefix}attn.{name}.bias": (head_dim,)}
    found |= {f"{prefix}ls{number}.gamma": (width,) for number in (1, 2)}
    up, down = (("w12", 2 * hidden), "w3") if swiglu else (("fc1", hidden), "fc2")
    return found | layer(f"{prefix}mlp.{up[0]}", up[1], width) | layer(f"{prefix}mlp.{down}", width, hidden)


def layer(name, *shape):
    """A weight [out, ...] with its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": (shape[0],)}


def backbone(sizes):
    width, swiglu = sizes.width, sizes.mlp == "swiglu"
    found = {"cls_token": (1, 1, width), "pos_embed": (1, 1370, width), "norm.weight": (width,), "norm.bias": (width,)}
    found |= layer("patch_embed.proj", width, 3, 14, 14)
    if sizes.alt_start:
        found["camera_token"] = (1, 2, width)
    for number in range(sizes.layers):
        head_dim = width // sizes.heads if sizes.alt_start and number >= sizes.alt_start else 0
        found |= block(f"blocks.{number}.", width, sizes.mlp_width, head_dim, swiglu)
    return {f"backbone.pretrained.{name}": shape for name, shape in found.items()}


def head(sizes):
    """All of the head, dead branches of the rays among it."""
    rays, width = bool(sizes.alt_start), sizes.width * (2 if sizes.alt_start else 1)
    features, half = sizes.features, sizes.features // 2
    found = {"norm.weight": (width,), "norm.bias": (width,)} if rays else {}
    for level, channels in enumerate(sizes.channels):
        found |= layer(f"projects.{level}", channels, width, 1, 1)
        found[f"scratch.layer{level + 1}_rn.weight"] = (features, channels, 3, 3)
        for suffix in ("", "_aux") if rays else ("",):
            name = f"scratch.refinenet{level + 1}{suffix}"
            found |= layer(f"{name}.out_conv", features, features, 1, 1)
            for unit in (1, 2) if level < 3 else (2,):
                for conv in (1, 2):
                    found |= layer(f"{name}.resConfUnit{unit}.conv{conv}", features, features, 3, 3)
    first, second, _, last = sizes.channels
    found |= layer("resize_layers.0", first, first, 4, 4) | layer("resize_layers.1", second, second, 2, 2)
    found |= layer("resize_layers.3", last, last, 3, 3) | layer("scratch.output_conv1", half, features, 3, 3)
    for name in ("output_conv2",) if rays else ("output_conv2", "sky_output_conv2"):
        found |= layer(f"scratch.{name}.0", 32, half, 3, 3)
        found |= layer(f"scratch.{name}.2", 2 if rays else 1, 32, 1, 1)
    for level in range(4 if rays else 0):
        for number in range(5):
            sides = (features, half) if number % 2 else (half, features)
            found |= layer(f"scratch.output_conv1_aux.{level}.{number}", *sides, 3, 3)
        found |= layer(f"scratch.output_conv2_aux.{level}.0", 32, half, 3, 3)
        found |= layer(f"scratch.output_conv2_aux.{level}.5", 7, 32, 1, 1)
    if rays:
        found |= {f"scratch.output_conv2_aux.0.2.{name}": (32,) for name in ("weight", "bias")}
    return {f"head.{name}": shape for name, shape in found.items()}


def cameras(sizes):
    """Encoder and decoder; {} in the mono form."""
    if not sizes.alt_start:
        return {}
    width, both = sizes.width, 2 * sizes.width
    found = layer("cam_dec.backbone.0", both, both) | layer("cam_dec.backbone.2", both, both)
    for name, outputs in (("fc_t", 3), ("fc_qvec", 4), ("fc_fov.0", 2)):
        found |= layer(f"cam_dec.{name}", outputs, both)
    found |= layer("cam_enc.pose_branch.fc1", width // 2, 9) | layer("cam_enc.pose_branch.fc2", width, width // 2)
    for name in ("token_norm", "trunk_norm"):
        found |= {f"cam_enc.{name}.weight": (width,), f"cam_enc.{name}.bias": (width,)}
    for number in range(4):
        found |= block(f"cam_enc.trunk.{number}.", width, 4 * width)
    return found


def tensors(sizes, prefix="model."):
    """name -> shape of a whole checkpoint."""
    found = backbone(sizes) | head(sizes) | cameras(sizes)
    return {prefix + name: shape for name, shape in found.items()}


def count(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


def random_values(shapes, seed=0):
    """float32 tensors: no zero biases or unit norms, which would hide mistakes."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes.items():
        scale = 0.3 if len(shape) == 1 else 1 / np.sqrt(np.prod(shape[1:]))
        centre = 1.0 if len(shape) == 1 and name.endswith(".weight") else 0.0
        made[name] = (centre + scale * rng.standard_normal(shape)).astype(np.float32)
    return made


def write(folder, values):
    """A checkpoint folder without config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(values, folder / "model.safetensors")
