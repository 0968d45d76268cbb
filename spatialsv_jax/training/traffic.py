"""Which values of a traced program every device reads and writes whole: weights, and gradients of weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp

_PRODUCTS = ("dot_general", "conv_general_dilated")


def scan_operands(equation) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many are handed on from turn to turn; the others are cut.

    Read off the shapes (what is cut has one axis more outside of the body), because JAX's names for it change.
    """
    body = equation.params["jaxpr"].jaxpr
    longer = lambda outer, inner: len(outer.aval.shape) > len(inner.aval.shape)
    cut = sum(longer(*pair) for pair in zip(equation.invars, body.invars, strict=True))
    stacked = sum(longer(*pair) for pair in zip(equation.outvars, body.outvars, strict=True))
    carried = len(equation.outvars) - stacked
    return len(equation.invars) - cut - carried, carried


@dataclasses.dataclass
class Weights:
    """Values that depend on no batch: weights, what is made of them alone, and constants.

    Attributes:
      shares: variable -> share of it that one device holds when it computes; all others are split with the batch.
      shapes: sorted shape of a weight, or of one layer of it -> its share. A gradient is known by its shape.
    """

    shares: dict
    shapes: dict[tuple[int, ...], float]

    @classmethod
    def of_inputs(cls, jaxpr, shares: Sequence[float | None]) -> Weights:
        """Of a program's inputs.

        Args:
          jaxpr: the program.
          shares: of each input; None for one that is split with the batch.
        """
        known = {variable: share for variable, share in zip(jaxpr.invars, shares, strict=True) if share is not None}
        whole = {variable.aval.shape: share for variable, share in known.items()}
        layers = {shape[1:]: share for shape, share in whole.items()}
        return cls(known, {tuple(sorted(shape)): share for shape, share in (layers | whole).items()})

    def of(self, atom) -> float | None:
        """Share of a value; None = split with the batch."""
        return 1.0 if hasattr(atom, "val") else self.shares.get(atom)

    def inside(self, jaxpr, operands: Sequence) -> Weights:
        """In the body of a call or of a loop; operand None = nothing is known of it."""
        pairs = zip(jaxpr.invars, operands, strict=True)
        known = {inner: share for inner, outer in pairs if outer is not None and (share := self.of(outer))}
        return Weights(known | dict.fromkeys(jaxpr.constvars, 1.0), self.shapes)

    def follow(self, equation) -> None:
        """Results of weights and constants alone are split as the largest of these is."""
        operands = equation.invars
        if equation.primitive.name == "optimization_barrier":
            self.take(equation.outvars, (operands, self))
        elif all(self.of(atom) for atom in operands):
            largest = max(operands, key=lambda atom: math.prod(getattr(atom.aval, "shape", ())), default=None)
            self.shares.update(dict.fromkeys(equation.outvars, self.of(largest) if operands else 1.0))

    def take(self, results: Sequence, *bodies: tuple[Sequence, Weights]) -> None:
        """Results of a call are what its body's are, those of a conditional what all its branches' are."""
        for result, *atoms in zip(results, *(inner for inner, _ in bodies), strict=True):
            shares = [weights.of(atom) for atom, (_, weights) in zip(atoms, bodies, strict=True)]
            if all(shares):
                self.shares[result] = max(shares)

    def divide(self, operands: Sequence, results: Sequence, equation) -> tuple[float, float]:
        """(bytes of values that are split with the batch, bytes of others on each device) that an equation moves.

        A product of two values that depend on the batch, none of whose axes runs along in both, sums over the rows: a
        weight's gradient, which every device makes in full of its own rows. So does a scatter that has a table's shape.
        """
        name, inputs = equation.primitive.name, equation.invars
        if name in _PRODUCTS:
            rows_run_along = name == "dot_general" and equation.params["dimension_numbers"][1][0]
            gradient = not rows_run_along and not any(self.of(atom) for atom in inputs)
        else:
            gradient = name == "scatter-add" and tuple(sorted(results[0].aval.shape)) in self.shapes
        split, whole = 0.0, 0.0
        for atom, is_result in [(atom, False) for atom in operands] + [(atom, True) for atom in results]:
            share = self.of(atom)
            if gradient and is_result:
                share = self.shapes.get(tuple(sorted(atom.aval.shape)), 1.0)
            if share:
                whole += array_bytes([atom]) * share
            else:
                split += array_bytes([atom])
        return split, whole


def array_bytes(variables: Sequence) -> int:
    """Bytes of arrays, each once."""
    avals = [variable.aval for variable in variables if getattr(variable.aval, "shape", None) is not None]
    return sum(math.prod(aval.shape) * jnp.dtype(aval.dtype).itemsize for aval in avals if hasattr(aval, "dtype"))
