"""The other side of `benchmarks.train_step`: transformers' Qwen2.5-VL, trained with PyTorch as its users do.

The parts of the vision encoder before the merger take no gradient, so autograd keeps nothing of them; linear layers in
bfloat16 by autocast over float32 weights. As in published trainers, a question has a row of its own with all pictures.
Attention is transformers' default (sdpa), which goes through the encoder's windows one by one; `encoder_s` says what that
costs, because with the flash-attn package it costs less.
"""

from __future__ import annotations

import itertools
import os
import time

import jax
import numpy as np
import torch
import transformers
from flax import traverse_util

from benchmarks import train_step_ours as ours
from benchmarks.train_step_data import ANSWER, FRAMES, MERGE, PATCH, QUESTION, WINDOW, Task
from spatialsv_jax.backbones.qwen2_5_vl import hf
from spatialsv_jax.interop.conversion import Rule

IGNORED = -100


def config_of(task: Task) -> transformers.Qwen2_5_VLConfig:
    """The same sizes in transformers' words."""
    vision, language = ours.settings(task)
    special = task.special
    return transformers.Qwen2_5_VLConfig(
        vision_config=dict(
            depth=vision.layers, hidden_size=vision.width, intermediate_size=vision.mlp_width, num_heads=vision.heads,
            out_hidden_size=language.width, fullatt_block_indexes=list(vision.full_attention_layers),
            window_size=WINDOW, patch_size=PATCH, spatial_merge_size=MERGE, temporal_patch_size=FRAMES,
        ),
        text_config=dict(
            hidden_size=language.width, intermediate_size=language.mlp_width, num_hidden_layers=language.layers,
            num_attention_heads=language.heads, num_key_value_heads=language.kv_heads, head_dim=language.head_dim,
            rms_norm_eps=language.norm_eps, vocab_size=language.vocab_size, bos_token_id=None, eos_token_id=None,
            pad_token_id=None, tie_word_embeddings=language.tie_embeddings, max_position_embeddings=32768,
            rope_parameters={
                "rope_type": "default", "rope_theta": language.rope_theta,
                "mrope_section": list(language.rope_sections),
            },
        ),
        image_token_id=special["image"], video_token_id=special["video"], vision_start_token_id=special["start"],
        vision_end_token_id=special["stop"], tie_word_embeddings=language.tie_embeddings,
    )  # fmt: skip


def their_tensor(name: str, rules: tuple[Rule, ...], parameters: dict[str, np.ndarray]) -> np.ndarray:
    """A tensor of transformers' model, by the conversion table.

    Raises:
      KeyError: no rule knows the name.
    """
    for prefix, plain in (("model.visual.", "visual."), ("model.language_model.", "model.")):
        if name.startswith(prefix):
            name = plain + name.removeprefix(prefix)
    hits = [(rule, hit) for rule in rules if (hit := rule.pattern.fullmatch(name))]
    if not hits:
        raise KeyError(f"No rule for {name}.")
    parts = []
    for rule, hit in sorted(hits, key=lambda pair: pair[0].part):
        value = parameters[rule.target]
        parts.append(rule.transform.to_theirs(value[int(hit.group(1))] if rule.stacked else value))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def patches_of(pictures: np.ndarray) -> np.ndarray:
    """float32[patches, 3 * frames * p * p] of pictures [n,side,side,3], merge block by merge block, as its processor cuts."""
    number, side = pictures.shape[:2]
    blocks = side // (PATCH * MERGE)
    cut = pictures.reshape(number, blocks, MERGE, PATCH, blocks, MERGE, PATCH, 3)
    cut = cut.transpose(0, 1, 4, 2, 5, 7, 3, 6)[:, :, :, :, :, :, None]  # n, block, block, m, m, 3, frame, p, p
    return np.repeat(cut, FRAMES, axis=6).reshape(-1, 3 * FRAMES * PATCH * PATCH)


