"""LoRA adapters out of a model: merged into the matrices, or in PEFT's layout."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spatialsv_jax.backbones.layers import LoraConfig
from spatialsv_jax.interop.conversion import Rule
from spatialsv_jax.interop.tensor_files import write_tensors

PROJECTORS = ("visual.merger", "multi_modal_projector", "mlp1")  # modules between encoder and decoder, in files
_ADAPTER = re.compile(r"(.*)_lora/([ab])")


def split(parameters: Mapping) -> tuple[dict, dict]:
    """(path -> array without adapters, path of the layer -> {"a", "b"}) of a flat tree."""
    plain, adapters = {}, {}
    for path, value in parameters.items():
        hit = _ADAPTER.fullmatch(path)
        if hit:
            adapters.setdefault(hit[1], {})[hit[2]] = value
        else:
            plain[path] = value
    return plain, adapters


class MergedKernel:
    """kernel + alpha / rank * A B of a stack of layers, on the host, one layer at a time: `value[layer]`.

    Args:
      kernel, a, b: stacked over layers.
      scale: alpha / rank.
    """

    def __init__(self, kernel, a, b, scale: float):
        self._kernel, self._a, self._b, self._scale = kernel, a, b, scale
        self.shape, self.dtype = tuple(kernel.shape), kernel.dtype

    def __getitem__(self, layer: int) -> np.ndarray:
        kernel, a, b = (np.asarray(value[layer], np.float32) for value in (self._kernel, self._a, self._b))
        return (kernel + self._scale * (a @ b)).astype(self.dtype)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.stack([self[layer] for layer in range(self.shape[0])]).astype(dtype or self.dtype)


def merge(parameters: Mapping, config: LoraConfig) -> dict:
    """The flat tree with a `MergedKernel` in place of each kernel with adapters; unchanged where there are none."""
    plain, adapters = split(parameters)
    for layer, pair in adapters.items():
        kernel = plain[f"{layer}/kernel"]
        plain[f"{layer}/kernel"] = MergedKernel(kernel, pair["a"], pair["b"], config.alpha / config.rank)
    return plain


def write_peft(
    parameters: Mapping,
    config: LoraConfig,
    rules: Sequence[Rule],
    modules: tuple[str, str],
    base: str,
    out: str | Path,
    projector: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes adapter_config.json and adapter_model.safetensors as the `peft` library reads them.

    Args:
      parameters: flat tree with adapters, stacked over layers.
      config: their rank and alpha.
      rules: the base model's table: our kernel's path -> their name.
      modules: (what the decoder's names begin with in files, and in the model that `peft` wraps).
      base: name or path of the base model, for the config.
      out: an existing folder.
      projector: the trained projector under its names in files. Its modules are saved whole (`modules_to_save`); a
        parameter outside of them goes to projector.safetensors, which `peft` does not read.

    Raises:
      ValueError: no adapters among the parameters.
    """
    _, adapters = split(parameters)
    if not adapters:
        raise ValueError("The model has no adapters: it was trained with config.language.lora_rank = 0.")
    names = {rule.target: rule.source for rule in rules}
    tensors, layers = {}, set()
    for layer, pair in adapters.items():
        source = names[f"{layer}/kernel"].removesuffix(".weight").removeprefix(modules[0])
        layers.add(source.rsplit(".", 1)[-1])
        for number in range(len(pair["a"])):
            key = f"base_model.model.{modules[1]}{source.replace('{layer}', str(number))}"
            tensors[f"{key}.lora_A.weight"] = np.ascontiguousarray(np.asarray(pair["a"][number], np.float32).T)
            tensors[f"{key}.lora_B.weight"] = np.ascontiguousarray(np.asarray(pair["b"][number], np.float32).T)
    whole, apart, outside = set(), {}, modules[1].removesuffix("language_model.")
    for name, value in (projector or {}).items():
        module = next((module for module in PROJECTORS if name.startswith(f"{module}.")), None)
        if module is None:
            apart[name] = value
        else:
            whole.add(module.rsplit(".", 1)[-1])
            tensors[f"base_model.model.{outside if outside == 'model.' else ''}{name}"] = np.ascontiguousarray(value)
    targets = rf"{re.escape(modules[1])}layers\.\d+\.(self_attn|mlp)\.({'|'.join(sorted(layers))})"
    settings = {
        "peft_type": "LORA", "base_model_name_or_path": base, "r": config.rank, "lora_alpha": config.alpha,
        "target_modules": targets, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "task_type": None, "modules_to_save": sorted(whole) or None,
    }  # fmt: skip
    out = Path(out)
    write_tensors(
        out, {"adapter_model.safetensors": iter(tensors.items())}, {"adapter_model.safetensors": {"format": "pt"}}
    )
    if apart:
        write_tensors(out, {"projector.safetensors": iter(apart.items())}, {})
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
