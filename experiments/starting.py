"""What a phase starts from: sizes, words and parameters of an earlier run or a Hugging Face checkpoint, or nothing."""

from __future__ import annotations

import atexit
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flax import traverse_util
from ml_collections import ConfigDict

from data_pipelines.manifest import write_atomically
from data_pipelines.paths import as_path
from data_pipelines.rooms.questions import vocabulary
from experiments import hosts
from spatialsv_jax import hf_models, loading
from spatialsv_jax.assembly import Settings
from spatialsv_jax.interop import hub
from spatialsv_jax.interop.base_record import write_record
from spatialsv_jax.processing import PROCESSORS, Processor, TinyProcessor, build_tokenizer, load_processor
from spatialsv_jax.processing.smol import SmolProcessor
from spatialsv_jax.processing.tiny import SETTINGS_FILE
from spatialsv_jax.training import state
from spatialsv_jax.training.checkpoints import Checkpoints

MAY_BE_NEW = ("lifting",)  # parts that the checkpoint to start from need not have, or may have of another size


def resolve_sizes(
    phase: ConfigDict, where: str = "config", earlier: Mapping[str, ConfigDict] | None = None
) -> ConfigDict:
    """The phase with the family and sizes of the model in `init_from`, where it leaves them to it.

    A Hugging Face checkpoint always says its sizes; a run of ours, or a phase of `earlier` (name -> resolved phase), is
    asked for them where `family` is "auto".

    Raises:
      ValueError: another family or other sizes than the config states, or "auto" with nothing to start from.
    """
    if phase.stage != "train" or phase.model != "mllm":
        return phase
    phase = phase.copy_and_resolve_references()
    if hub.is_checkpoint(phase.init_from):
        checkpoint = hub.open_checkpoint(phase.init_from)
        sizes = hf_models.sizes_of_checkpoint(phase, checkpoint, where)
        phase.family, phase.vision, phase.language = (
            checkpoint.family,
            ConfigDict(sizes["vision"]),
            ConfigDict(sizes["language"]),
        )
    elif phase.family == "auto":
        if not phase.init_from:
            raise ValueError(
                f"{where}.family is 'auto', but {where}.init_from is empty: give the folder of a Hugging Face checkpoint or "
                f"of a run, as --{where}.init_from=FOLDER."
            )
        if phase.init_from in (earlier or {}):
            start = earlier[phase.init_from].to_dict()
        else:
            start = json.loads((loading.locate(phase.init_from).workdir / "config.json").read_text())
        phase.family = start["family"]
        for section, chosen in hf_models.CHOSEN.items():
            kept = {key: value for key, value in phase[section].items() if key in chosen}
            phase[section] = ConfigDict({**start[section], **kept})
    return phase


def check_labels(phase: ConfigDict, where: str, phases: Sequence[str]) -> None:
    """Looks for the folders of label files that the sources name, before any work.

    Raises:
      ValueError: neither a folder nor one of `phases`.
    """
    for name, source in phase.data.sources.items():
        for key, words in (("labels", ("online", "measured")), ("features", ("auto", "online", "none"))):
            value = source[key]
            if value not in (*words, *phases) and not as_path(value).is_dir():
                raise ValueError(
                    f"{where}.data.sources.{name}.{key} is '{value}', which is no folder. Make label files with python -m "
                    f"experiments.label and give their folder, or set it to '{words[-1]}'."
                )


def processor_for(config: ConfigDict, settings: Settings, manifests: dict[str, dict]) -> Processor:
    """The processor of the model that a phase starts from; else a new one.

    Args:
      config: the phase.
      settings: its checked settings (the picture size is the vision encoder's or the teacher's).
      manifests: the manifests of its sources; their `vocabulary` adds words (assets' categories) to a tiny model.

    Raises:
      ValueError: the data has words that the tokenizer to start from lacks, its pictures have another size, or the
        tokenizer is of another family.
    """
    image_size = getattr(settings.vision, "image_size", None)  # families that cut tiles have one size
    if hub.is_checkpoint(config.init_from):
        checkpoint = hub.open_checkpoint(config.init_from)
        if checkpoint.vision is not None:
            return hf_models.processor_of(checkpoint, image_size)
        tokenizer, words = hf_models.tokenizer_of(checkpoint), checkpoint.language.vocab_size
        return _made(lambda place: SmolProcessor.from_tokenizer(place, tokenizer, words, settings.vision))
    if settings.model == "mllm" and settings.family != "tiny":
        family = PROCESSORS[settings.family]
        if config.init_from:
            return loading.load_processor(Path(config.init_from)).resized(image_size)
        if settings.language.vocab_size:
            raise ValueError(
                "config.init_from is empty: give the folder of the published checkpoint as --config.init_from=FOLDER. (A model "
                "that starts from nothing has config.language.vocab_size = 0 and a tokenizer of bytes.)"
            )
        return _made(lambda place: family.from_scratch(place, settings.vision))
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


