"""Grammars that hold an answer to its form, token by token, by llguidance.

At every step the grammar says which tokens may come next; all others get no chance. So calls and
JSON are valid by construction, however weak the model. One thing a grammar alone does not give is
an end in time: near the limit of tokens, `Guide` looks for the shortest way to finish and takes it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mmagent.engine.base import Form
from mmagent.engine.toolformat import ToolFormat
from mmagent.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["Guide", "GuideMaker", "grammar_of"]

# JSON as models have seen it, and no way to fill an answer with blanks.
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def grammar_of(form: Form, format: ToolFormat, *, lenient: bool = False) -> str:
    """The form in llguidance's Lark dialect.

    Args:
        form: What an answer must look like.
        format: How this checkpoint writes calls.
        lenient: Ignore words of JSON Schema that no grammar can express.
    """
    style = {**_STYLE, "lenient": True} if lenient else _STYLE

    def literal(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    def schema(value: dict[str, Any]) -> str:
        return "%json " + json.dumps({**_closed(value), "x-guidance": style})

    lines = ["%llguidance {}"]
    bodies = [
        f"{literal(format.head(function['name']))} "
        f"{schema(function.get('parameters') or _NOTHING)} {literal(format.tail)}"
        for function in form.functions
    ]
    if form.functions:
        lines.append("body: " + " | ".join(f"( {body} )" for body in bodies))
        lines.append(f"first: {literal(format.mark)} body")
    text = "json" if form.schema is not None else "TEXT"
    if form.schema is not None:
        lines.append(f"json: {schema(form.schema)}")
    lines.append(r"TEXT: /(.|\n)*/")
    if not form.functions:
        lines.append(f"start: {text}")
    else:
        lines.append(f"next: {literal(chr(10))} first")
        more = " next*" if form.parallel else ""
        # Text may come before the first call, unless a call is all that is wanted.
        lines.append(f"after_text[lazy]: TEXT {literal(format.mark)}")
        told = "first" if form.schema is not None else "after_text body"
        lines.append(f"start: first{more}" if form.required else f"start: {text} | {told}{more}")
    return "\n".join(lines)


def _closed(schema: dict[str, Any], *, inside_all_of: bool = False) -> dict[str, Any]:
    """The schema without properties that nobody named, where it leaves that open."""
    made = dict(schema)
    for key in ("properties", "$defs", "definitions"):
        if isinstance(made.get(key), dict):
            made[key] = {
                name: _closed(value) if isinstance(value, dict) else value
                for name, value in made[key].items()
            }
    if isinstance(made.get("items"), dict):
        made["items"] = _closed(made["items"])
    for key in ("anyOf", "oneOf", "prefixItems"):
        if isinstance(made.get(key), list):
            made[key] = [_closed(v) if isinstance(v, dict) else v for v in made[key]]
    mixed = inside_all_of or any(key in made for key in ("allOf", "anyOf", "oneOf", "$ref"))
    open_ended = "additionalProperties" not in made and "patternProperties" not in made
    if "properties" in made and open_ended and not mixed:
        made["additionalProperties"] = False
    return made


def _literals(form: Form) -> Iterator[str]:
    """Texts that an answer of this form must or may repeat to the letter."""
    todo: list[Any] = [form.schema]
    for function in form.functions:
        yield function["name"]
        todo.append(function.get("parameters"))
    while todo:
        part = todo.pop()
        if isinstance(part, list):
            todo += part
        if not isinstance(part, dict):
            continue
        todo += part.values()
        yield from (key for key in part.get("properties", {}) if isinstance(key, str))
        values = part.get("enum")
        for value in [part.get("const"), *(values if isinstance(values, list) else [])]:
            if isinstance(value, str):
                yield value


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_FURTHEST = 2_000
"""Tokens within which an end is looked for before the first one; a form without an end that is
near would hold up the answer for as long as the window is wide."""


class GuideMaker:
    """Compiles grammars for one tokenizer; safe to share between threads."""

    def __init__(self, tokenizer: Any, *, ends: frozenset[int], width: int) -> None:
        """Remember the tokenizer; it is prepared at the first grammar.

        Args:
            tokenizer: A fast tokenizer of transformers.
            ends: Tokens that end an answer.
            width: Numbers of the model's logits.
        """
        self._tokenizer = tokenizer
        self._ends = sorted(ends)
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        self._controls = [token.content for token in added if token.special and token.content]
        self._width = width
        self._made: Any = None
        self._closers: Any = None
        self._letter: int | None = None
        self._lock = threading.Lock()

    def guide(self, form: Form, format: ToolFormat, room: int) -> Guide:
        """A guide for one answer of at most `room` tokens.

        Raises:
            UsageError: The form cannot be held.
        """
        from llguidance import LLMatcher

        compiled = self._compiled()
        for text in _literals(form):
            if any(control in text for control in self._controls):
                # It would be written as that token, and be lost where the answer is read.
                raise UsageError(f"The text {text!r} holds a control token of this model; name it "
                                 "otherwise, or choose another value.")  # fmt: skip
            if not _is_text(text):
                raise UsageError(f"The text {text!r} holds half a character; write it anew.")
        problem = ""
        for lenient in (False, True):
            grammar = LLMatcher.grammar_from_lark(grammar_of(form, format, lenient=lenient))
            matcher = LLMatcher(compiled, grammar, log_level=0)
            if not matcher.is_error():
                return Guide(matcher, self, room)
            problem = problem or matcher.get_error().strip().splitlines()[0]
        raise UsageError(
            f"No answer can be held to this schema: {problem}. Simplify it, or leave out the "
            "words of JSON Schema that it names."
        )

    def _compiled(self) -> Any:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise MissingDependencyError(
                "Tool calls and structured output need llguidance: pip install llguidance."
            ) from error
        with self._lock:
            if self._made is None:
                if not getattr(self._tokenizer, "is_fast", False):
                    raise UsageError(
                        "Tool calls and structured output need a fast tokenizer; "
                        "save the checkpoint with a tokenizer.json."
                    )
                self._made = from_tokenizer(
                    self._tokenizer, n_vocab=self._width, eos_token=self._ends
                )
            return self._made

    def closers(self) -> Any:
        """For every token, how much it helps to finish JSON soon: (2, vocabulary).

        The second row is for the inside of a text, where digits and commas are signs like others.
        """
        import numpy as np

        compiled = self._compiled()
        with self._lock:
            if self._closers is None:
                texts = [compiled.decode_str([token]) for token in range(self._width)]
                rows = [[_helps(text) for text in texts], [_lengthens(text) for text in texts]]
                self._closers = np.array(rows, dtype="float32")
                self._closers[:, self._ends] = 10.0
                self._letter = texts.index("a") if "a" in texts else None
            return self._closers

    def in_text(self, allowed: Any) -> bool:
        """Whether these tokens (vocabulary,) are what may come inside a text."""
        self.closers()
        return self._letter is not None and bool(allowed[self._letter])


def _helps(text: str) -> float:
    if not text.strip() or "\ufffd" in text:
        return 0.1
    if set(text) <= set('"}]'):
        return 5.0 + 0.1 * len(text)
    if text.startswith(","):
        return 4.0  # what must still come, comes after it; a number could go on for ever
    if set(text) & set("{["):
        return 0.2
    if text.isdigit():
        return 3.0 - 0.1 * len(text)
    if text in ("null", "nul", "nu", "n", "true", "t", "false", "f"):
        return 2.0 + 0.1 * len(text)
    return 1.0 + 0.01 * min(len(text), 50)


def _lengthens(text: str) -> float:
    if text[:1] == '"' and set(text) <= set('"}]'):
        return 5.0 + 0.1 * len(text)  # the end of the text, and of what it is in
    # In a text that must be long, long tokens get there sooner.
    return 1.0 + 0.01 * min(len(text), 50) if text.strip() and "\ufffd" not in text else 0.1


class Guide:
    """Holds one answer to its grammar. Not safe to share."""

    def __init__(self, matcher: Any, maker: GuideMaker, room: int) -> None:
        self._matcher = matcher
        self._maker = maker
        shortest = self._shortest(matcher, min(room, _FURTHEST))
        # Where to begin to look at how far the end is; looking costs a little at every token,
        # and is in vain if there was not room enough from the start.
        self._watch = 0 if shortest is None else 2 * shortest + 48

    def allow(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits (1, vocabulary) with no chance for what the grammar forbids."""
        import torch

        bits = self._bits(self._matcher)
        forbidden = torch.ones(logits.shape[-1], dtype=torch.bool)
        forbidden[: len(bits)] = torch.from_numpy(bits).logical_not()
        return logits.masked_fill(forbidden.to(logits.device), float("-inf"))

    def settle(self, token: int, left: int) -> int:
        """Take a token, or a better one if there would be no time to finish after it.

        Args:
            token: What was chosen.
            left: How many tokens the answer may still have, this one included.
        """
        if left <= self._watch and not self._can_end_after(token, left - 1):
            token = self._hurried(self._bits(self._matcher))
        self._matcher.consume_token(token)
        return token

    @property
    def finished(self) -> bool:
        """Nothing may follow."""
        return bool(self._matcher.is_stopped())

    def _bits(self, matcher: Any) -> Any:
        import numpy as np

        packed = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[: self._maker._width]
        return bits.astype(bool)

    def _hurried(self, bits: Any) -> int:
        import numpy as np

        helps = self._maker.closers()[int(self._maker.in_text(bits))]
        return int(np.where(bits, helps, -1.0).argmax())

    def _shortest(self, matcher: Any, limit: int) -> int | None:
        """How many tokens an end takes from here, by going there; None if more than `limit`."""
        twin = matcher.deep_copy()
        taken = 0
        while taken <= limit:
            if twin.is_accepting() or twin.is_stopped():
                return taken
            # Keys and the like can be nothing else: they are passed over in one go.
            forced = twin.compute_ff_tokens() or [self._hurried(self._bits(twin))]
            twin.consume_tokens(forced)
            taken += len(forced)
        return None

    def _can_end_after(self, token: int, left: int) -> bool:
        twin = self._matcher.deep_copy()
        twin.consume_token(token)
        return self._shortest(twin, left) is not None
