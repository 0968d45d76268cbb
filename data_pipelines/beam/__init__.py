"""Preparation and labelling as Apache Beam pipelines (the `beam` extra)."""
