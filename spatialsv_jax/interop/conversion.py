"""Tables of names: which tensor of a Hugging Face checkpoint is which parameter of ours.

A family's table is a list of `Rule`s, used in both directions. `Conversion` checks a whole
checkpoint against a whole parameter tree before anything is read and reports all problems at once.
No jax here; `arrays.py` moves the values.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from spatialsv_jax.interop.tensor_files import ConversionError, TensorInfo

_LAYER = "{layer}"
_SHOWN = 12  # problems of a kind that a message lists


@dataclasses.dataclass(frozen=True)
class Transform:
    """A tensor of theirs as a parameter of ours, and back. Views where possible; values are never changed."""

    name: str
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]

    def shape(self, theirs: tuple[int, ...]) -> tuple[int, ...]:
        """Our shape of a tensor of shape `theirs`; ValueError when it cannot be one."""
        return self.to_ours(np.broadcast_to(np.int8(0), theirs)).shape


SAME = Transform("same", lambda x: x, lambda x: x)
LINEAR = Transform("transposed", np.transpose, np.transpose)  # torch [out, in], ours [in, out]
FIRST = Transform("without the first axis", lambda x: x[0], lambda x: x[None])  # torch [1, ...]


def linear(source: str, target: str, part: tuple[int, int] = (0, 1)) -> list[Rule]:
    """The two rules of a linear layer with its bias; see `Rule.part`."""
    return [
        Rule(f"{source}.weight", f"{target}/kernel", LINEAR, part),
        Rule(f"{source}.bias", f"{target}/bias", SAME, part),
    ]


def norm(source: str, target: str) -> list[Rule]:
    """The two rules of a LayerNorm."""
    return [Rule(f"{source}.weight", f"{target}/scale", SAME), Rule(f"{source}.bias", f"{target}/bias", SAME)]


def patches(kernel: tuple[int, ...], channels_last: bool) -> Transform:
    """A convolution over patches, torch [out, in, *kernel], as a matrix [prod(kernel) * in, out].

    Args:
      kernel: sizes of a patch, (t, h, w) or (h, w).
      channels_last: whether a patch's values are ordered (*kernel, in), as pictures are in memory,
        or (in, *kernel), as processors that cut patches themselves order them.
    """
    axes = len(kernel)

    def to_ours(x: np.ndarray) -> np.ndarray:
        if x.shape[2:] != tuple(kernel):
            raise ValueError(f"kernel {x.shape[2:]}, expected {tuple(kernel)}")
        order = (*range(2, 2 + axes), 1, 0) if channels_last else (1, *range(2, 2 + axes), 0)
        return x.transpose(order).reshape(-1, x.shape[0])

    def to_theirs(x: np.ndarray) -> np.ndarray:
        if channels_last:
            return x.reshape(*kernel, -1, x.shape[-1]).transpose(axes + 1, axes, *range(axes))
        return x.reshape(-1, *kernel, x.shape[-1]).transpose(axes + 1, 0, *range(1, axes + 1))

    return Transform(f"patches {tuple(kernel)}", to_ours, to_theirs)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a table.

    Attributes:
      source: name of their tensor; "{layer}" stands for a number: the layers of one name are
        stacked along a first axis of ours.
      target: path of our parameter, "language/layers/attention/q/kernel".
      transform: of each layer's tensor.
      part: (i, n): ours is the i-th of n equal parts of theirs along its first axis (q of a fused
        qkv). The table then has a rule for each part.
    """

    source: str
    target: str
    transform: Transform = LINEAR
    part: tuple[int, int] = (0, 1)

    @functools.cached_property
    def pattern(self) -> re.Pattern:
        """Matches names of `source`, the layer's number in group 1 if it has one."""
        return re.compile(re.escape(self.source).replace(re.escape(_LAYER), r"(\d+)"))

    @property
    def stacked(self) -> bool:
        """Whether our parameter has a leading axis of layers."""
        return _LAYER in self.source

    def rows(self, theirs: tuple[int, ...]) -> slice:
        """The part of their first axis.

        Raises:
          ValueError: it cannot be cut into equal parts.
        """
        number, parts = self.part
        if parts == 1:
            return slice(None)
        if not theirs or theirs[0] % parts:
            raise ValueError(f"first axis of {theirs} is not divisible by {parts}")
        size = theirs[0] // parts
        return slice(number * size, (number + 1) * size)


@dataclasses.dataclass(frozen=True)
class Filled:
    """A parameter of ours and where its values come from."""

    target: str
    shape: tuple[int, ...]
    rule: Rule
    sources: tuple[str, ...]  # one, or one per layer in order


