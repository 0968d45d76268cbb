"""What both sides of `benchmarks.train_step` train on: sizes, pictures, tokens and positions. NumPy alone."""

from __future__ import annotations

import dataclasses

import numpy as np

PATCH, MERGE, FRAMES, WINDOW = 14, 2, 2, 112
SYSTEM, QUESTION, ANSWER = 24, 32, 4  # tokens before the pictures, of a question with its answer, of the answer alone


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of a Qwen2.5-VL."""

    vision: dict
    language: dict


def _size(vision: tuple, full: tuple, language: tuple, vocabulary: int, sections: tuple, tied: bool) -> Size:
    names = ("width", "layers", "heads", "mlp_width")
    more = ("width", "layers", "heads", "kv_heads", "head_dim", "mlp_width")
    return Size(
        dict(zip(names, vision, strict=True), full_attention_layers=full),
        dict(zip(more, language, strict=True), vocab_size=vocabulary, rope_sections=sections, tie_embeddings=tied),
    )


SIZES = {
    # The proportions of the published models (the encoder a fifth of the parameters), for two CPU cores.
    "small": _size((320, 8, 5, 856), (3, 7), (512, 8, 8, 2, 64, 1408), 32768, (8, 12, 12), True),
    "tiny": _size((64, 2, 2, 96), (1,), (64, 2, 2, 1, 32, 128), 512, (4, 6, 6), True),
    # Qwen2.5-VL-3B and -7B as published.
    "3b": _size((1280, 32, 16, 3420), (7, 15, 23, 31), (2048, 36, 16, 2, 128, 11008), 151936, (16, 24, 24), True),
    "7b": _size((1280, 32, 16, 3420), (7, 15, 23, 31), (3584, 28, 28, 4, 128, 18944), 152064, (16, 24, 24), False),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """The samples of one step: every question is full, so that no side has padding.

    Attributes:
      size: key of `SIZES`.
      scenes, views, side, questions: of a step; pictures are side x side.
      dtype: of the arithmetic.
      remat: of our decoder's layers (`LanguageConfig.remat`); the peer's recompute all or, with "none", nothing.
    """

    size: str
    scenes: int
    views: int
    side: int
    questions: int
    dtype: str
    remat: str

    def __post_init__(self):
        if self.side % (PATCH * MERGE):
            raise SystemExit(f"--side {self.side} is no multiple of {PATCH * MERGE}.")

    @property
    def is_large(self) -> bool:
        """Whether layers are compiled one by one, and rematerialised unless said otherwise."""
        return SIZES[self.size].language["width"] > 1024

    @property
    def asked(self) -> int:
        """Questions of a step."""
        return self.scenes * self.questions

    @property
    def grid(self) -> int:
        """Tokens along a picture's side."""
        return self.side // (PATCH * MERGE)

    @property
    def prefix(self) -> int:
        """S."""
        return SYSTEM + self.views * (self.grid**2 + 2)

    @property
    def special(self) -> dict[str, int]:
        """Ids of the tokens around and in place of pictures: the last of the vocabulary."""
        last = SIZES[self.size].language["vocab_size"]
        return {name: last - place for place, name in enumerate(("image", "start", "stop", "video"), 1)}

    def describe(self) -> str:
        """One line."""
        return (
            f"Qwen2.5-VL '{self.size}', {self.scenes} x {self.questions} questions of {QUESTION} tokens ({ANSWER} answer) about "
            f"{self.views} views of {self.side} x {self.side} ({self.prefix} prefix tokens)"
        )

    def pictures(self) -> np.ndarray:
        """float32[scenes,V,side,side,3], normalised."""
        return (
            np.random.default_rng(1)
            .standard_normal((self.scenes, self.views, self.side, self.side, 3))
            .astype(np.float32)
        )

    def question_tokens(self) -> np.ndarray:
        """int32[scenes,Q,T]; the last `ANSWER` are the answer."""
        ids = np.random.default_rng(2).integers(0, min(self.special.values()), (self.scenes, self.questions, QUESTION))
        return ids.astype(np.int32)

    def prefix_tokens(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """(tokens int32[S], positions int32[S,3], slots of the pictures int32[V,P], position of a question's token 0).

        Positions count text; a picture's tokens share their time and count rows and columns (arXiv 2502.13923).
        """
        special, count = self.special, self.grid**2
        tokens = list(np.random.default_rng(3).integers(0, min(special.values()), SYSTEM))
        positions = [(here,) * 3 for here in range(SYSTEM)]
        slots, here = [], SYSTEM
        for _ in range(self.views):
            slots.append(len(tokens) + 1 + np.arange(count))
            tokens += [special["start"], *[special["image"]] * count, special["stop"]]
            positions.append((here,) * 3)
            positions += [
                (here + 1, here + 1 + place // self.grid, here + 1 + place % self.grid) for place in range(count)
            ]
            here += 1 + self.grid
            positions.append((here,) * 3)
            here += 1
        return np.asarray(tokens, np.int32), np.asarray(positions, np.int32), np.stack(slots).astype(np.int32), here
