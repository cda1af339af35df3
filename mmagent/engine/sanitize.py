"""Control tokens typed by people stay text.

A user may write `<|im_end|>` or `<image>`, and so may a memory, a tool or a web page. A tokenizer
reads such text as the control token itself, which ends a turn, forges another speaker's, or claims
a picture that is not there. Breaking the text up inside makes it ordinary text for every tokenizer
and every processor, also for those that count placeholders by searching the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mmagent.messages import Conversation, Turn

__all__ = ["Sanitizer"]

# Every model knows a space; small ones repeat signs that they have never seen, like the other.
_BREAKS = (" ", "\u200b")


class Sanitizer:
    """Breaks up the control tokens of one tokenizer wherever they stand in a conversation."""

    def __init__(self, tokenizer: Any, more_tokens: Iterable[str] = ()) -> None:
        """Learn the tokens, and choose a break that is seen to work for all of them."""
        added = tokenizer.added_tokens_decoder.values()
        tokens = {
            token.content
            for token in added
            if token.special or token.content[:1] in ("<", "[", "|")
        }
        tokens |= {token for token in more_tokens if token}
        # Some tokenizers add runs of blanks and single signs, which are text like any other.
        self.tokens = tuple(
            sorted((t for t in tokens if len(t.strip()) > 1), key=len, reverse=True)
        )
        self._pattern = re.compile("|".join(map(re.escape, self.tokens)) or r"(?!)")
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        special.discard(tokenizer.unk_token_id)
        self._break = next(
            (
                mark
                for mark in _BREAKS
                if not any(
                    special
                    & set(tokenizer.encode(self._apply(token, mark), add_special_tokens=False))
                    for token in self.tokens
                )
            ),
            _BREAKS[-1],
        )

    def text(self, text: str) -> str:
        """The text, readable as before, with no control token in it."""
        return self._apply(text, self._break)

    def conversation(self, conversation: Conversation) -> Conversation:
        """The conversation, with every text that came from outside the template made safe."""
        return replace(
            conversation,
            turns=tuple(self._turn(turn) for turn in conversation.turns),
            tools=tuple(self._value(tool) for tool in conversation.tools),
        )

    def _turn(self, turn: Turn) -> Turn:
        return {key: turn[key] if key == "role" else self._value(turn[key]) for key in turn}

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list | tuple):
            return [self._value(item) for item in value]
        if isinstance(value, dict):
            return {self._value(key): self._value(item) for key, item in value.items()}
        return value

    def _apply(self, text: str, mark: str) -> str:
        # Again and again, since breaking one token up may leave another that was hidden in it.
        while self._pattern.search(text):
            text = self._pattern.sub(lambda found: found[0][0] + mark + found[0][1:], text)
        return text
