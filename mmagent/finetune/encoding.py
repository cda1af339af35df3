"""Dialogues to tensors: which tokens are learned, and batches of rows with and without pictures.

Only what the assistant says is learned: its words and the token that ends its turn. Placeholders
of pictures, the user's words and padding carry the label -100. Nothing is ever cut: a row that
is too long is refused, shortened by whole turns, or left out, before training begins.

Where the assistant's words stand is found in one of three ways: by `{% generation %}` marks in
the model's chat template; by a template of TRL that has them; or, if neither is there, by
rendering the dialogue up to each answer and comparing.

Shapes: `input_ids`, `attention_mask`, `labels` are (rows, tokens); what belongs to pictures is
as the processor makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from mmagent.engine.prompt import PromptBuilder
from mmagent.engine.turns import ways_to_say
from mmagent.errors import UsageError
from mmagent.finetune.data.pictures import Gallery
from mmagent.finetune.data.rows import Dialogue, PictureRef

__all__ = ["IGNORED", "ChatCollator", "ChatEncoder", "Encoded", "EncodingError"]

IGNORED = -100


class EncodingError(ValueError):
    """A row that the model's template or window cannot take; `kind` is the sort of problem."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Encoded:
    """One row in tokens.

    Attributes:
        ids: All tokens, pictures at full length.
        labels: The same where something is learned, else -100.
        image_tokens: How many of them are placeholders.
    """

    ids: list[int]
    labels: list[int]
    image_tokens: int

    @property
    def supervised(self) -> int:
        """How many tokens are learned."""
        return sum(label != IGNORED for label in self.labels)


