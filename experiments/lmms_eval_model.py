"""Our models under lmms-eval's own harness (extra `lmms_eval`): it makes prompts and scores, we answer.

python -m lmms_eval --model spatialsv_jax --model_args pretrained=PATH,frames=32 --tasks vsibench --batch_size 8
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lmms_eval.api.model import lmms
from tqdm import tqdm

from data_pipelines.benchmarks.items import Media
from data_pipelines.benchmarks.showing import Showing, Shown, show
from data_pipelines.benchmarks.single_tables import views_named

DEFAULT_TOKENS = 1024  # where a task does not say


class SpatialSV(lmms):
    """A model of `spatialsv_jax.load` for generation tasks; greedy.

    Pictures stand before the text, as our models were trained; `<image>` marks in a prompt become their names.

    Args:
      pretrained: a run, a phase, a step, or a Hugging Face folder.
      batch_size: questions of a batch.
      frames, sampler, max_size: as `experiments.evaluate` has them.
      videos_as: "pictures" or "video".
      dtype, fsdp, tensor: where the parameters go, see `experiments.placing`.
      device, max_batch_size: what the harness hands to every model; without effect.

    Raises:
      ValueError: a model that cannot talk.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        frames: int = 32,
        sampler: str = "uniform",
        max_size: int = 0,
        videos_as: str = "pictures",
        dtype: str | None = None,
        fsdp: int = 0,
        tensor: int = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        from experiments import placing
        from spatialsv_jax import loading

        if videos_as not in ("pictures", "video"):
            raise ValueError(f"videos_as is '{videos_as}', expected pictures or video.")
        self._loaded = loading.load(pretrained, placing.mesh_of(int(fsdp), int(tensor)), dtype)
        if self._loaded.settings.model != "mllm":
            raise ValueError(f"The model at {pretrained} cannot talk.")
        self._showing, self._as_video = Showing(int(frames), sampler, int(max_size)), videos_as == "video"
        self._batch_size = int(batch_size)

    def generate_until(self, requests) -> list[str]:
        """Answers, in the order of the requests.

        Raises:
          ValueError: a task that samples, or shows sound or nothing.
        """
        asked = [self._asked(*request.args) for request in requests]
        order = sorted(range(len(asked)), key=lambda place: asked[place][0])
        answers = [""] * len(asked)
        with tqdm(total=len(asked), desc="Model Responding", disable=self.rank != 0) as bar:
            for most, same in itertools.groupby(order, key=lambda place: asked[place][0]):
                same = list(same)
                for first in range(0, len(same), self._batch_size):
                    batch = same[first : first + self._batch_size]
                    shown = [self._shown(*asked[place][1:3]) for place in batch]
                    rows = [(one.images, [asked[place][3]]) for one, place in zip(shown, batch, strict=True)]
                    rates = [(one.rate or 1.0) if self._as_video and one.rate is not None else None for one in shown]
                    said = self._loaded.answer_rows(rows, most, self._batch_size, 1, rates)
                    for place, (text,) in zip(batch, said, strict=True):
                        context, settings = requests[place].args[:2]
                        answers[place] = _cut(text, settings.get("until"))
                        self.cache_hook.add_partial("generate_until", (context, settings), answers[place])
                    bar.update(len(batch))
        return answers

    def loglikelihood(self, requests):
        """Not done.

        Raises:
          NotImplementedError: always.
        """
        raise NotImplementedError(
            "spatialsv_jax answers generation tasks; likelihoods of given answers are not computed."
        )

    def generate_until_multi_round(self, requests):
        """Not done.

        Raises:
          NotImplementedError: always.
        """
        raise NotImplementedError("spatialsv_jax answers tasks of one round.")

    def _asked(self, context: str, settings: dict, doc_to_visual, doc_id, task: str, split: str):
        """(longest answer, name of the document, a function that opens its pictures, prompt)."""
        if settings.get("do_sample") and settings.get("temperature"):
            raise ValueError(f"{task} asks for sampled answers; spatialsv_jax answers greedily. Set do_sample=False.")
        document = self.task_dict[task][split][doc_id]
        most = int(settings.get("max_new_tokens") or DEFAULT_TOKENS)
        return most, f"{task}, document {doc_id}", lambda: _listed(doc_to_visual(document)), views_named(context)

    def _shown(self, name: str, visuals) -> Shown:
        found = visuals()
        if not found:
            raise ValueError(f"{name}: shows nothing, and our models answer about pictures.")
        if len(found) == 1 and isinstance(found[0], (str, Path)):
            return show((Media("video", str(found[0]), Path(found[0])),), self._showing)
        if not all(hasattr(one, "convert") for one in found):
            kinds = sorted({type(one).__name__ for one in found})
            raise ValueError(f"{name}: expected pictures, or the path of one video, found {', '.join(kinds)}.")
        pictures = [one.convert("RGB") for one in found]
        sizes = tuple((one.height, one.width) for one in pictures)
        for one in pictures if self._showing.max_size else ():
            one.thumbnail((self._showing.max_size,) * 2)
        return Shown(tuple(np.asarray(one) for one in pictures), tuple(range(len(pictures))), sizes)


def _listed(visuals) -> list:
    """What a task shows, as one flat list."""
    if not isinstance(visuals, (list, tuple)):
        return [] if visuals is None else [visuals]
    return [one for part in visuals for one in (part if isinstance(part, (list, tuple)) else [part])]


def _cut(text: str, until: str | Sequence[str] | None) -> str:
    """The answer up to the first of the task's stop texts."""
    for stop in [until] if isinstance(until, str) else until or ():
        text = text.split(stop)[0] if stop else text
    return text
