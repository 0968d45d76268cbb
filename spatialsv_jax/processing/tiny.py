"""Processor of the `tiny` family: word-level tokens and square pictures."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.pre_tokenizers import Split, WhitespaceSplit

from spatialsv_jax.processing.base import EncodedQuestion, ModelInputs, Pixels, Prefix, compose
from spatialsv_jax.processing.square_pictures import SquarePictures

PAD, BOS, END, IMAGE = SPECIALS = ("<pad>", "<bos>", "<end>", "<image>")
TOKENIZER_FILE, SETTINGS_FILE = "tokenizer.json", "processor.json"
_OWN_WORDS = ("view", ":", ".", *"0123456789")
# Digits and punctuation stand alone; hyphens stay inside a word ("front-left" is one token).
_ISOLATED = r"\d|[.,;:?!()\[\]\"]"
_VIEW = re.compile(r"<view:(\d+)>")


def build_tokenizer(words: Iterable[str]) -> Tokenizer:
    """A word-level tokenizer over `words`.

    Text is split at white space, then every digit and every mark of `. , ; : ? ! ( ) [ ] "`
    becomes a token of its own; `words` are split the same way. There is no unknown token.
    Ids: the four special tokens, the processor's own words (digits, "view", ":", "."), then the
    sorted rest, so that the same set of words always gives the same ids.

    Args:
      words: words and symbols, in any order, with or without repeats.

    Raises:
      ValueError: a word equals a special token.
    """
    splitter = _splitter()
    pieces = {piece for word in words for piece, _ in splitter.pre_tokenize_str(word)}
    if pieces & set(SPECIALS):
        raise ValueError(f"Words {sorted(pieces & set(SPECIALS))} are special tokens; choose other words.")
    ordered = [*SPECIALS, *_OWN_WORDS, *sorted(pieces - set(_OWN_WORDS))]
    tokenizer = Tokenizer(WordLevel({piece: number for number, piece in enumerate(ordered)}))
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def _splitter() -> PreTokenizers:
    return PreTokenizers([WhitespaceSplit(), Split(Regex(_ISOLATED), "isolated")])


class TinyProcessor:
    """Word-level text and pictures stretched to a square; see `processing.base.Processor`.

    The prefix is `<bos> view 1 : <image>*P view 2 : <image>*P ...`; positions count up by one.

    Args:
      tokenizer: from `build_tokenizer`, or read from a tokenizer.json written by `save`.
      image_size: side of the network's square input in pixels.
      patch_size: side of a patch of the vision encoder in pixels.
      merge: patches merged into one visual token along each side.

    Raises:
      ValueError: a tokenizer of another family, or sizes that do not divide.
    """

    family = "tiny"
    option_form = (" ", "{} . {}")

    def __init__(self, tokenizer: Tokenizer, image_size: int, patch_size: int, merge: int = 1):
        ids = {special: tokenizer.token_to_id(special) for special in (*SPECIALS, *_OWN_WORDS)}
        missing = sorted(word for word, number in ids.items() if number is None)
        if missing:
            raise ValueError(
                f"The tokenizer lacks {missing}: it is not a tokenizer of the tiny family. "
                "Use the tokenizer.json saved with the run."
            )
        self.tokenizer = tokenizer
        self.image_size, self.patch_size, self.merge = image_size, patch_size, merge
        self.pictures = SquarePictures(image_size, patch_size, merge)
        self.grid_hw = self.pictures.grid_hw
        self.pad_id, self.bos_id, self.end_id, self.image_id = (ids[special] for special in SPECIALS)
        self.stop_ids = (self.end_id,)
        self.vocab_size = tokenizer.get_vocab_size()
        self._pieces: dict[str, tuple[int, ...]] = {}

    def fitting_size(self, height: int, width: int) -> int:
        """The square that all pictures are stretched to."""
        return self.image_size

    def encode_prefix(self, num_views: int) -> Prefix:
        """`<bos> view 1 : <image>*P ...` for `num_views` pictures; K = 1."""
        if num_views < 0:
            raise ValueError(f"A prefix cannot have {num_views} views.")
        count = self.grid_hw[0] * self.grid_hw[1]
        tokens, index = [self.bos_id], []
        for view in range(num_views):
            tokens += self._encode(f"view {view + 1} :")
            index.append(range(len(tokens), len(tokens) + count))
            tokens += [self.image_id] * count
        length = len(tokens)
        return Prefix(
            tokens=np.asarray(tokens, np.int32),
            positions=np.arange(length, dtype=np.int32)[:, None],
            image_token_index=np.asarray(index, np.int32).reshape(num_views, count),
            question_start=length,
        )

    def encode_question(
        self, text: str, answer: str | None = None, first: bool = True, pictures: bool = True
    ) -> EncodedQuestion:
        """Tokens of `text`, where `<view:K>` reads "view K+1"; with `answer`, that and `<end>` too.

        A later turn (`first` False) reads like the first, and one without pictures like one with them.

        Raises:
          ValueError: an empty text or answer, or a word that the tokenizer does not know.
        """
        question = self._encode(_VIEW.sub(lambda match: f"view {int(match[1]) + 1}", text))
        if not question:
            raise ValueError("The question is empty.")
        reply = []
        if answer is not None:
            reply = self._encode(_VIEW.sub(lambda match: f"view {int(match[1]) + 1}", answer))
            if not reply:
                raise ValueError(f"The answer of question '{text}' is empty.")
            reply.append(self.end_id)
        mask = np.zeros(len(question) + len(reply), bool)
        mask[len(question) :] = True
        return EncodedQuestion(np.asarray(question + reply, np.int32), mask)

    def pixels(
        self, images: Sequence[np.ndarray], label_size: tuple[int, int] | None = None, out: np.ndarray | None = None
    ) -> Pixels:
        """The whole of each picture stretched to the network's square; see `SquarePictures.pixels`."""
        return self.pictures.pixels(images, label_size, out)

    def native(self, images: Sequence[np.ndarray]) -> tuple[Prefix, Pixels]:
        """This family has one size; see `processing.base.Processor.native`."""
        return self.encode_prefix(len(images)), self.pixels(images)

    def resize(self, image: np.ndarray) -> np.ndarray:
        """uint8[h,w,3] stretched to uint8[image_size,image_size,3], antialiased: what the network sees."""
        return self.pictures.resize(image)

    def knows(self, word: str) -> bool:
        """Whether every piece of `word` (digits and marks stand alone) is in the vocabulary."""
        pieces = [piece for piece, _ in self.tokenizer.pre_tokenizer.pre_tokenize_str(word)]
        return all(self._lookup(piece) is not None for piece in pieces)

    def decode(self, ids: Sequence[int]) -> str:
        """Text up to the first end token, without special tokens; "2 . 4" reads "2.4" again."""
        words = []
        for number in ids:
            if int(number) == self.end_id:
                break
            word = self.tokenizer.id_to_token(int(number))
            if word is None:
                raise ValueError(f"Token id {int(number)} is not in the vocabulary of {self.vocab_size}.")
            if word not in SPECIALS:
                words.append(word)
        text = " ".join(words)
        text = re.sub(r"(?<=\d) (?=\d)", "", text)
        return re.sub(r"(?<=\d) \. (?=\d)", ".", text)

    def save(self, directory: str | Path) -> None:
        """Writes tokenizer.json and processor.json into `directory`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(directory / TOKENIZER_FILE))
        settings = {
            "family": self.family,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "merge": self.merge,
        }
        (directory / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> TinyProcessor:
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: naming the missing file.
          ValueError: the files belong to another family, or the tokenizer's is damaged.
        """
        directory = Path(directory)
        for name in (TOKENIZER_FILE, SETTINGS_FILE):
            if not (directory / name).is_file():
                raise FileNotFoundError(f"{directory / name} is missing; a processor's folder holds it since `save`.")
        settings = json.loads((directory / SETTINGS_FILE).read_text())
        if settings.get("family") != cls.family:
            raise ValueError(
                f"{directory / SETTINGS_FILE}: family '{settings.get('family')}', expected '{cls.family}'."
            )
        sizes = (settings["image_size"], settings["patch_size"], settings["merge"])
        try:
            tokenizer = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
        except Exception as error:  # the library raises plain Exceptions
            raise ValueError(f"{directory / TOKENIZER_FILE} is no tokenizer ({error}).") from error
        return cls(tokenizer, *sizes)

    def __call__(
        self,
        images: Sequence[np.ndarray],
        messages: Sequence[Mapping[str, str]],
        label_size: tuple[int, int] | None = None,
    ) -> ModelInputs:
        """One sample from pictures and messages; see `processing.base.compose`."""
        return compose(self, images, messages, label_size)

    def _encode(self, text: str) -> list[int]:
        return [number for word in text.split() for number in self._word(word, text)]

    def _word(self, word: str, text: str) -> tuple[int, ...]:
        """Ids of one word between spaces, remembered: the loader encodes thousands a second."""
        known = self._pieces.get(word)
        if known is None:
            known = tuple(self._piece(piece, text) for piece, _ in self.tokenizer.pre_tokenizer.pre_tokenize_str(word))
            self._pieces[word] = known
        return known

    def _lookup(self, piece: str) -> int | None:
        """The id of a piece as written or in lower case; None for unknown and special ones."""
        if piece in SPECIALS:
            return None
        number = self.tokenizer.token_to_id(piece)
        return self.tokenizer.token_to_id(piece.lower()) if number is None else number

    def _piece(self, piece: str, text: str) -> int:
        number = self._lookup(piece)
        if number is None:
            words = [word for word in self.tokenizer.get_vocab() if word not in SPECIALS]
            near = difflib.get_close_matches(piece.lower(), sorted(words), 3)
            hint = f" Nearest known words: {', '.join(near)}." if near else ""
            reason = "is a special token" if piece in SPECIALS else "is not in the vocabulary"
            raise ValueError(
                f"The word '{piece}' in '{text}' {reason} ({self.vocab_size} entries).{hint} "
                "Rephrase it, or build the tokenizer with this word and train again."
            )
        return number