class ChatEncoder:
    """Encodes dialogues just as the chat model will see them.

    Args:
        processor: The model's processor, or the tokenizer of a model that takes text alone.
        image_token_id: The placeholder of a picture; None for text-only models.
        ends: Tokens that end an answer.

    Attributes:
        method: How the assistant's words are found: "template", "trl" or "comparison".

    Raises:
        UsageError: The model has no chat template.
    """

    def __init__(self, processor: Any, image_token_id: int | None, ends: Sequence[int]) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.image_token_id = image_token_id
        self.sees = image_token_id is not None
        self.ends = frozenset(ends)
        if not getattr(processor, "chat_template", None):
            raise UsageError(
                "The model has no chat template, so nobody knows how its dialogues are written; "
                "fine-tune an instruction model, or give the checkpoint a chat_template.jinja."
            )
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.builder = PromptBuilder(processor, image_token_id=image_token_id, sanitize=False)
        self.method, self.template = self._find_method()

    def control_tokens(self) -> list[str]:
        """Texts that mean something to the model; they must not stand in what people say."""
        marks = [getattr(self.processor, name, None) for name in ("image_token", "boi_token")]
        return sorted({*self.tokenizer.all_special_tokens, *(m for m in marks if m)})

    def encode(self, dialogue: Dialogue, pictures: Sequence[Any]) -> Encoded:
        """One row in tokens.

        Raises:
            EncodingError: The template does not show all of it, or nothing would be learned.
        """
        try:
            batch = self.batch([dialogue], [pictures])
        except EncodingError:
            raise
        except ValueError as error:  # the processor's own checks
            raise EncodingError("wrong shape", f"the processor refuses it: {error}") from error
        ids = batch["input_ids"][0].tolist()
        labels = batch["labels"][0].tolist()
        places = ids.count(self.image_token_id) if self.image_token_id is not None else 0
        if all(label == IGNORED for label in labels):
            raise EncodingError("no supervised token", "no token of it would be learned.")
        return Encoded(ids, labels, places)

    def batch(
        self, dialogues: Sequence[Dialogue], pictures: Sequence[Sequence[Any]]
    ) -> dict[str, Tensor]:
        """Rows padded to one length, with labels; rows without pictures may stand among others.

        Raises:
            EncodingError: A row's answers cannot be told from the rest.
        """
        said = [self._messages(d, p) for d, p in zip(dialogues, pictures, strict=True)]
        marked = self.method != "comparison"
        made = self._apply([turns for turns, _ in said], [tools for _, tools in said], marked)
        masks = made.pop("assistant_masks", None)
        ids = made["input_ids"]
        labels = torch.full_like(ids, IGNORED)
        for row, dialogue in enumerate(dialogues):
            length = int(made["attention_mask"][row].sum())
            if masks is not None:
                spans = _spans(masks[row, :length].tolist())
            else:
                spans = self._compared(dialogue, pictures[row], ids[row, :length].tolist())
            for start, end in self._learned(dialogue, spans):
                labels[row, start:end] = ids[row, start:end]
        if self.image_token_id is not None:
            labels[ids == self.image_token_id] = IGNORED
        made["labels"] = labels
        return made

    def prompt(self, dialogue: Dialogue, pictures: Sequence[Any]) -> dict[str, Tensor]:
        """What the model reads before it answers a dialogue that ends with a question."""
        turns, tools = self._messages(dialogue, pictures)
        return self._apply([turns], [tools], False, add_generation_prompt=True)

    def stops(self, encoded: Encoded) -> bool:
        """Whether the end of an answer is learned, so that the model knows when to stop."""
        return any(label in self.ends for label in encoded.labels)

    # ---- how it is done --------------------------------------------------------------------

    def _messages(
        self, dialogue: Dialogue, pictures: Sequence[Any]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
        turns: Any = dialogue.messages(pictures)
        tools: list[dict[str, Any]] = list(dialogue.tools)
        if tools or any(turn.get("tool_calls") for turn in turns):
            turns = self.builder.tool_format.prepare(turns, tools)
            tools = tools if self.builder.tool_format.shows_tools else []
        if not self.sees and pictures:
            raise EncodingError("picture refused", "the model takes no pictures; remove them.")
        reason = ""
        for way in ways_to_say(turns, self.sees):
            try:
                text = self.processor.apply_chat_template(
                    list(way), tools=tools or None, tokenize=False, chat_template=self.template
                )
            except Exception as error:  # Jinja, and whatever a template raises by itself
                reason = reason or str(error)
                continue
            said = (p.strip() for t in dialogue.turns for p in t.parts if isinstance(p, str))
            missing = next((part for part in said if part not in text), None)
            if missing is None:
                return list(way), tools or None
            reason = reason or f"the model's chat template leaves out {missing[:40]!r}"
        raise EncodingError("wrong shape", f"the chat template refuses it: {reason}.")

    def _apply(
        self,
        turns: list[list[dict[str, Any]]],
        tools: list[list[dict[str, Any]] | None],
        marked: bool,
        **options: Any,
    ) -> dict[str, Tensor]:
        if any(tools) and len(turns) > 1:  # a template sees one list of functions at a time
            pairs = zip(turns, tools, strict=True)
            rows = [self._apply([one], [own], marked, **options) for one, own in pairs]
            return _stack(rows, self.tokenizer.pad_token_id)
        padding: dict[str, Any] = {"padding": True, "padding_side": "right"}
        options |= {
            "tokenize": True,
            "return_dict": True,
            "return_tensors": "pt",
            "return_assistant_tokens_mask": marked,
            "chat_template": self.template,
            "tools": tools[0],
        }
        if self.sees:
            made = self.processor.apply_chat_template(turns, processor_kwargs=padding, **options)
        else:
            self.tokenizer.padding_side = "right"
            made = self.tokenizer.apply_chat_template(turns, padding=True, **options)
        return dict(made)

    def _learned(self, dialogue: Dialogue, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those spans that are learned; there must be one for each answer."""
        answers = [turn for turn in dialogue.turns if turn.role == "assistant"]
        if all(turn.trained for turn in answers) and spans:
            return spans
        if len(spans) != len(answers):
            raise EncodingError(
                "wrong shape",
                "the chat template does not keep its answers apart, so some cannot be left out; "
                "give every answer the weight 1.",
            )
        return [span for span, turn in zip(spans, answers, strict=True) if turn.trained]

    def _compared(
        self, dialogue: Dialogue, pictures: Sequence[Any], ids: list[int]
    ) -> list[tuple[int, int]]:
        """Where the answers stand, from the dialogue rendered up to each of them."""
        spans = []
        for place, turn in enumerate(dialogue.turns):
            if turn.role != "assistant":
                continue
            before, after = dialogue.until(place), dialogue.until(place + 1)
            shown = pictures[: len(before.pictures)]
            start = self.prompt(before, shown)["input_ids"][0].tolist()
            turns, tools = self._messages(after, shown)
            whole = self._apply([turns], [tools], False)["input_ids"][0].tolist()
            if ids[: len(start)] != start or ids[: len(whole)] != whole:
                raise EncodingError(
                    "wrong shape",
                    "the chat template marks no answers and changes earlier turns later on, so "
                    "what the assistant says cannot be found; put {% generation %} and "
                    "{% endgeneration %} around it in the template.",
                )
            end = len(whole)
            # What follows the end of the answer (a line break, mostly) belongs to nobody.
            while end > len(start) + 1 and ids[end - 1] not in self.ends and (
                self.ends & set(ids[len(start) : end])
            ):  # fmt: skip
                end -= 1
            spans.append((len(start), end))
        return spans

    def _find_method(self) -> tuple[str, str | None]:
        from trl.chat_template_utils import get_training_chat_template, has_generation_markers

        if has_generation_markers(self.processor.chat_template):
            return "template", None
        try:
            template = get_training_chat_template(self.processor)
        except Exception:  # no template of TRL's fits; the checks it makes raise by themselves
            return "comparison", None
        return ("trl", template) if template else ("comparison", None)


class ChatCollator:
    """Makes batches for the trainer from numbers of rows; pictures are read as they are needed.

    Args:
        encoder: Encodes.
        rows: The prepared rows.
        gallery: Loads pictures.
    """

    def __init__(
        self, encoder: ChatEncoder, rows: Sequence[Dialogue], gallery: Gallery | None = None
    ) -> None:
        self.encoder = encoder
        self.rows = rows
        self.gallery = gallery or Gallery()

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """The batch of some rows, those with pictures first."""
        return self.collate([self.rows[example["row"]] for example in examples])

    def collate(self, rows: Sequence[Dialogue]) -> dict[str, Tensor]:
        """The batch of some dialogues."""
        # Some processors take it ill when the first row has no picture; the order is free.
        ordered = sorted(rows, key=lambda row: not row.pictures)
        pictures = [self.pictures(row.pictures) for row in ordered]
        return self.encoder.batch(ordered, pictures)

    def pictures(self, refs: Sequence[PictureRef]) -> list[Any]:
        """The pictures of a row, decoded."""
        return [self.gallery.pil(ref) for ref in refs]


def shortened(dialogue: Dialogue) -> Dialogue | None:
    """The dialogue without its oldest exchange; None if nothing would be left to learn."""
    first = 1 if dialogue.turns[0].role == "system" else 0
    later = [i for i, t in enumerate(dialogue.turns) if t.role == "user" and i > first]
    if not later:
        return None
    turns = dialogue.turns[:first] + dialogue.turns[later[0] :]
    seen = [number for turn in turns for number in turn.pictures]
    place = {number: i for i, number in enumerate(seen)}
    moved = tuple(
        replace(t, parts=tuple(place[p] if isinstance(p, int) else p for p in t.parts))
        for t in turns
    )
    short = replace(dialogue, turns=moved, pictures=tuple(dialogue.pictures[i] for i in seen))
    return short if short.answers else None


def _spans(mask: list[int]) -> list[tuple[int, int]]:
    spans, at = [], 0
    for value, run in groupby(mask):
        length = len(list(run))
        if value:
            spans.append((at, at + length))
        at += length
    return spans


def _stack(rows: list[dict[str, Tensor]], pad: int) -> dict[str, Tensor]:
    """Rows that were encoded one by one, as a batch."""
    from torch.nn.functional import pad as padded

    longest = max(row["input_ids"].shape[1] for row in rows)
    text = ("input_ids", "attention_mask", "assistant_masks", "token_type_ids",
            "mm_token_type_ids")  # fmt: skip
    out: dict[str, Tensor] = {}
    for name in {name for row in rows for name in row}:
        parts = [row[name] for row in rows if name in row]
        if name in text:
            fill = pad if name == "input_ids" else 0
            parts = [padded(p, (0, longest - p.shape[1]), value=fill) for p in parts]
        elif len({p.shape[1:] for p in parts}) > 1:
            raise UsageError(
                "Rows with functions and pictures of different shapes cannot be in one batch for "
                "this model; set batch to 1 and raise accumulation."
            )
        out[name] = torch.cat(parts)
    return out
