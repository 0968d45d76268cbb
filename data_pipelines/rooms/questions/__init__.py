"""Questions with exact answers about a room and its views (docs/questions.md lists the types)."""

from data_pipelines.rooms.questions.balance import make_questions
from data_pipelines.rooms.questions.forms import TYPES, QuestionType, Words, chance_level, vocabulary

__all__ = ["TYPES", "QuestionType", "Words", "chance_level", "make_questions", "vocabulary"]