class Peer:
    """A model, its optimizer and the batch on the device; `beside` is another row whose model and optimizer it goes on with."""

    def __init__(self, task: Task, answers_only: bool, compiled: bool, beside: Peer | None = None):
        self._task, self._answers_only = task, answers_only
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = getattr(torch, task.dtype)
        if self._device == "cpu":
            torch.set_num_threads(os.cpu_count() or 1)
        if beside is None:
            self._model = self._make()
            self._rates = (float(ours.rate(step)) for step in itertools.count())
            self._trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
            fused = {"fused": True} if self._device == "cuda" else {}
            self._optimizer = torch.optim.AdamW(
                self._trained, betas=(ours.RATES.b1, ours.RATES.b2), weight_decay=0.0, **fused
            )
        else:
            self._model, self._trained, self._optimizer = beside._model, beside._trained, beside._optimizer
            self._rates = beside._rates
        self._inputs, self._answers, self._keep = self._batch()
        self._forward = self._loss
        # A large model layer by layer, as PyTorch advises ("regional compilation"): the layers are compiled once.
        self._layers = list(self._model.model.language_model.layers) if task.is_large else []
        self._quick = [torch.compile(type(layer).forward.__get__(layer)) for layer in self._layers] if compiled else []
        if compiled and not self._layers:
            self._forward = torch.compile(self._loss)

    def _make(self) -> transformers.PreTrainedModel:
        with torch.device(self._device):  # random numbers that are overwritten are made quickly there
            model = transformers.Qwen2_5_VLForConditionalGeneration(config_of(self._task))
        self._load(model)
        for parameter in model.model.visual.parameters():
            parameter.requires_grad_(False)
        for parameter in model.model.visual.merger.parameters():
            parameter.requires_grad_(True)
        model.train()
        if self._task.remat != "none":
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    def _load(self, model) -> None:
        """Our random weights into their model."""
        _, language = ours.settings(self._task)
        rules = hf.rules(ours.settings(self._task)[0], language)
        on_device = traverse_util.flatten_dict(ours.parameters(self._task), sep="/")
        values = {path: np.asarray(value) for path, value in on_device.items()}
        del on_device
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                tensor = np.array(their_tensor(name, rules, values))
                parameter.copy_(torch.from_numpy(tensor).to(parameter.dtype))

    def _batch(self):
        task = self._task
        prefix, *_ = task.prefix_tokens()
        questions = task.question_tokens().reshape(-1, QUESTION)
        tokens = np.concatenate([np.broadcast_to(prefix, (len(questions), len(prefix))), questions], axis=1)
        labels = np.full_like(tokens, IGNORED)
        labels[:, -ANSWER:] = tokens[:, -ANSWER:]
        pictures = task.pictures().repeat(task.questions, axis=0).reshape(-1, task.side, task.side, 3)
        patches = task.side // PATCH
        to = lambda array, kind: torch.from_numpy(np.ascontiguousarray(array)).to(self._device, kind)
        inputs = dict(
            input_ids=to(tokens, torch.long),
            attention_mask=torch.ones(tokens.shape, dtype=torch.long, device=self._device),
            pixel_values=to(patches_of(pictures), torch.float32),
            image_grid_thw=to(np.tile([[1, patches, patches]], (len(pictures), 1)), torch.long),
            mm_token_type_ids=to(tokens == task.special["image"], torch.int),
        )
        # The logits that predict the answers: one position before each.
        keep = torch.arange(tokens.shape[1] - ANSWER - 1, tokens.shape[1] - 1, device=self._device)
        return inputs, to(labels, torch.long), keep

    def _loss(self) -> torch.Tensor:
        with torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32):
            if not self._answers_only:
                return self._model(**self._inputs, labels=self._answers, use_cache=False).loss
            logits = self._model(**self._inputs, logits_to_keep=self._keep, use_cache=False).logits
            wanted = self._answers[:, -ANSWER:].reshape(-1)
            return torch.nn.functional.cross_entropy(logits.float().reshape(len(wanted), -1), wanted)

    def loss(self) -> float:
        """Of the batch, before any step."""
        with torch.no_grad():
            return float(self._loss())

    def step(self) -> None:
        """One optimizer step."""
        for layer, quick in zip(self._layers, self._quick or [None] * len(self._layers), strict=True):
            layer.__dict__.pop("forward", None)  # what another row put there
            if quick is not None:
                layer.forward = quick
        rate = next(self._rates)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        self._forward().backward()
        torch.nn.utils.clip_grad_norm_(self._trained, ours.RATES.clip)
        self._optimizer.step()

    def wait(self) -> None:
        """Until the device has done all steps."""
        if self._device == "cuda":
            torch.cuda.synchronize()

    def facts(self) -> dict:
        """Tokens that the language model reads in a step, and seconds of the frozen encoder; FLOPs are counted on our side."""
        jax.clear_caches()
        pictures = self._inputs["pixel_values"], self._inputs["image_grid_thw"]
        with torch.no_grad(), torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32):
            for _ in range(2):  # the first warms up
                self.wait()
                began = time.perf_counter()
                self._model.model.visual(*pictures)
                self.wait()
        return {"tokens": int(self._inputs["input_ids"].numel()), "encoder_s": time.perf_counter() - began}

    def memory(self) -> dict:
        """Bytes that torch took of the device at most, and how often its allocator had to give memory back to go on."""
        if self._device != "cuda":
            return {}
        stats = torch.cuda.memory_stats()
        return {"peak_bytes": stats["reserved_bytes.all.peak"], "retries": stats["num_alloc_retries"]}
