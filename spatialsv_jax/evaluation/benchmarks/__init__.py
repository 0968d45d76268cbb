"""Scorers of published benchmarks: lines of predictions in, scores out; plain Python and NumPy, no model, no jax.

`table.BENCHMARKS` names every benchmark and dialect, `scoring.score` applies one; docs/benchmarks.md has the rules.
"""
