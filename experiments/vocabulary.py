"""Which words a tiny model knows, and which processor a phase uses."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from data_pipelines.rooms.questions import vocabulary
from spatialsv_jax import loading
from spatialsv_jax.assembly import Settings
from spatialsv_jax.processing.tiny import TinyProcessor, build_tokenizer


def processor_for(config: ConfigDict, settings: Settings, manifests: dict[str, dict]) -> TinyProcessor:
    """The processor of the run that a phase starts from; else one over the generator's language.

    Args:
      config: the phase.
      settings: its checked settings (the picture size is the vision encoder's or the teacher's).
      manifests: the manifests of its sources; their `vocabulary` adds words (assets' categories).

    Raises:
      ValueError: the data has words that the tokenizer to start from lacks, or its pictures have another size.
    """
    words = sorted({word for manifest in manifests.values() for word in manifest.get("vocabulary", ())})
    if config.init_from:
        processor = loading.load_processor(Path(config.init_from))
        kept, new = (processor.image_size, processor.patch_size, processor.merge), _sizes(settings)
        if kept != new:
            raise ValueError(
                f"The model of {config.init_from} reads pictures with (image_size, patch_size, merge) = {kept}, "
                f"this config says {new}. Set config.vision to its sizes."
            )
        unknown = [word for word in words if not processor.knows(word)]
        if unknown:
            raise ValueError(
                f"The tokenizer of {config.init_from} does not know {unknown[:10]} ({len(unknown)} words of the data). "
                "Train the base on data with these words, or prepare data without them."
            )
        return processor
    tokenizer = build_tokenizer(sorted(set(vocabulary()) | set(words)))
    image_size, patch_size, merge = _sizes(settings)
    return TinyProcessor(tokenizer, image_size=image_size, patch_size=patch_size, merge=merge)


def _sizes(settings: Settings) -> tuple[int, int, int]:
    vision = settings.teacher if settings.model == "teacher" else settings.vision
    return vision.image_size, vision.patch_size, vision.merge
