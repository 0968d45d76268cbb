"""A quick guess of a step's temporary memory: which arrays of the traced program are alive at once.

Nothing is compiled. Elementwise work is taken to be fused into what reads it, so its results take no memory and keep
what they are made of alive instead. docs/scaling.md states how far this is from the compiler.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp

from spatialsv_jax.training.traffic import scan_operands

_FUSED = frozenset(
    "abs add add_any and atan2 broadcast_in_dim ceil clamp convert_element_type copy cos copy_p div eq erf exp exp2 "
    "expand_dims floor ge gt integer_pow iota is_finite le log log1p logistic lt max min mul name ne neg not or pow "
    "reshape round rsqrt select_n sharding_constraint sign sin sqrt square squeeze stop_gradient sub tanh xor slice".split()
)
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr")


@dataclasses.dataclass(frozen=True)
class Division:
    """What share of an array one device holds.

    Attributes:
      parameters: shape -> share, of arrays shaped as parameters (or one layer of them): gradients, updates, casts.
      rows: share of everything else, which is taken to be split as the batch is.
    """

    parameters: Mapping[tuple[int, ...], float]
    rows: float

    def share(self, shape: tuple[int, ...]) -> float:
        """Of an array of `shape`."""
        return self.parameters.get(tuple(shape), self.rows)


def peak_bytes(jaxpr, division: Division, donated: int = 0) -> float:
    """Largest number of bytes per device that the intermediate values of a program take at once.

    Args:
      jaxpr: a ClosedJaxpr or Jaxpr; its inputs are not counted, its outputs are.
      division: how arrays are split.
      donated: so many first outputs take the place of inputs and need no memory of their own.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    last, virtual = _lifetimes(jaxpr)
    virtual |= {variable for variable in jaxpr.outvars[:donated] if _is_variable(variable)}
    sizes = {}
    ends: dict[int, list] = {}
    for variable, place in last.items():
        ends.setdefault(place, []).append(variable)
    alive, peak = 0.0, 0.0
    for place, equation in enumerate(jaxpr.eqns):
        made = 0.0
        for variable in equation.outvars:
            if variable in last and variable not in virtual:
                sizes[variable] = _size(variable, division)
                made += sizes[variable]
        peak = max(peak, alive + max(made, _within(equation, division, made)))
        alive += made
        alive -= sum(sizes.pop(variable, 0.0) for variable in ends.get(place, ()))
    return peak


def _lifetimes(jaxpr) -> tuple[dict, set]:
    """(variable -> place of its last use, variables that are fused away)."""
    end = len(jaxpr.eqns)
    outputs = {variable for variable in jaxpr.outvars if _is_variable(variable)}
    last = dict.fromkeys(outputs, end)
    virtual = set()
    # From the end: when an equation is reached, the last uses of what it makes are known.
    for place in range(end - 1, -1, -1):
        equation = jaxpr.eqns[place]
        fused = equation.primitive.name in _FUSED and not any(variable in outputs for variable in equation.outvars)
        until = place
        if fused:
            virtual.update(equation.outvars)
            until = max([place, *(last.get(variable, place) for variable in equation.outvars)])
        for variable in equation.invars:
            if _is_variable(variable):
                last[variable] = max(last.get(variable, -1), until)
    for variable in (*jaxpr.invars, *jaxpr.constvars):
        last.pop(variable, None)
    return last, virtual


def _within(equation, division: Division, made: float) -> float:
    """Bytes that an equation needs while it runs, its results included."""
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        consts, carry = scan_operands(equation)
        slices = params["jaxpr"].jaxpr.invars[consts + carry :]
        own = sum(_size(variable, division) for variable in slices)
        return made + own + peak_bytes(params["jaxpr"], division)
    if name == "cond":
        return max(peak_bytes(branch, division) for branch in params["branches"])
    if name == "shard_map":
        return max(made, peak_bytes(params["jaxpr"], Division({}, 1.0)))
    if name == "pallas_call":
        return made
    if name in ("dot_general", "conv_general_dilated"):
        # A split parameter is gathered before it is used.
        shapes = [tuple(variable.aval.shape) for variable in equation.invars]
        whole = [v for v, shape in zip(equation.invars, shapes, strict=True) if shape in division.parameters]
        return made + sum(_bytes(variable.aval) for variable in whole)
    inner = [peak_bytes(params[key], division) for key in _CALLS if params.get(key) is not None]
    return max([made, *inner])


def _is_variable(atom) -> bool:
    return not hasattr(atom, "val")


def _bytes(aval) -> int:
    if not hasattr(aval, "shape") or not hasattr(aval, "dtype"):
        return 0
    try:
        width = jnp.dtype(aval.dtype).itemsize
    except TypeError:  # random keys
        width = 8
    return math.prod(aval.shape) * width


def _size(variable, division: Division) -> float:
    shape = getattr(variable.aval, "shape", ())
    return _bytes(variable.aval) * division.share(shape)
