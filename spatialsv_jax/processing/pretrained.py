"""Text of models from Hugging Face: their own tokenizer, one question after the pictures, no unknown tokens.

A processor's folder holds everything of the checkpoint's folder but the weights (tokenizer, config.json,
preprocessor settings, licence), so that an export can give it back, and processor.json of ours.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from spatialsv_jax.processing.base import EncodedQuestion, ModelInputs, compose

SETTINGS_FILE = "processor.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".h5", ".msgpack", ".onnx")
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_VIEW = re.compile(r"<view:(\d+)>")


def side_files(directory: str | Path) -> tuple[Path, ...]:
    """The files of a checkpoint folder that are no weights, and not our own settings; folders are left out."""
    return tuple(
        path
        for path in sorted(Path(directory).iterdir())
        if path.is_file()
        and path.suffix not in (*_WEIGHTS, ".tmp")  # the latter of a writer that was killed
        and not path.name.endswith((".safetensors.index.json", ".bin.index.json"))
        and path.name != SETTINGS_FILE
        and not path.name.startswith(".")
    )


def read_json(path: Path) -> dict:
    """A JSON object.

    Raises:
      ValueError: no such file, or something else in it; names the file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object.")
    return found


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder: tokenizer.json, or Qwen2's vocab.json and merges.txt.

    Raises:
      ValueError: it is missing or broken.
    """
    path = directory / "tokenizer.json"
    if not path.is_file() and all((directory / name).is_file() for name in ("vocab.json", "merges.txt")):
        return _byte_pairs(directory)
    if not path.is_file():
        raise ValueError(
            f"{path} is missing. Write it with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exceptions
        raise ValueError(f"{path} is no tokenizer ({error}).") from error


def _byte_pairs(directory: Path) -> Tokenizer:
    """A Qwen2 tokenizer from vocab.json, merges.txt and added tokens, as the older folders have it."""
    tokenizer = Tokenizer(models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt")))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_QWEN2_SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    described = {}
    if (directory / "tokenizer_config.json").is_file():
        described = read_json(directory / "tokenizer_config.json").get("added_tokens_decoder", {})
    added = {int(number): token for number, token in described.items()}
    if (directory / "added_tokens.json").is_file():
        for content, number in read_json(directory / "added_tokens.json").items():
            added.setdefault(number, {"content": content, "special": True})
    for number in sorted(added):  # ids follow from the order
        token = added[number]
        flags = {name: token.get(name, False) for name in ("single_word", "lstrip", "rstrip", "normalized")}
        tokenizer.add_tokens([AddedToken(token["content"], special=token.get("special", False), **flags)])
        if tokenizer.token_to_id(token["content"]) != number:
            raise ValueError(
                f"{directory}: '{token['content']}' should have id {number}, but is {tokenizer.token_to_id(token['content'])}: "
                "vocab.json and the added tokens do not belong together."
            )
    return tokenizer


def write_byte_tokenizer(directory: str | Path, special: Sequence[str]) -> int:
    """Writes a tokenizer.json that spells every text in bytes, for models that start from nothing.

    Args:
      directory: made when missing.
      special: special tokens; they follow the 256 bytes.

    Returns:
      The number of tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    Path(directory).mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(Path(directory) / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def picture_settings(directory: Path, kind: str = "image") -> dict:
    """Settings of the checkpoint's processor of pictures ("image") or frames ("video").

    They stand in a file of their own, or as a part of processor_config.json; {} for frames where there are none.

    Raises:
      ValueError: there are none for pictures.
    """
    own = {"image": "preprocessor_config.json", "video": "video_preprocessor_config.json"}[kind]
    for name, part in ((own, None), ("processor_config.json", f"{kind}_processor")):
        if (directory / name).is_file():
            values = read_json(directory / name)
            found = values if part is None else values.get(part)
            if found:
                return found
    if kind == "video":
        return {}
    raise ValueError(f"{directory} has no {own}, which says how pictures are prepared.")


def colours(settings: Mapping, mean: Sequence[float], std: Sequence[float]) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` of a picture processor's settings, the given ones where it has none."""
    found = (settings.get("image_mean") or mean, settings.get("image_std") or std)
    return {"mean": tuple(found[0]), "std": tuple(found[1])}


def normalise(
    image: np.ndarray, mean: Sequence[float], std: Sequence[float], out: np.ndarray | None = None
) -> np.ndarray:
    """uint8[...,w,3] to float32, the mean subtracted and divided by the standard deviation (RGB in 0..1).

    Args:
      image: the picture.
      mean, std: three each.
      out: float32 of the picture's shape that takes the result, or None.
    """
    values = np.empty(image.shape, np.float32) if out is None else out
    # Mean and deviation as whole rows: loops over three channels would be short ones.
    mean, std = (np.tile(np.asarray(part, np.float32), image.shape[-2]).reshape(-1, 3) for part in (mean, std))
    np.divide(image, np.float32(255), out=values)  # the nearest float32 of k / 255, as k * (1 / 255) in float64 is
    values -= mean
    values /= std
    return values


def normalise_all(
    tiles: Sequence[np.ndarray], mean: Sequence[float], std: Sequence[float], out: np.ndarray | None = None
) -> np.ndarray:
    """float32[n,h,w,3] of n tiles uint8[h,w,3], in `out` if it is given; see `normalise`."""
    values = np.empty((len(tiles), *tiles[0].shape), np.float32) if out is None else out
    for tile, place in zip(tiles, values, strict=True):
        normalise(tile, mean, std, out=place)
    return values


def line_positions(length: int) -> np.ndarray:
    """int32[S,1]: positions of a model that counts tokens."""
    return np.arange(length, dtype=np.int32)[:, None]


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """What a family's text looks like.

    Attributes:
      system: text of the system message.
      vocab_size: rows of the embedding table (at least the tokenizer's number of tokens).
    """

    system: str
    vocab_size: int


class PretrainedText:
    """Questions, answers and special tokens; base of the families' processors.

    A family sets `family`, `special` (the tokens it needs, by our names) and `asked`.

    Args:
      directory: folder with tokenizer.json and the other side files.
      text: settings of the text.

    Raises:
      ValueError: a tokenizer without the family's special tokens, or with more tokens than the model.
    """

    family = ""
    special: dict[str, str] = {}  # our name -> token
    option_form = ("\n", "{}. {}")
    before, after = "", ""  # around a question, behind the pictures: up to the place where the answer begins
    alone = ""  # in place of `before`, where there are no pictures
    between = "\n<|im_start|>user\n"  # before a later question of the same conversation, in place of `before`

    def __init__(self, directory: str | Path, text: TextSettings):
        self.directory, self.text = Path(directory), text
        self.tokenizer = read_tokenizer(self.directory)
        ids = {name: self.tokenizer.token_to_id(token) for name, token in self.special.items()}
        if ids["pad"] is None:  # never read: padding is masked
            ids["pad"] = self._other_pad()
        if missing := sorted(self.special[name] for name, number in ids.items() if number is None):
            raise ValueError(
                f"{self.directory / 'tokenizer.json'} lacks the tokens {missing}, which mark pictures and turns in the "
                f"{self.family} family. Give the folder of such a model, with its own tokenizer."
            )
        if self.tokenizer.get_vocab_size() > text.vocab_size:
            raise ValueError(
                f"{self.directory / 'tokenizer.json'} has {self.tokenizer.get_vocab_size()} tokens, but the model's "
                f"embedding table only {text.vocab_size} rows (vocab_size of config.json)."
            )
        self.ids = ids
        self.stop_ids = self._stop_ids()
        self.pad_id, self.end_id, self.image_id = ids["pad"], ids["end"], ids["image"]
        self._reserved = {
            number for number, token in self.tokenizer.get_added_tokens_decoder().items() if token.special
        }

    def _other_pad(self) -> int | None:
        """The padding token that tokenizer_config.json names, else the unknown token; None without either."""
        path = self.directory / "tokenizer_config.json"
        named = read_json(path).get("pad_token") if path.is_file() else None
        named = named.get("content") if isinstance(named, dict) else named
        found = self.tokenizer.token_to_id(named) if isinstance(named, str) else None
        return self.tokenizer.token_to_id("<unk>") if found is None else found

    def _stop_ids(self) -> tuple[int, ...]:
        """The end token, then others that generation_config.json names (eos_token_id)."""
        path = self.directory / "generation_config.json"
        named = read_json(path).get("eos_token_id") if path.is_file() else None
        named = named if isinstance(named, list) else [named]
        others = {int(number) for number in named if number is not None} - {self.ids["end"]}
        return (self.ids["end"], *sorted(others))

    def check_ids(self, config: Mapping, names: Mapping[str, str]) -> None:
        """Compares ids in config.json with the tokenizer's.

        Args:
          config: config.json.
          names: field of config.json -> our name of the token.

        Raises:
          ValueError: they differ.
        """
        for field, name in names.items():
            if field in config and config[field] != self.ids[name]:
                raise ValueError(
                    f"{self.directory}: config.json says {field} {config[field]}, but '{self.special[name]}' is "
                    f"{self.ids[name]} in tokenizer.json. The two files belong to different models."
                )

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return self.text.vocab_size

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens in it are recognised."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_question(
        self, text: str, answer: str | None = None, first: bool = True, pictures: bool = True
    ) -> EncodedQuestion:
        """The rest of the prompt behind the pictures, and with `answer` that and the end token.

        `<view:K>` in a text reads "image K+1". With `first` False it is a later turn, which follows an end token; with
        `pictures` False there are none before it.

        Raises:
          ValueError: an empty text or answer, or one that contains a special token.
        """
        before = self.between if not first else self.before if pictures else self.alone
        tokens = self.encode(before + self._plain(text, "question") + self.after)
        reply = [] if answer is None else [*self.encode(self._plain(answer, "answer")), self.end_id]
        mask = np.zeros(len(tokens) + len(reply), bool)
        mask[len(tokens) :] = True
        return EncodedQuestion(np.asarray(tokens + reply, np.int32), mask)

    def _plain(self, text: str, what: str) -> str:
        text = _VIEW.sub(lambda match: f"image {int(match[1]) + 1}", text.strip())
        if not text:
            raise ValueError(f"The {what} is empty.")
        if found := self._reserved.intersection(self.encode(text)):
            names = sorted(self.tokenizer.id_to_token(number) for number in found)
            raise ValueError(f"The {what} '{text}' contains the special tokens {names}; they would be read as markup.")
        return text

    def knows(self, word: str) -> bool:
        """Every word can be spelt."""
        return True

    def decode(self, ids: Sequence[int]) -> str:
        """Text up to the first end token, without special tokens.

        Raises:
          ValueError: an id outside of the vocabulary.
        """
        ids = [int(number) for number in ids]
        if wrong := [number for number in ids if not 0 <= number < self.vocab_size]:
            raise ValueError(f"Token id {wrong[0]} is not in the vocabulary of {self.vocab_size}.")
        stops = [place for place, number in enumerate(ids) if number in self.stop_ids]
        ids = ids[: stops[0]] if stops else ids
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def fitting_size(self, height: int, width: int):
        """The one size of the family; those that have several override this."""
        return self.image_size

    def __call__(
        self,
        images: Sequence[np.ndarray],
        messages: Sequence[Mapping[str, str]],
        label_size: tuple[int, int] | None = None,
    ) -> ModelInputs:
        """Prefix, questions and pixels of one sample; see `processing.base.compose`."""
        return compose(self, images, messages, label_size)

    def save_text(self, directory: str | Path, settings: dict) -> None:
        """Copies the side files into `directory` and writes processor.json."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for path in side_files(self.directory):
            if path.parent.resolve() != directory.resolve():
                shutil.copyfile(path, directory / path.name)
        values = {"family": self.family, **dataclasses.asdict(self.text), **settings}
        (directory / SETTINGS_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
