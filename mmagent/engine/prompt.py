"""From a conversation to the tokens of a prompt, and to the pixels that a prefill needs.

A prompt has two lists of the same length. `ids` is what the model reads. `keys` is what the cache
compares: the same numbers, but where a picture's placeholders stand, numbers made from the
picture's hash, since the placeholders of different pictures are the same tokens.

Shapes: `ids` and `keys` are (tokens,); tensors of a prefill are (1, tokens, ...) or whatever the
processor makes of pictures.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mmagent.engine.sanitize import Sanitizer
from mmagent.engine.toolformat import ToolFormat
from mmagent.engine.turns import ways_to_say
from mmagent.errors import GenerationError, MediaError, UsageError
from mmagent.media import LoadedImage
from mmagent.messages import Conversation, Turn

__all__ = ["Prompt", "PromptBuilder"]

_TEXT_KEYS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels")


@dataclass
class Prompt:
    """Tokens of one conversation.

    Attributes:
        ids: What the model reads.
        keys: What the cache compares.
        images: The pictures, in order.
        spans: For each picture, the positions [first, last + 1) that its placeholders lie in.
        extras: Further inputs with one number per token (token types), by name.
        thinks: The prompt ends inside a thought, which the answer will end.
        grids: For each picture its frames, rows and columns of patches, where the processor of
            the model tells them.
    """

    ids: list[int]
    keys: list[int]
    images: tuple[LoadedImage, ...] = ()
    spans: list[tuple[int, int]] = field(default_factory=list)
    extras: dict[str, list[int]] = field(default_factory=dict)
    thinks: bool = False
    grids: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class _Footprint:
    """What one picture becomes in a prompt: how many placeholders, and which text around them."""

    placeholders: int
    replacement: str | None
    grid: tuple[int, ...] | None = None


class PromptBuilder:
    """Uses a processor (or, for text-only models, a tokenizer) and its chat template."""

    def __init__(
        self, processor: Any, *, image_token_id: int | None, sanitize: bool = True
    ) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.image_token_id = image_token_id
        self.sees = image_token_id is not None
        marks = [getattr(processor, name, None) for name in ("image_token", "boi_token")]
        self.sanitizer = Sanitizer(self.tokenizer, [m for m in marks if m]) if sanitize else None
        self._placeholder = self._find_placeholder([m for m in marks if m]) if self.sees else None
        self._footprints: OrderedDict[str, _Footprint] = OrderedDict()
        # Known after the first prompt with pictures: whether texts can be expanded from cached
        # footprints, giving what the processor itself gives. Otherwise it reads every picture
        # of the conversation again, each turn.
        self._expands: bool | None = None

    # ---- from turns to tokens --------------------------------------------------------------

    def build(self, conversation: Conversation) -> Prompt:
        """The prompt, ending where the answer begins.

        Raises:
            MediaError: The model takes no pictures, or its template cannot place them.
            UsageError: The chat template refuses the conversation.
        """
        text, conversation = self._checked_text(conversation)
        thinks = text.rstrip().endswith("<think>")
        if not conversation.images:
            ids = self._tokenize(text)
            return Prompt(ids, list(ids), extras=self._extras_like(ids), thinks=thinks)
        footprints = [self._footprint(image) for image in conversation.images]
        ids, extras = self._with_images(text, conversation.images, footprints)
        keys, spans = self._keys(ids, conversation.images, footprints)
        grids = [list(footprint.grid) for footprint in footprints if footprint.grid]
        return Prompt(ids, keys, conversation.images, spans, extras, thinks, grids)

    def text(self, conversation: Conversation) -> str:
        """The prompt as text, with one placeholder a picture; raises what `build` raises."""
        return self._checked_text(conversation)[0]

    def _checked_text(self, conversation: Conversation) -> tuple[str, Conversation]:
        if conversation.images and not self.sees:
            raise MediaError(
                "This model takes no images; use a vision-language model, or send text alone."
            )
        if conversation.images and self._placeholder is None:
            raise MediaError(
                "The model's chat template has no place for images; "
                "give the checkpoint a template that writes its image token, or send text alone."
            )
        if self.sanitizer is not None:
            conversation = self.sanitizer.conversation(conversation)
        return self._render(conversation), conversation

    def _render(self, conversation: Conversation) -> str:
        """The template's text, one placeholder a picture."""
        first_error: Exception | None = None
        wanted = len(conversation.images)
        turns = list(conversation.turns)
        tools = list(conversation.tools)
        if tools or any(turn.get("tool_calls") for turn in turns):
            turns = self.tool_format.prepare(turns, tools)
            tools = tools if self.tool_format.shows_tools else []
        for said in ways_to_say(turns, self.sees):
            try:
                text = self._apply_template(said, tools, add_generation_prompt=True)
            except Exception as error:  # Jinja, and whatever a template raises by itself
                first_error = first_error or error
                continue
            if not wanted or text.count(self._placeholder or "") == wanted:
                return text
        if first_error is not None:
            raise UsageError(
                f"The model's chat template refuses this conversation: {first_error}."
            ) from first_error
        raise MediaError(
            "The model's chat template does not show all pictures of this conversation; "
            "send them in user messages."
        )

    def _apply_template(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]] | None, **options: Any
    ) -> str:
        text: str = self.processor.apply_chat_template(
            list(turns), tools=list(tools or ()) or None, tokenize=False, **options
        )
        return text

    @cached_property
    def tool_format(self) -> ToolFormat:
        """How this checkpoint writes function calls."""

        def render(turns: list[Turn], tools: list[dict[str, Any]] | None) -> str:
            if self.sees:
                turns = [
                    {**turn, "content": [{"type": "text", "text": turn["content"]}]}
                    for turn in turns
                ]
            return self._apply_template(turns, tools)

        return ToolFormat.of(render, frozenset(self.tokenizer.all_special_tokens))

    @cached_property
    def reasons(self) -> bool:
        """Whether the checkpoint is one that writes thoughts before its answers."""
        template = getattr(self.processor, "chat_template", None)
        return "</think>" in str(template) or "</think>" in self.tokenizer.get_added_vocab()

    def _tokenize(self, text: str) -> list[int]:
        bos = self.tokenizer.bos_token
        # Processors add the tokens that a template left out; tokenizers leave that to templates.
        adds = self.sees and not (bos and text.startswith(bos))
        ids: list[int] = self.tokenizer(text, add_special_tokens=adds)["input_ids"]
        return ids

    # ---- pictures --------------------------------------------------------------------------

    def pixels(self, images: Sequence[LoadedImage]) -> dict[str, Any]:
        """Tensors for these pictures alone, in the layout of this processor."""
        if not images:
            return {}
        made = self._process(" ".join([self._placeholder or ""] * len(images)), images)
        return {name: value for name, value in made.items() if name not in _TEXT_KEYS}

    def _process(self, text: str, images: Sequence[LoadedImage]) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # between NumPy and torch
                return self.processor(
                    text=[text],
                    images=[[image.pil() for image in images]],
                    return_tensors="pt",
                    **self._special_tokens_for(text),
                )
        except Exception as error:
            raise GenerationError(
                f"The model's processor cannot read the pictures ({type(error).__name__}: {error})."
            ) from error

    def _special_tokens_for(self, text: str) -> dict[str, Any]:
        bos = self.tokenizer.bos_token
        return {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def _footprint(self, image: LoadedImage) -> _Footprint:
        known = self._footprints.get(image.sha256)
        if known is not None:
            self._footprints.move_to_end(image.sha256)
            return known
        replacement, grid = None, None
        if self._expands is not False:
            replacement, grid = self._replacement(image)
        if replacement is not None:
            ids = self.tokenizer(replacement, add_special_tokens=False)["input_ids"]
        else:
            made = self._process(self._placeholder or "", [image])
            ids, grid = made["input_ids"][0].tolist(), _grid_of(made)
        footprint = _Footprint(ids.count(self.image_token_id), replacement, grid)
        self._footprints[image.sha256] = footprint
        while len(self._footprints) > 4096:
            self._footprints.popitem(last=False)
        return footprint

    def _replacement(self, image: LoadedImage) -> tuple[str | None, tuple[int, ...] | None]:
        """The text that the processor puts in a picture's place, if it works that way."""
        try:
            options = self.processor._merge_kwargs(
                tokenizer_init_kwargs=self.tokenizer.init_kwargs, return_tensors="pt"
            )["images_kwargs"]
            made, replacements = self.processor._process_images([[image.pil()]], **options)
            return str(replacements[0]), _grid_of(made)
        except Exception:  # an older way of processing; the processor itself does it then
            self._expands = False
            return None, None

    def _with_images(
        self, text: str, images: Sequence[LoadedImage], footprints: list[_Footprint]
    ) -> tuple[list[int], dict[str, list[int]]]:
        expanded = self._expand(text, footprints) if self._expands is not False else None
        if expanded is not None and self._expands:
            return expanded
        made = self._process(text, images)
        ids = made["input_ids"][0].tolist()
        extras = {
            name: made[name][0].tolist()
            for name in ("token_type_ids", "mm_token_type_ids")
            if name in made
        }
        self._expands = expanded == (ids, extras)
        self._extra_names = tuple(extras)
        return ids, extras

    _extra_names: tuple[str, ...] = ()

    def _expand(
        self, text: str, footprints: list[_Footprint]
    ) -> tuple[list[int], dict[str, list[int]]] | None:
        if self._placeholder is None or any(f.replacement is None for f in footprints):
            return None
        pieces = text.split(self._placeholder)
        whole = pieces[0]
        for footprint, piece in zip(footprints, pieces[1:], strict=True):
            whole += f"{footprint.replacement}{piece}"
        ids = self._tokenize(whole)
        return ids, self._extras_like(ids)

    def _extras_like(self, ids: list[int]) -> dict[str, list[int]]:
        if not self.sees:
            return {}
        kinds = [int(token == self.image_token_id) for token in ids]
        names = self._extra_names or self._extra_names_from_processor()
        return {name: list(kinds) for name in names}

    def _extra_names_from_processor(self) -> tuple[str, ...]:
        try:
            made = self.processor(text=["a"])
        except ValueError:  # one that reads no text without a picture
            made = self.processor.model_input_names
        self._extra_names = tuple(
            name for name in ("token_type_ids", "mm_token_type_ids") if name in made
        )
        return self._extra_names

    def _keys(
        self, ids: list[int], images: Sequence[LoadedImage], footprints: list[_Footprint]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        places = [at for at, token in enumerate(ids) if token == self.image_token_id]
        counts = [footprint.placeholders for footprint in footprints]
        names = [image.sha256 for image in images]
        if sum(counts) != len(places):
            # How many placeholders a picture has depends on the others here: then only all of
            # them together have an identity.
            names, counts = [hashlib.sha256("".join(names).encode()).hexdigest()], [len(places)]
        keys, spans, used = list(ids), [], 0
        for name, count in zip(names, counts, strict=True):
            mine = places[used : used + count]
            used += count
            for at in mine:
                keys[at] = -1 - int(name[:15], 16)
            spans.append((mine[0], mine[-1] + 1) if mine else (0, 0))
        if len(spans) < len(images):
            spans = spans * len(images)
        return keys, spans

    def _find_placeholder(self, candidates: list[str]) -> str | None:
        """The token that the template writes once for a picture."""
        probe = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}]
        try:
            text = self.processor.apply_chat_template(probe, tokenize=False)
        except Exception:
            return None
        return next((token for token in candidates if text.count(token) == 1), None)


def _grid_of(made: Any) -> tuple[int, ...] | None:
    """Frames, rows and columns of patches of the one picture that a processor made."""
    grid = made.get("image_grid_thw")
    return None if grid is None else tuple(int(number) for number in grid[0])
