"""What a program computes and moves, counted from its jaxpr: loops times their length, part by part.

XLA's own cost analysis counts a scanned body once; this walk multiplies by the trip count and
follows rematerialised and custom-derivative functions, TPU kernels and `shard_map`. `count` gives matrix products and
convolutions alone; `costs` adds elementwise work, bytes and what of the products is done a second time.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from spatialsv_jax.training.traffic import Weights, array_bytes, scan_operands

PARTS = ("vision", "projector", "language", "logits", "teacher", "lifting", "losses", "optimizer")

_ARITHMETIC = frozenset(
    "abs add add_any atan2 clamp cos div erf exp exp2 integer_pow log log1p logistic max min mul neg pow rsqrt select_n sign "
    "sin sqrt square sub tanh".split()
)
_REDUCTIONS = frozenset("reduce_sum reduce_max reduce_min reduce_prod argmax argmin cumsum".split())
_WRAPPERS = frozenset("rematted_computation checkpoint jvp transpose vmap while body cond closed_call".split())
_MOVES = frozenset("gather scatter scatter-add dynamic_slice dynamic_update_slice sort".split())


@dataclasses.dataclass
class Cost:
    """Work of one part of a program on all devices together.

    Attributes:
      matrix: FLOPs of matrix products and convolutions, a multiplication and an addition counting two.
      recomputed: those of them that rematerialisation does a second time.
      passes: FLOPs of the further passes that float32 products of a stated precision take on a unit that multiplies in bf16:
        2 more for "high", 5 more for "highest".
      vector: elementwise floating-point operations, one for each result; reductions one for each input.
      bytes: read and written by products, convolutions, kernels, reductions and gathers; elementwise work is taken to
        be fused into them.
      whole: bytes of weights and of their gradients, which every device reads and writes by itself; they are not among
        `bytes`. 0 unless `costs` is told which inputs are weights.
    """

    matrix: float = 0.0
    recomputed: float = 0.0
    passes: float = 0.0
    vector: float = 0.0
    bytes: float = 0.0
    whole: float = 0.0

    def add(self, other: Cost, times: float = 1) -> None:
        """Adds `times` another cost."""
        for field in dataclasses.fields(self):
            name = field.name
            setattr(self, name, getattr(self, name) + times * getattr(other, name))


def count(function: Callable, *args) -> Counter:
    """FLOPs of `function(*args)` by part, from shapes alone (nothing runs).

    Args:
      function: a traceable function.
      args: arrays or ShapeDtypeStructs.

    Returns:
      Counter part -> FLOPs. The part is read off the module names in the name stack (forward,
      backward and recomputation alike); what belongs to no module counts as `losses` within the
      differentiated function and as `optimizer` outside of it, which is where Muon's products are.
    """
    return count_traced(jax.make_jaxpr(function)(*args))


def count_traced(jaxpr) -> Counter:
    """`count` of a program that is traced already (a ClosedJaxpr)."""
    return by_part(costs(jaxpr))


def by_part(found: dict[str, Cost]) -> Counter:
    """FLOPs of `costs` by part, recomputed ones included."""
    counter: Counter = Counter()
    for part, cost in found.items():
        if cost.matrix:
            counter[part.split("/")[0]] += round(cost.matrix)
    return counter


def costs(jaxpr, shares: Sequence[float | None] = ()) -> dict[str, Cost]:
    """Costs of a traced program (a ClosedJaxpr) by fine part.

    Args:
      jaxpr: the program.
      shares: for each input the share of it that one device holds when a product takes it (weights: 1, or 1 / tensor), or
        None for what is split with the batch. Without them everything is taken to be split (`Cost.bytes`).

    Returns:
      part -> Cost; parts are those of `PARTS`, with "lifting/NAME" for each head (and "lifting/projectors",
      "lifting/reassembly" where heads share it) and "losses/NAME" for each term.
    """
    found: dict[str, Cost] = {}
    _walk(jaxpr.jaxpr, 1, "", found, Weights.of_inputs(jaxpr.jaxpr, shares) if shares else None)
    for part in [part for part in found if "+" in part]:  # heads that are turns of one loop do the same work
        section, heads = part.split("/")
        cost, heads = found.pop(part), heads.split("+")
        for head in heads:
            found.setdefault(f"{section}/{head}", Cost()).add(cost, 1 / len(heads))
    return found


def _walk(jaxpr, times: float, outer: str, found: dict[str, Cost], weights: Weights | None = None) -> None:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        stack = f"{outer}/{equation.source_info.name_stack}"
        if weights:
            weights.follow(equation)
        if name == "scan":
            body, turns = equation.params["jaxpr"].jaxpr, equation.params["length"]
            consts, carry = scan_operands(equation)
            operands = list(equation.invars)
            operands[consts : consts + carry] = [None] * carry  # what a turn hands on may hold anything
            inside = weights.inside(body, operands) if weights else None
            _walk(body, times * turns, stack, found, inside)
            if weights:  # casts of weights are kept for the backward pass
                weights.take(equation.outvars[carry:], (body.outvars[carry:], inside))
        elif name == "cond":
            branches, bodies = [], []
            for branch in equation.params["branches"]:
                inner: dict[str, Cost] = {}
                inside = weights.inside(branch.jaxpr, equation.invars[1:]) if weights else None
                _walk(branch.jaxpr, times, stack, inner, inside)
                branches.append(inner)
                bodies.append((branch.jaxpr.outvars, inside))
            if weights:
                weights.take(equation.outvars, *bodies)
            dearest = max(branches, key=lambda inner: sum(cost.matrix + cost.vector for cost in inner.values()))
            for part, cost in dearest.items():
                found.setdefault(part, Cost()).add(cost)
        elif name == "pallas_call":
            grid = math.prod(size for size in equation.params["grid_mapping"].grid if isinstance(size, int))
            inner = {}
            _walk(equation.params["jaxpr"], times * grid, stack, inner)
            split, whole = _moved(equation.invars, equation.outvars, equation, weights)
            cost = Cost(bytes=times * split, whole=times * whole)
            for other in inner.values():  # its blocks live on the chip
                cost.add(dataclasses.replace(other, bytes=0.0))
            found.setdefault(part_of(stack), Cost()).add(cost)
        elif name == "shard_map":
            mesh, axes = equation.params["mesh"], equation.params.get("manual_axes", ())
            copies = math.prod(mesh.shape[axis] for axis in (axes or mesh.axis_names))
            _walk(_bare(equation.params["jaxpr"]), times * copies, stack, found)
        elif cost := _cost(equation, name, weights if part_of(stack) != "optimizer" else None):
            if "rematted_computation" in stack:
                cost.recomputed = cost.matrix
            found.setdefault(part_of(stack), Cost()).add(cost, times)
        else:
            for inner in _inner_jaxprs(equation.params):
                known = equation.invars if name != "while" else [None] * len(inner.invars)
                inside = weights.inside(inner, known) if weights else None
                _walk(inner, times, stack, found, inside)
                if weights and name != "while":
                    weights.take(equation.outvars, (inner.outvars, inside))


def _moved(operands: Sequence, results: Sequence, equation, weights: Weights | None) -> tuple[float, float]:
    """Bytes that are split over devices, and those that each moves by itself (`Weights.divide`)."""
    if weights is None:
        return array_bytes((*operands, *results)), 0.0
    return weights.divide(operands, results, equation)


def _cost(equation, name: str, weights: Weights | None = None) -> Cost | None:
    """Cost of one primitive; None for those without any, and calls."""
    if name in ("dot_general", "conv_general_dilated"):
        flops = _dot_flops(equation) if name == "dot_general" else _conv_flops(equation)
        split, whole = _moved(equation.invars, equation.outvars, equation, weights)
        return Cost(matrix=flops, passes=flops * _further_passes(equation), bytes=split, whole=whole)
    if name in _MOVES:
        split, whole = _moved((), equation.outvars[:1], equation, weights)
        return Cost(bytes=2 * split, whole=2 * whole)
    if name in _REDUCTIONS or name in _ARITHMETIC:
        read = equation.invars[:1] if name in _REDUCTIONS else equation.outvars
        if not read or not jnp.issubdtype(read[0].aval.dtype, jnp.floating):
            return None
        return Cost(vector=math.prod(read[0].aval.shape), bytes=array_bytes(read) if name in _REDUCTIONS else 0.0)
    return None


def _further_passes(equation) -> int:
    precision = equation.params.get("precision")
    stated = precision[0] if isinstance(precision, tuple) else precision
    if any(operand.aval.dtype != jnp.float32 for operand in equation.invars[:2]):
        return 0
    return {jax.lax.Precision.HIGH: 2, jax.lax.Precision.HIGHEST: 5}.get(stated, 0)


def _bare(jaxpr):
    return getattr(jaxpr, "jaxpr", jaxpr)


def _inner_jaxprs(params: dict):
    """Bodies of calls (jit, remat, custom derivatives) and of while loops, each once."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr"):
        if params.get(key) is not None:
            yield _bare(params[key])


