"""`Reasoning`: a template that leads a model from a question to an answer."""

from __future__ import annotations

import re
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmagent.errors import UsageError
from mmagent_prompts import CatalogueError, entry_names, read_entry

__all__ = ["Reasoning"]

MAX_VOTES = 64
_CALL = re.compile(r"self_consistency\(\s*(\d{1,3})\s*(?:,\s*(\w+)\s*)?\)")


class Reasoning(BaseModel):
    """How an answer is come by: calls for thoughts, a call for the answer, perhaps a vote.

    Chain of thought often hurts on perception and counting: measure it against "direct" on your
    own data before you use it.

    Attributes:
        name: The template's name.
        about: What it does, in a sentence.
        source: Where it is from.
        steps: Instructions by language, one call each, whose answers are thoughts.
        answer: The instruction of the call that answers, by language.
        answer_tag: If the answering call writes its thoughts too, the tag around the answer.
        votes: How often to reason; the most frequent answer wins.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    about: str = ""
    source: str = ""
    steps: tuple[dict[str, str], ...] = ()
    answer: dict[str, str] = {}
    answer_tag: str | None = Field(default=None, pattern=r"^[A-Za-z_]+$")
    votes: int = Field(default=1, ge=1, le=MAX_VOTES)

    @classmethod
    def load(cls, name: str) -> Self:
        """Return a template of the catalogue, or a vote over one.

        Args:
            name: For instance "two_stage", "self_consistency(5)" (around `direct`), or
                "self_consistency(5, two_stage)".

        Raises:
            UsageError: There is no such template.
        """
        call = _CALL.fullmatch(name.strip())
        if call is not None:
            return cls.load(call[2] or "direct").self_consistency(int(call[1]))
        try:
            return cls.model_validate(read_entry("reasoning", name))
        except CatalogueError as error:
            raise UsageError(f"{error} A vote is written self_consistency(5, two_stage).") from None

    @staticmethod
    def catalogue() -> list[str]:
        """Return the names of the templates that ship with the package."""
        return entry_names("reasoning")

    def self_consistency(self, votes: int) -> Self:
        """Return the template run several times, with the most frequent answer as the answer.

        Source: Wang et al. 2022, Self-Consistency Improves Chain of Thought Reasoning.

        Raises:
            UsageError: The number of votes cannot work.
        """
        if not 1 <= votes <= MAX_VOTES:
            raise UsageError(f"self_consistency takes 1 to {MAX_VOTES} votes, not {votes}.")
        return self.model_copy(update={"votes": votes})

    @property
    def is_direct(self) -> bool:
        """Whether it is one plain call."""
        return not self.steps and not self.answer

    def step_texts(self, language: str) -> list[str]:
        """Return the instructions of the calls for thoughts."""
        return [_in(language, step) for step in self.steps]

    def answer_text(self, language: str) -> str:
        """Return the instruction of the call that answers; "" if there is none."""
        return _in(language, self.answer)

    @classmethod
    def from_fields(cls, **fields: Any) -> Self:
        """Return a template of your own.

        Raises:
            UsageError: A field is unknown or wrong.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise UsageError(f"The reasoning's field {where!r}: {first['msg']}.") from None


def _in(language: str, texts: dict[str, str]) -> str:
    """Return the text in the language, or else in English, or else in whichever there is."""
    short = language.lower().split("-")[0]
    return texts.get(short) or texts.get("en") or next(iter(texts.values()), "")
