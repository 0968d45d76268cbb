"""A Hugging Face checkpoint folder of any family: what it is, and its parameters.

Adding a family = its `hf` module and a line in `LAYOUTS`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import traverse_util

from spatialsv_jax.backbones.decoder import LanguageConfig
from spatialsv_jax.backbones.internvl3 import hf as internvl3
from spatialsv_jax.backbones.llava_next_video import hf as llava_next_video
from spatialsv_jax.backbones.llava_onevision1_5 import hf as llava_onevision1_5
from spatialsv_jax.backbones.qwen2_5_vl import hf as qwen2_5_vl
from spatialsv_jax.interop import gguf_files
from spatialsv_jax.interop.arrays import read_parameters
from spatialsv_jax.interop.base_record import RECORD, BaseRecord
from spatialsv_jax.interop.config_fields import read_config
from spatialsv_jax.interop.conversion import Conversion, match
from spatialsv_jax.interop.decoders import decoder_rules, language_config
from spatialsv_jax.interop.tensor_files import ConversionError, TensorFolder


class Layout(NamedTuple):
    """One way in which a family's checkpoints are written.

    Attributes:
      family: key of BACKBONES.
      read: (config.json, its name for messages) -> (vision config, language config).
      rules: (vision, language) -> the table of tensors.
      renamed: regular expressions of other prefixes -> those of the table.
      head: name of the unembedding.
      carried: (vision, language) -> regular expressions of tensors that are no parameters.
      new: regular expressions of our paths that it does not fill (a language model without an encoder).
      modules: what the decoder's names begin with, in files and in the model in memory (which `peft` wraps).
    """

    family: str
    read: Callable
    rules: Callable
    renamed: Mapping[str, str]
    head: str = "lm_head.weight"
    carried: Callable = lambda vision, language: ()
    new: Sequence[str] = ()
    modules: tuple[str, str] = ("model.", "model.language_model.")

    def spelt(self, name: str) -> str:
        """A tensor's name as the table spells it."""
        for prefix, spelt in self.renamed.items():
            name = re.sub(rf"^{prefix}", spelt, name)
        return name