@dataclasses.dataclass(frozen=True)
class Conversion:
    """How a checkpoint fills a parameter tree, and back; made by `match`."""

    filled: Mapping[str, Filled]  # target -> where it comes from
    new: tuple[str, ...]  # parameters that no checkpoint has: they are initialised
    carried: tuple[str, ...]  # tensors that are no parameters of ours; an export copies them
    mirrored: Mapping[str, str] = dataclasses.field(default_factory=dict)  # second copies: tensor -> its original

    def report(self, tensors: Mapping[str, TensorInfo]) -> list[str]:
        """A line per parameter: path, shape, what it was read from."""
        lines = []
        for path, entry in self.filled.items():
            first = tensors[entry.sources[0]]
            many = f" ... ({len(entry.sources)} layers)" if entry.rule.stacked else ""
            lines.append(f"{path} {list(entry.shape)} <- {entry.sources[0]}{many} {first.dtype} in {first.file}")
        lines += [f"{path} new" for path in self.new]
        return lines + [f"{name} carried along" for name in self.carried]


def match(
    rules: Sequence[Rule],
    tensors: Mapping[str, TensorInfo],
    targets: Mapping[str, tuple[int, ...]],
    *,
    new: Sequence[str] = (),
    carried: Sequence[str] = (),
    rename: Callable[[str], str] = str,
    where: str = "The checkpoint",
) -> Conversion:
    """Checks a checkpoint against a parameter tree.

    Args:
      rules: the family's table.
      tensors: what the checkpoint holds.
      targets: path -> shape of every parameter of ours.
      new: regular expressions of paths that the checkpoint need not have, such as "lifting/.*".
      carried: regular expressions of tensors without a parameter, such as stored rotary frequencies.
      rename: a tensor's name as the table spells it, where checkpoints differ in prefixes.
      where: names the checkpoint in the message.

    Raises:
      ConversionError: tensors that no rule knows, parameters that stay empty, and shapes that do not
        fit, each with both names and shapes, in one message.
    """
    unknown, kept, found = [], [], {}
    for name in tensors:
        spelt = rename(name)
        if any(re.fullmatch(pattern, spelt) for pattern in carried):
            kept.append(name)
            continue
        hits = [(rule, hit) for rule in rules if (hit := rule.pattern.fullmatch(spelt))]
        for rule, hit in hits:
            layer = int(hit.group(1)) if rule.stacked else 0
            found.setdefault(rule.target, (rule, {}))[1][layer] = name
        if not hits:
            unknown.append(name)
    filled, fresh, empty, shapes = {}, [], [], []
    for path, shape in targets.items():
        if path in found:
            rule, layers = found.pop(path)
            problem = _misfit(rule, layers, tensors, tuple(shape))
            if problem:
                shapes.append(f"{path} {list(shape)}: {problem}")
            else:
                filled[path] = Filled(path, tuple(shape), rule, tuple(layers[number] for number in sorted(layers)))
        else:
            (fresh if any(re.fullmatch(pattern, path) for pattern in new) else empty).append(path)
    unknown += [name for _, layers in found.values() for name in layers.values()]
    _refuse(where, unknown, empty, shapes)
    return Conversion(filled, tuple(fresh), tuple(kept))


def _misfit(rule: Rule, layers: Mapping[int, str], tensors: Mapping[str, TensorInfo], shape: tuple[int, ...]) -> str:
    """Why these tensors cannot be the parameter of that shape; "" if they can."""
    if rule.stacked:
        wanted, shape = shape[0], shape[1:]
        if sorted(layers) != list(range(wanted)):
            lacking = sorted(set(range(wanted)) - set(layers))
            extra = sorted(set(layers) - set(range(wanted)))
            return f"{rule.source} lacks layers {lacking} and has {extra} too many (expected 0 to {wanted - 1})"
    for name in layers.values():
        theirs = tensors[name].shape
        try:
            rows = rule.rows(theirs)
            part = (len(range(*rows.indices(theirs[0]))), *theirs[1:]) if theirs else theirs
            ours = rule.transform.shape(part)
        except ValueError as error:
            return f"{name} {list(theirs)} does not fit: {error}"
        if ours != shape:
            part_of = f" part {rule.part[0] + 1} of {rule.part[1]}" if rule.part[1] > 1 else ""
            return f"{name} {list(theirs)}{part_of} would give {list(ours)}"
    return ""


def _refuse(where: str, unknown: Sequence[str], empty: Sequence[str], shapes: Sequence[str]) -> None:
    problems = []
    for words, items in (
        ("tensors that the model has no place for", unknown),
        ("parameters that no tensor fills", empty),
        ("parameters whose shapes do not fit", shapes),
    ):
        if items:
            more = f"\n  ... and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
            problems.append(f"{len(items)} {words}:\n  " + "\n  ".join(items[:_SHOWN]) + more)
    if problems:
        raise ConversionError(f"{where} does not fit the model.\n" + "\n".join(problems))
