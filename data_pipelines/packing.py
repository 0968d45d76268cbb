"""Packs several questions about the same views into one row.

All questions of a row share the prefix that holds the pictures; each continues from its end
(contract: questions are packed only when everything up to the last image token is identical).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.records import Question


class QuestionSet:
    """The questions of one sample, tokenised on first use and kept as compact arrays.

    Args:
      questions: what may be asked; view names already refer to the sample's views.
      record_id: for messages.
      question_tokens: room T for question, answer and end token.
      answer_tokens: room A for answer and end token.
      pad_id: token of unused places.
      pictures: whether the sample shows any.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        record_id: str,
        question_tokens: int,
        answer_tokens: int,
        pad_id: int,
        pictures: bool = True,
    ):
        self._record_id, self._pad_id, self._pictures = record_id, pad_id, pictures
        self._room, self._answer_room = question_tokens, answer_tokens
        self._questions = list(questions)
        number = len(self._questions)
        self._tokens = np.full((number, question_tokens), pad_id, np.int32)
        self._length = np.zeros(number, np.int32)  # 0 = not tokenised yet
        self._answers = np.zeros((number, answer_tokens), np.int32)  # places of the answer tokens, 0 = unused

    def __len__(self) -> int:
        return len(self._questions)

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        return (
            self._tokens.nbytes + self._answers.nbytes + sum(200 + len(question.text) for question in self._questions)
        )

    def pack(self, choice: np.ndarray, slots: int, processor) -> dict[str, np.ndarray]:
        """The question fields of one row (see spec.BATCH, without the batch axis).

        Args:
          choice: int[n] indices of the questions, n <= slots, in slot order.
          slots: Q.
          processor: tokenises what is not tokenised yet.

        Raises:
          ValueError: a question or answer that is too long, naming record, question and setting.
        """
        for index in choice:
            if not self._length[index]:
                self._encode(int(index), processor)
        number, places = len(choice), np.arange(self._room)
        tokens = np.full((slots, self._room), self._pad_id, np.int32)
        length, answers = np.zeros((slots, 1), np.int32), np.zeros((slots, self._answer_room), np.int32)
        tokens[:number] = self._tokens[choice]
        length[:number, 0], answers[:number] = self._length[choice], self._answers[choice]
        mask = places < length
        is_answer = np.zeros((slots, self._room), bool)
        slot, place = np.nonzero(answers)
        is_answer[slot, answers[slot, place]] = True
        return {
            "question_tokens": tokens,
            "question_mask": mask,
            "question_valid": np.arange(slots) < number,
            "answer_mask": is_answer,
            "answer_positions": answers,
            "answer_valid": answers > 0,
        }

    def _encode(self, index: int, processor) -> None:
        question = self._questions[index]
        where = f"Record '{self._record_id}', question '{question.id}'"
        try:
            tokens, answer_mask = encode_turns(question, processor, self._pictures)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        places = np.flatnonzero(answer_mask)
        if not len(places) or places[0] < 1 or places[-1] != len(tokens) - 1:
            raise ValueError(
                f"{where}: answer tokens stand at {places.tolist()} of {len(tokens)}; expected the last token among them "
                "and at least one question token before (processor.encode_question)."
            )
        if len(tokens) > self._room:
            raise ValueError(
                f"{where} needs {len(tokens)} tokens, but config.data.question_tokens is {self._room}; raise it. Text: '{question.text}'."
            )
        if len(places) > self._answer_room:
            raise ValueError(
                f"{where}: its answer '{question.answer}' needs {len(places)} tokens with the end token, but "
                f"config.data.answer_tokens is {self._answer_room}; raise it."
            )
        self._tokens[index, : len(tokens)] = tokens
        self._answers[index, : len(places)] = places
        self._length[index] = len(tokens)  # last: other threads read it as "ready"


def encode_turns(question: Question, processor, pictures: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """(tokens int32[n], which of them are answers bool[n]) of a question, or of a conversation with all its answers.

    Args:
      question: with its later turns.
      processor: tokenises.
      pictures: whether the record has any.
    """
    text = question_prompt(question, *processor.option_form)
    alone = {} if pictures else {"pictures": False}
    pieces = [processor.encode_question(text, question.answer, **alone)]
    pieces += [processor.encode_question(later, answer, first=False) for later, answer in question.turns]
    tokens = np.concatenate([np.asarray(tokens, np.int32) for tokens, _ in pieces])
    return tokens, np.concatenate([np.asarray(mask, bool) for _, mask in pieces])


def question_prompt(question: Question, separator: str = " ", form: str = "{} . {}") -> str:
    """The text that the model reads: the question, then its options, as "A . chair B . table" by default.

    Args:
      question: with or without options.
      separator: stands before every option.
      form: of an option, its letter and its text (a processor's `option_form` holds both).
    """
    options = (form.format(chr(ord("A") + place), option) for place, option in enumerate(question.options))
    return separator.join([question.text, *options])


def choose_questions(available: int, slots: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of the questions that fill a row: all when they fit, a random choice otherwise.

    Args:
      available: questions of the sample.
      slots: Q.
      rng: generator of the row.

    Returns:
      int[min(available, slots)].
    """
    if available <= slots:
        return np.arange(available)
    return rng.permutation(available)[:slots]


def pack_prefix(prefix, views: int, tokens: int, pictures: int, pad_id: int) -> dict[str, np.ndarray]:
    """The prefix fields of one row, padded to the bucket.

    Args:
      prefix: processor.encode_prefix of the sample's own number of views.
      views: V of the bucket; padded views point at index 0 and are False in `view_valid`.
      tokens: S of the bucket.
      pictures: X of the bucket; features of padded pictures are False in `feature_valid`.
      pad_id: token of the padding.
    """
    own, shown = len(prefix.tokens), len(prefix.image_token_index)
    prefix_tokens = np.full(tokens, pad_id, np.int32)
    positions = np.zeros((tokens, prefix.positions.shape[1]), np.int32)
    index = np.zeros((views, prefix.image_token_index.shape[1]), np.int32)
    prefix_tokens[:own], positions[:own], index[:shown] = prefix.tokens, prefix.positions, prefix.image_token_index
    slots = {}
    for name in ("feature_slots", "feature_valid"):
        if (own_slots := getattr(prefix, name)) is not None:
            slots[name] = np.zeros((pictures, own_slots.shape[1]), own_slots.dtype)
            slots[name][: len(own_slots)] = own_slots
    return {
        **slots,
        "prefix_tokens": prefix_tokens,
        "prefix_mask": np.arange(tokens) < own,
        "prefix_positions": positions,
        "question_start": np.asarray(prefix.question_start, np.int32),
        "image_token_index": index,
    }
