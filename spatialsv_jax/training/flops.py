"""FLOPs of a program, counted from its jaxpr: matrix products and convolutions, loops times length.

XLA's own cost analysis counts a scanned body once; this walk multiplies by the trip count and
follows rematerialised and custom-derivative functions. Elementwise work is not counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import jax

PARTS = ("vision", "projector", "language", "teacher", "lifting", "optimizer")


def count(function: Callable, *args) -> Counter:
    """FLOPs of `function(*args)` by part, from shapes alone (nothing runs).

    Args:
      function: a traceable function.
      args: arrays or ShapeDtypeStructs.

    Returns:
      Counter part -> FLOPs. The part is read off the module names in the name stack (forward,
      backward and recomputation alike); what belongs to no module counts as `optimizer` when it
      lies outside the differentiated function, which is where Muon's products are.
    """
    return count_traced(jax.make_jaxpr(function)(*args))


def count_traced(jaxpr) -> Counter:
    """`count` of a program that is traced already (a ClosedJaxpr)."""
    counter: Counter = Counter()
    _walk(jaxpr.jaxpr, 1, "", counter)
    return counter


def _walk(jaxpr, times: int, outer: str, counter: Counter) -> None:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        stack = f"{outer}/{equation.source_info.name_stack}"
        if name == "dot_general":
            counter[_part(stack)] += times * _dot_flops(equation)
        elif name == "conv_general_dilated":
            counter[_part(stack)] += times * _conv_flops(equation)
        elif name == "scan":
            _walk(equation.params["jaxpr"].jaxpr, times * equation.params["length"], stack, counter)
        elif name == "cond":
            branches = []
            for branch in equation.params["branches"]:
                inner: Counter = Counter()
                _walk(branch.jaxpr, times, stack, inner)
                branches.append(inner)
            counter.update(max(branches, key=lambda inner: sum(inner.values())))
        else:
            for inner in _inner_jaxprs(equation.params):
                _walk(inner, times, stack, counter)


def _inner_jaxprs(params: dict):
    """Bodies of calls (jit, remat, custom derivatives) and of while loops, each once."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr"):
        value = params.get(key)
        if value is not None:
            yield getattr(value, "jaxpr", value)


def _part(stack: str) -> str:
    positions = [(stack.rfind(part), part) for part in PARTS[:-1] if part in stack]
    return min(positions)[1] if positions else "optimizer"


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
