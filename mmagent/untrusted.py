"""Makes text that a stranger may have written safe to stand in a prompt.

Recalled memories, character cards and typed names are data. What could turn them into
something else is taken out of effect and left readable: role and control tokens of the common
chat templates, picture placeholders, picture links that a page or a server would fetch, and
characters that no tokenizer takes.

This does not know which tokens the loaded model has; the chat model's own sanitising does.
"""

from __future__ import annotations

import re

__all__ = ["display_name", "neutralise", "neutralise_line"]

_NAMED_TOKENS = (
    "s|bos|eos|pad|unk|cls|sep|mask|image|img|video|audio|think|thinking|tool_call|tool_response|"
    "system|assistant|reponame|filename|global-img|sys|unused\\d+|commit"
)
# <|im_start|>, <｜User｜>: one space is enough to make ordinary text of them.
_PIPED = re.compile(r"<(?=[|｜])|(?<=[|｜])(?=>)")
# <s>, </think>, <img src=…>, and everything of the shape <start_of_turn>, <row_1_col_2>.
_ANGLED = re.compile(
    rf"<(?=/?(?:{_NAMED_TOKENS})(?:[\s/>]|$)|/?[a-z0-9]+(?:_[a-z0-9]+)+>|<SYS>>|</SYS>>)",
    re.IGNORECASE,
)
_BRACKETED = re.compile(
    r"\[(/?(?:INST|IMG(?:_[A-Z]+)?|THINK|SYSTEM_PROMPT|MODEL_SETTINGS|AVAILABLE_TOOLS|TOOL_[A-Z]+)"
    r")\]"
)
_PICTURE_LINK = re.compile(r"!(?=\[)")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\ufdd0-\ufdef\ufffe\uffff]")
_ALL_SPACE = re.compile(r"\s+")


def neutralise(text: str) -> str:
    """Return the text with control tokens, picture links and unprintable characters disarmed.

    Ordinary text comes back unchanged, but for line ends, which become line feeds.
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _UNPRINTABLE.sub("", text)
    text = _PIPED.sub(lambda match: "< " if match.group() == "<" else " ", text)
    text = _ANGLED.sub("< ", text)
    text = _BRACKETED.sub(r"(\1)", text)
    return _PICTURE_LINK.sub("", text)


def neutralise_line(text: str, max_chars: int | None = None) -> str:
    """Return the text as one line without square brackets, so that it can close no block.

    Args:
        text: Anything.
        max_chars: Longer text is cut, with "…" in the last place.
    """
    line = _ALL_SPACE.sub(" ", neutralise(text)).strip()
    line = line.replace("[", "(").replace("]", ")")
    if max_chars is not None and len(line) > max_chars:
        line = line[: max_chars - 1].rstrip() + "…"
    return line


def display_name(user: str) -> str:
    """Return how a user id is written in a conversation: `sam` becomes `Sam`."""
    name = neutralise_line(user, 60)
    return name.capitalize() if name.isascii() and name.isalpha() and name.islower() else name