_ENCODER = (r"backbone/(vision|projector)/.*",)
GGUF = Layout(
    "smol", None, lambda vision, language: gguf_files.llama_rules(language, "backbone/language/"), {}, new=_ENCODER
)
# model_type of config.json -> layout.
LAYOUTS: dict[str, Layout] = {
    "qwen2_5_vl": Layout("qwen2_5_vl", qwen2_5_vl.read, qwen2_5_vl.rules, qwen2_5_vl.RENAMED),
    "internvl": Layout(
        "internvl3",
        internvl3.read,
        internvl3.rules,
        internvl3.RENAMED,
        head="language_model.lm_head.weight",
        modules=("language_model.model.", "model.language_model."),
    ),
    "internvl_chat": Layout(
        "internvl3",
        internvl3.read_original,
        internvl3.rules_original,
        {},
        head="language_model.lm_head.weight",
        modules=("language_model.model.", "language_model.model."),
    ),
    "llava_next_video": Layout(
        "llava_next_video",
        llava_next_video.read,
        llava_next_video.rules,
        llava_next_video.RENAMED,
        head="language_model.lm_head.weight",
        carried=llava_next_video.carried,
        modules=("language_model.model.", "model.language_model."),
    ),
    "llavaonevision1_5": Layout(
        "llava_onevision1_5", llava_onevision1_5.read, llava_onevision1_5.rules, llava_onevision1_5.RENAMED
    ),
    "llama": Layout(
        "smol",
        lambda values, where: (None, language_config(values, where)),
        lambda vision, language: decoder_rules(language, target="backbone/language/"),
        {},
        new=_ENCODER,
    ),
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What config.json says of a folder.

    Attributes:
      directory: the folder, or the GGUF file.
      vision, language: the family's configs, sizes as in the file; vision None: a language model alone.
      layout: how its tensors are named.
      mirrored: tensors that repeat another: an unembedding that is stored although it is tied.
    """

    directory: Path
    vision: Any
    language: LanguageConfig
    layout: Layout
    mirrored: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def family(self) -> str:
        """Key of BACKBONES."""
        return self.layout.family

    def tensors(self) -> TensorFolder | gguf_files.GGUFFile:
        """The tensors; see those classes for errors."""
        return gguf_files.GGUFFile(self.directory) if self.layout is GGUF else TensorFolder(self.directory)

    def match(self, tensors: Mapping, shapes: Mapping[str, tuple[int, ...]], new: Sequence[str] = ()) -> Conversion:
        """Compares tensors with a parameter tree (path -> shape); see `conversion.match`.

        Raises:
          ConversionError: everything that does not fit, in one message.
        """
        rules = self.layout.rules(self.vision, self.language)
        conversion = match(
            rules,
            {name: info for name, info in tensors.items() if name not in self.mirrored},
            shapes,
            new=(*new, *self.layout.new),
            carried=self.layout.carried(self.vision, self.language),
            rename=self.layout.spelt,
            where=str(self.directory),
        )
        return dataclasses.replace(conversion, mirrored=self.mirrored)


def is_checkpoint(directory: str | Path) -> bool:
    """Whether a path looks like a Hugging Face checkpoint (config.json with a `model_type`) or a GGUF file; "" is none."""
    if not str(directory):
        return False
    if Path(directory).suffix == ".gguf":
        return Path(directory).is_file()
    path = Path(directory) / "config.json"
    try:
        return path.is_file() and "model_type" in read_config(path)
    except ConversionError:
        return False


def open_checkpoint(directory: str | Path) -> Checkpoint:
    """Reads config.json, or the settings of a GGUF file.

    Raises:
      ConversionError: no such file, a family that is not known here, or fields that are unknown or not built.
    """
    directory = Path(directory)
    if directory.suffix == ".gguf":
        return Checkpoint(directory, None, gguf_files.GGUFFile(directory).language_config(), GGUF)
    path = directory / "config.json"
    values = read_config(path)
    kind = values.get("model_type")
    if kind not in LAYOUTS:
        raise ConversionError(
            f"{path}: model_type is {kind!r}. Models that can be read: {', '.join(LAYOUTS)}. "
            "docs/add_a_backbone.md tells how to add one."
        )
    layout = LAYOUTS[kind]
    vision, language = layout.read(values, str(path))
    record = (directory / RECORD).is_file()  # beside a processor of ours: what is remembered of the folder
    folder = BaseRecord(directory) if record else TensorFolder(directory)
    tied, mirrored = _unembedding(layout, values, language.tie_embeddings, folder)
    return Checkpoint(directory, vision, dataclasses.replace(language, tie_embeddings=tied), layout, mirrored)


def _unembedding(
    layout: Layout, values: Mapping, tied: bool, folder: TensorFolder | BaseRecord
) -> tuple[bool, Mapping[str, str]]:
    """Whether the unembedding is the embedding, and copies of it in the file.

    A stored unembedding is used, whatever config.json says, unless it repeats the embedding that it is tied to; where
    there is none and config.json is silent, the embedding is used.
    """
    spelt = {layout.spelt(name): name for name in folder.tensors}
    head = spelt.get(layout.head)
    embedding = spelt.get(layout.head.replace("lm_head.weight", "model.embed_tokens.weight"))
    if head is None or embedding is None:
        texts = [values, *(values.get(name) or {} for name in ("text_config", "llm_config"))]
        return tied or not any("tie_word_embeddings" in text for text in texts), {}
    if not tied:
        return False, {}
    same = head in folder.mirrored if isinstance(folder, BaseRecord) else folder.equal(head, embedding)
    return same, {head: embedding} if same else {}


def import_parameters(
    checkpoint: Checkpoint, shapes: Mapping, new: Sequence[str] = (), progress: bool = False
) -> tuple[dict, Conversion, TensorFolder]:
    """The parameters that a checkpoint holds, as (sharded) device arrays.

    Args:
      checkpoint: of `open_checkpoint`.
      shapes: nested dicts of ShapeDtypeStructs, the whole model; their shardings and types are taken.
      new: regular expressions of paths that the checkpoint need not have.
      progress: whether to show a bar.

    Returns:
      (nested dicts with the parameters that were found, what came from where, the folder's tensors).

    Raises:
      ConversionError: a folder that cannot be read, or does not fit the model.
    """
    folder = checkpoint.tensors()
    conversion = match_folder(checkpoint, folder, shapes, new)
    found = read_parameters(conversion, folder, traverse_util.flatten_dict(shapes, sep="/"), progress)
    return traverse_util.unflatten_dict(found, sep="/"), conversion, folder


def match_folder(checkpoint: Checkpoint, folder: TensorFolder, shapes: Mapping, new: Sequence[str] = ()) -> Conversion:
    """Compares a folder's tensors with nested dicts of shapes; nothing is read.

    Raises:
      ConversionError: everything that does not fit, in one message.
    """
    targets = traverse_util.flatten_dict(shapes, sep="/")
    return checkpoint.match(folder.tensors, {path: leaf.shape for path, leaf in targets.items()}, new)


def parameter_shapes(model, batch: Mapping, label_hw: tuple[int, int] = (8, 8)) -> dict:
    """Nested dicts of ShapeDtypeStructs of a model (`model.BatchModule`) without allocating anything."""
    return jax.eval_shape(lambda: model.init_params(jax.random.key(0), batch, label_hw=label_hw))
