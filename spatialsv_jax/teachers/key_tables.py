"""Tables of names that the published teachers share: transformer blocks and the DPT (see `interop.conversion`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from spatialsv_jax.interop.arrays import read_parameters
from spatialsv_jax.interop.conversion import SAME, Conversion, Rule, Transform, linear, match, norm
from spatialsv_jax.interop.tensor_files import TensorFolder

CONVOLUTION = Transform(  # torch [out, in, h, w], ours [h, w, in, out]
    "convolution", lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)


def _pointwise(x: np.ndarray) -> np.ndarray:
    if x.shape[2:] != (1, 1):
        raise ValueError(f"kernel {x.shape[2:]}, expected (1, 1)")
    return x[:, :, 0, 0].T


POINTWISE = Transform("1x1 convolution", _pointwise, lambda x: x.T[:, :, None, None])


def _enlargement(factor: int) -> Transform:
    """A transposed convolution with kernel = stride, torch [in, out, f, f], as a matrix [in, f * f * out]."""

    def to_ours(x: np.ndarray) -> np.ndarray:
        if x.shape[2:] != (factor, factor):
            raise ValueError(f"kernel {x.shape[2:]}, expected {(factor, factor)}")
        return x.transpose(0, 2, 3, 1).reshape(x.shape[0], -1)

    to_theirs = lambda x: x.reshape(x.shape[0], factor, factor, -1).transpose(0, 3, 1, 2)
    return Transform(f"transposed convolution {factor}", to_ours, to_theirs)


def convolution(source: str, target: str, transform: Transform = CONVOLUTION, bias: bool = True) -> list[Rule]:
    """The rules of a convolution (or, with `POINTWISE`, of a linear map that is stored as one)."""
    rules = [Rule(f"{source}.weight", f"{target}/kernel", transform)]
    return [*rules, Rule(f"{source}.bias", f"{target}/bias", SAME)] if bias else rules


def block_rules(source: str, target: str, qk_norm: bool = False, mlp: str = "gelu") -> list[Rule]:
    """The rules of a `layers.Block`.

    Args:
      source: what its tensors' names begin with, "blocks.{layer}." (stacked), or a name without a layer.
      target: what its parameters' paths begin with.
      qk_norm, mlp: as in `layers.BlockConfig`.
    """
    rules = norm(f"{source}norm1", f"{target}attention_norm") + norm(f"{source}norm2", f"{target}mlp_norm")
    for number, name in enumerate(("q", "k", "v")):
        rules += linear(f"{source}attn.qkv", f"{target}attention/{name}", (number, 3))
    rules += linear(f"{source}attn.proj", f"{target}attention/o")
    if qk_norm:
        for name in ("q_norm", "k_norm"):
            rules += norm(f"{source}attn.{name}", f"{target}attention/{name}")
    rules.append(Rule(f"{source}ls1.gamma", f"{target}attention_scale", SAME))
    rules.append(Rule(f"{source}ls2.gamma", f"{target}mlp_scale", SAME))
    if mlp == "swiglu":
        rules += linear(f"{source}mlp.w12", f"{target}mlp/gate", (0, 2))
        rules += linear(f"{source}mlp.w12", f"{target}mlp/up", (1, 2))
        return rules + linear(f"{source}mlp.w3", f"{target}mlp/down")
    return rules + linear(f"{source}mlp.fc1", f"{target}mlp/up") + linear(f"{source}mlp.fc2", f"{target}mlp/down")


def reassembly_rules(source: str, target: str) -> list[Rule]:
    """The rules of `dpt.reassembly`; `source` is the head's prefix."""
    rules = []
    for level in range(4):
        rules += convolution(f"{source}projects.{level}", f"{target}project_{level}", POINTWISE)
        rules += convolution(f"{source}scratch.layer{level + 1}_rn", f"{target}reduce_{level}", bias=False)
    for level, factor in ((0, 4), (1, 2)):
        rules.append(
            Rule(f"{source}resize_layers.{level}.weight", f"{target}resize_{level}/kernel", _enlargement(factor))
        )
        rules.append(Rule(f"{source}resize_layers.{level}.bias", f"{target}resize_{level}_bias", SAME))
    return rules + convolution(f"{source}resize_layers.3", f"{target}resize_3")


def pyramid_rules(source: str, target: str, suffix: str = "") -> list[Rule]:
    """The rules of a `dpt.Pyramid`; the tensors are `source`scratch.refinenet1`suffix` and so on."""
    rules = []
    for level in range(4):
        theirs, ours = f"{source}scratch.refinenet{level + 1}{suffix}.", f"{target}level_{level}/"
        units = {"resConfUnit1": "skip", "resConfUnit2": "fuse"} if level < 3 else {"resConfUnit2": "fuse"}
        for unit, name in units.items():
            rules += convolution(f"{theirs}{unit}.conv1", f"{ours}{name}/first")
            rules += convolution(f"{theirs}{unit}.conv2", f"{ours}{name}/second")
        rules += convolution(f"{theirs}out_conv", f"{ours}mix", POINTWISE)
    return rules


def output_rules(source: str, target: str, last: int = 2) -> list[Rule]:
    """The rules of a `dpt.Output` without its norm: `source`.0 and `source`.`last`."""
    return convolution(f"{source}.0", f"{target}refine") + convolution(
        f"{source}.{last}", f"{target}predict", POINTWISE
    )


# (module, shapes of its parameters) -> the same with shardings.
Place = Callable[[Any, dict], dict]


def in_one_place(model: Any, shapes: dict) -> dict:
    """A `Place`: everything on this host's first device."""
    del model
    return shapes


def read_teacher(
    folder: TensorFolder,
    rules: Sequence[Rule],
    shapes: Mapping,
    *,
    carried: Sequence[str] = (),
    rename: Callable[[str], str] = str,
    progress: bool = False,
) -> tuple[dict, Conversion]:
    """A teacher's parameters from a checkpoint folder, and what came from where.

    Args:
      folder: the checkpoint.
      rules: the table.
      shapes: nested dicts of ShapeDtypeStructs (types and shardings are taken), as `jax.eval_shape` of `init` gives them
        under "params", unboxed.
      carried, rename: see `conversion.match`.
      progress: whether to show a bar.

    Raises:
      ConversionError: tensors without a place, parameters that stay empty, and shapes that do not fit, all named.
    """
    targets = traverse_util.flatten_dict(shapes, sep="/")
    sizes = {path: leaf.shape for path, leaf in targets.items()}
    conversion = match(rules, folder.tensors, sizes, carried=carried, rename=rename, where=str(folder.directory))
    found = read_parameters(conversion, folder, targets, progress)
    return traverse_util.unflatten_dict(found, sep="/"), conversion


def parameter_shapes(model, *inputs) -> dict:
    """Nested dicts of ShapeDtypeStructs of a module's parameters; nothing is allocated.

    Args:
      model: a Flax module.
      inputs: what it is called with, arrays or ShapeDtypeStructs.
    """
    boxed = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(lambda box: box.value, boxed, is_leaf=lambda node: hasattr(node, "unbox"))