def _made(make: Callable[[Path], Processor]) -> Processor:
    """A new processor; the workdir's files stay as they are until it is known that the run may go on with it."""
    folder = tempfile.TemporaryDirectory(prefix="spatialsv-processor-")
    atexit.register(folder.cleanup)  # its files are copied until then
    place = Path(folder.name)
    make(place).save(place)
    return load_processor(place)


def write_processor(processor: Processor, place: Path) -> None:
    """Writes a processor's files, each whole or not at all, so that a kill leaves nothing that cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save(folder)
        place.mkdir(parents=True, exist_ok=True)
        for left in place.glob("*.tmp"):  # of a writer that was killed
            left.unlink()
        for file in sorted(Path(folder).iterdir(), key=lambda file: (file.name == SETTINGS_FILE, file.name)):
            write_atomically(place / file.name, file.read_bytes())


class Start:
    """The parameters in `init_from`, "" = none.

    Args:
      init_from: a Hugging Face folder, or a model of ours (`loading.locate`).
      fresh_lifting: leave its heads out.
    """

    def __init__(self, init_from: str, fresh_lifting: bool = False):
        self._path, self._fresh = init_from, fresh_lifting
        self._checkpoint = hub.open_checkpoint(init_from) if hub.is_checkpoint(init_from) else None
        self._own, self._step, self._shapes = None, None, {}
        if init_from and self._checkpoint is None:
            location = loading.locate(init_from)
            self._own = Checkpoints(location.workdir / "checkpoints", create=False)
            self._step, self._shapes = self._own.saved_shapes(self._own.verify_together(location.step))

    def check(self, shapes: Mapping) -> None:
        """Compares them with the model's (nested dicts of shapes), before a minute of compiling.

        Raises:
          ValueError: everything that does not fit, in one message.
        """
        if self._checkpoint is not None:
            hub.match_folder(self._checkpoint, self._checkpoint.tensors(), shapes, hf_models.NEW)
        elif self._own is not None:
            state.check_loaded(shapes, self._shapes, MAY_BE_NEW)

    def parameters(self, shapes: Mapping) -> dict:
        """Device arrays in the places and types of `shapes`; {} when the phase starts from nothing."""
        if self._checkpoint is not None:
            found, conversion, _ = hf_models.read_parameters(self._checkpoint, shapes, progress=hosts.is_first())
            hosts.say(
                f"Starting from {self._path}: {len(conversion.filled)} arrays read, {len(conversion.new)} new ones drawn."
            )
            return found
        if self._own is None:
            return {}
        hosts.say(f"Starting from the parameters of {self._path}.")
        target = traverse_util.flatten_dict(shapes, sep="/")

        def place(saved: dict) -> dict:  # what fits goes straight to its devices
            flat = traverse_util.flatten_dict(saved, sep="/")
            fits = lambda name: name in target and target[name].shape == flat[name].shape
            return traverse_util.unflatten_dict({n: target[n] if fits(n) else flat[n] for n in flat}, sep="/")

        found, _, _ = self._own.restore_params(self._step, place, verified=True)
        if self._fresh:
            found = {name: tree for name, tree in found.items() if name not in MAY_BE_NEW}
        return state.place(found, shapes, MAY_BE_NEW)

    def remember(self, processor: Path, shapes: Mapping) -> None:
        """Writes what an export will need beside the saved processor (a run of ours has it there already)."""
        if self._checkpoint is not None and self._checkpoint.vision is not None:
            folder = self._checkpoint.tensors()
            conversion = hub.match_folder(self._checkpoint, folder, shapes, hf_models.NEW)
            write_record(folder, conversion.carried, conversion.mirrored, processor)


def _sizes(settings: Settings) -> tuple[int, int, int]:
    vision = settings.teacher if settings.model == "teacher" else settings.vision
    return vision.image_size, vision.patch_size, vision.merge
