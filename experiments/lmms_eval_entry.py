"""What lmms-eval finds of us: the entry point `spatialsv_jax` of its group `lmms_eval.models` (setup.py)."""

from __future__ import annotations


def manifest():
    """The model `spatialsv_jax` for `lmms_eval --model spatialsv_jax --model_args pretrained=PATH`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("spatialsv_jax", simple_class_path="experiments.lmms_eval_model.SpatialSV")