def part_of(stack: str) -> str:
    """The fine part of a name stack, see `costs`."""
    words = [word for word in re.split(r"[/()]", stack) if word]
    if any(word.endswith(".logits") for word in words):
        return "logits"
    for place, word in enumerate(words):
        if word in ("vision", "projector", "language", "teacher"):
            return word
        if word in ("lifting", "losses"):
            # Methods ("lifting.name"), transformations and rematerialisation stand between a module and its parts.
            inner = (name for name in words[place + 1 :] if "." not in name and name not in _WRAPPERS)
            name = next(inner, "")
            name = "projectors" if name.startswith("projector_") else name.removesuffix("_projector")
            return f"{word}/{name}" if name else word
    return "losses" if any(word in ("jvp", "transpose") for word in words) else "optimizer"


def _dot_flops(equation) -> int:
    (contract, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contract)


def _conv_flops(equation) -> int:
    """2 x outputs x multiplications per output; holes that dilation puts into the input cost nothing.

    A transposed or input-gradient convolution is written with `lhs_dilation`; only one in
    prod(lhs_dilation) of its products is with a real element.
    """
    kernel = equation.invars[1].aval.shape
    numbers = equation.params["dimension_numbers"]
    per_output = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])
    holes = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(equation.outvars[0].aval.shape) * per_output // holes
