"""From a conversation to the tokens of a prompt, and to the pixels and sound a prefill needs.

A prompt has two lists of the same length. `ids` is what the model reads. `keys` is what the cache
compares: the same numbers, but where the placeholders of a picture or a recording stand, numbers
made from its hash, since the placeholders of different pictures are the same tokens.

Shapes: `ids` and `keys` are (tokens,); tensors of a prefill are (1, tokens, ...) or whatever the
processor makes of pictures and sound.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mmagent.engine.hearing import Ear
from mmagent.engine.placeholders import Footprint, Footprints, Medium, place
from mmagent.engine.sanitize import Sanitizer
from mmagent.engine.toolformat import ToolFormat
from mmagent.engine.turns import ways_to_say
from mmagent.errors import GenerationError, MediaError, UsageError
from mmagent.media import LoadedImage
from mmagent.messages import Conversation, Turn
from mmagent.sounds import NO_SOUND, LoadedSound

__all__ = ["Prompt", "PromptBuilder", "encodable"]

_TEXT_KEYS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels")


@dataclass
class Prompt:
    """Tokens of one conversation.

    Attributes:
        ids: What the model reads.
        keys: What the cache compares.
        media: The pictures and recordings, in the order of their placeholders.
        spans: For each of them, the positions [first, last + 1) that its placeholders lie in.
        extras: Further inputs with one number per token (token types), by name.
        thinks: The prompt ends inside a thought, which the answer will end.
        grids: For each picture its frames, rows and columns of patches, where the processor of
            the model tells them.
    """

    ids: list[int]
    keys: list[int]
    media: tuple[Medium, ...] = ()
    spans: list[tuple[int, int]] = field(default_factory=list)
    extras: dict[str, list[int]] = field(default_factory=dict)
    thinks: bool = False
    grids: list[list[int]] = field(default_factory=list)

    @property
    def images(self) -> list[LoadedImage]:
        """The pictures, in order."""
        return [medium for medium in self.media if isinstance(medium, LoadedImage)]


class PromptBuilder:
    """Uses a processor (or, for text-only models, a tokenizer) and its chat template."""

    def __init__(
        self,
        processor: Any,
        *,
        image_token_id: int | None,
        audio_token_id: int | None = None,
        sanitize: bool = True,
    ) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.image_token_id = image_token_id
        self.audio_token_id = audio_token_id
        self.sees = image_token_id is not None
        self.hears = audio_token_id is not None
        self.ear = Ear(processor) if self.hears else None
        named = [getattr(processor, name, None) for name in ("image_token", "boi_token")]
        marks = [mark for mark in named if mark]
        heard = self.ear.marks if self.ear else []
        self.sanitizer = Sanitizer(self.tokenizer, [*marks, *heard]) if sanitize else None
        self._placeholder = self._find_placeholder("image", marks) if self.sees else None
        self._mark = self._find_placeholder("audio", heard) if self.hears else None
        self._footprints = Footprints()
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
        images, sounds = conversation.images, conversation.sounds
        if not images and not sounds:
            ids = self._tokenize(text)
            return Prompt(ids, list(ids), extras=self._extras_like(ids), thinks=thinks)
        seen = [self._footprint(image) for image in images]
        heard = [self._sound_footprint(sound) for sound in sounds]
        ids, extras = self._with_media(text, images, sounds, seen, heard)
        keys = list(ids)
        placed = [
            *place(keys, self.image_token_id, images, seen),
            *place(keys, self.audio_token_id, sounds, heard),
        ]
        placed.sort(key=lambda one: one[0])  # stable: media that share a span keep their order
        grids = [list(footprint.grid) for footprint in seen if footprint.grid]
        media = tuple(medium for _, medium in placed)
        return Prompt(ids, keys, media, [span for span, _ in placed], extras, thinks, grids)

    def text(self, conversation: Conversation) -> str:
        """The prompt as text, one placeholder a picture or recording; raises what `build` does."""
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
        if conversation.sounds and not self.hears:
            raise MediaError(NO_SOUND)
        if conversation.sounds and self._mark is None:
            raise MediaError(
                "The model's chat template has no place for sound; give the checkpoint a template "
                "that writes its audio token, or pass ChatMMAgent(transcriber=...)."
            )
        try:
            if self.sanitizer is not None:
                conversation = self.sanitizer.conversation(conversation)
            return encodable(self._render(conversation)), conversation
        except RecursionError:
            raise UsageError(
                "A message or a tool holds values that are nested too deeply; flatten them."
            ) from None

    def _render(self, conversation: Conversation) -> str:
        """The template's text, one placeholder a picture or recording."""
        first_error: Exception | None = None
        wanted = {self._placeholder: len(conversation.images), self._mark: len(conversation.sounds)}
        turns = list(conversation.turns)
        tools = list(conversation.tools)
        if tools or any(turn.get("tool_calls") for turn in turns):
            turns = self.tool_format.prepare(turns, tools)
            tools = tools if self.tool_format.shows_tools else []
        for said in ways_to_say(turns, self.takes_parts):
            try:
                text = self._apply_template(said, tools, add_generation_prompt=True)
            except Exception as error:  # Jinja, and whatever a template raises by itself
                first_error = first_error or error
                continue
            if all(text.count(mark) == count for mark, count in wanted.items() if mark and count):
                return text
        if first_error is not None:
            raise UsageError(
                f"The model's chat template refuses this conversation: {first_error}."
            ) from first_error
        raise MediaError(
            "The model's chat template does not show all pictures and sounds of this "
            "conversation; send them in user messages."
        )

    def _apply_template(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]] | None, **options: Any
    ) -> str:
        text: str = self.processor.apply_chat_template(
            list(turns), tools=list(tools or ()) or None, tokenize=False, **options
        )
        return text

    @property
    def takes_parts(self) -> bool:
        """The chat template takes content in parts; those of text-only models take strings."""
        return self.sees or self.hears

    @cached_property
    def tool_format(self) -> ToolFormat:
        """How this checkpoint writes function calls."""

        def render(turns: list[Turn], tools: list[dict[str, Any]] | None) -> str:
            if self.takes_parts:
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
        adds = self.takes_parts and not (bos and text.startswith(bos))
        # That it is too long is told with the counts, not by a warning of the tokenizer's.
        made = self.tokenizer(text, add_special_tokens=adds, verbose=False)
        ids: list[int] = made["input_ids"]
        return ids

    # ---- pictures and sound ----------------------------------------------------------------

    def pixels(self, images: Sequence[LoadedImage]) -> dict[str, Any]:
        """Tensors for these pictures alone, in the layout of this processor."""
        if not images:
            return {}
        made = self._process(" ".join([self._placeholder or ""] * len(images)), images)
        return {name: value for name, value in made.items() if name not in _TEXT_KEYS}

    def sounds(self, sounds: Sequence[LoadedSound]) -> dict[str, Any]:
        """Tensors for these recordings alone, in the layout of this processor."""
        return self.ear.read(sounds)[0] if sounds and self.ear is not None else {}

    def _process(
        self, text: str, images: Sequence[LoadedImage], sounds: Sequence[LoadedSound] = ()
    ) -> Any:
        given: dict[str, Any] = {"images": [[image.pil() for image in images]]} if images else {}
        if sounds and self.ear is not None:
            rate = self.ear.rate
            given["audio"] = [sound.samples(rate) for sound in sounds]
            given["sampling_rate"] = rate
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # between NumPy and torch
                return self.processor(
                    text=[text], return_tensors="pt", **given, **self._special_tokens_for(text)
                )
        except Exception as error:
            raise GenerationError(
                "The model's processor cannot read the pictures or the sound "
                f"({type(error).__name__}: {error})."
            ) from error

    def _special_tokens_for(self, text: str) -> dict[str, Any]:
        bos = self.tokenizer.bos_token
        return {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def _footprint(self, image: LoadedImage) -> Footprint:
        if (known := self._footprints.get(image.sha256)) is not None:
            return known
        replacement, grid = None, None
        if self._expands is not False:
            replacement, grid = self._replacement(image)
        if replacement is not None:
            ids = self.tokenizer(replacement, add_special_tokens=False)["input_ids"]
        else:
            made = self._process(self._placeholder or "", [image])
            ids, grid = made["input_ids"][0].tolist(), _grid_of(made)
        footprint = Footprint(ids.count(self.image_token_id), replacement, grid)
        return self._footprints.keep(image.sha256, footprint)

    def _sound_footprint(self, sound: LoadedSound) -> Footprint:
        name = f"sound {sound.sha256}"  # the frames of a film and its sound are the same bytes
        if (known := self._footprints.get(name)) is not None:
            return known
        assert self.ear is not None
        replacement = self.ear.text(sound)
        ids = self.tokenizer(replacement, add_special_tokens=False)["input_ids"]
        return self._footprints.keep(name, Footprint(ids.count(self.audio_token_id), replacement))

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

    def _with_media(
        self,
        text: str,
        images: Sequence[LoadedImage],
        sounds: Sequence[LoadedSound],
        seen: list[Footprint],
        heard: list[Footprint],
    ) -> tuple[list[int], dict[str, list[int]]]:
        expanded = self._expand(text, seen, heard) if self._expands is not False else None
        # What stands for a recording is known from the processor itself; only of pictures it has
        # to be seen first that nothing else is done to the text.
        if expanded is not None and (self._expands or not images):
            return expanded
        made = self._process(text, images, sounds)
        ids = made["input_ids"][0].tolist()
        extras = {
            name: made[name][0].tolist()
            for name in ("token_type_ids", "mm_token_type_ids")
            if name in made
        }
        self._expands = expanded == (ids, extras)
        self._extra_names = tuple(extras)
        return ids, extras

    def _expand(
        self, text: str, seen: list[Footprint], heard: list[Footprint]
    ) -> tuple[list[int], dict[str, list[int]]] | None:
        if any(footprint.replacement is None for footprint in seen):
            return None
        pieces = {
            mark: iter(footprints)
            for mark, footprints in ((self._placeholder, seen), (self._mark, heard))
            if mark and footprints
        }
        pattern = "|".join(re.escape(mark) for mark in pieces)
        whole = re.sub(pattern, lambda mark: str(next(pieces[mark[0]]).replacement), text)
        ids = self._tokenize(whole)
        return ids, self._extras_like(ids)

    _extra_names: tuple[str, ...] = ()

    def _extras_like(self, ids: list[int]) -> dict[str, list[int]]:
        if not self.takes_parts:
            return {}
        # As transformers numbers them: 1 a picture, 3 sound.
        kinds = [
            3 if self.hears and token == self.audio_token_id else int(token == self.image_token_id)
            for token in ids
        ]
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

    def _find_placeholder(self, kind: str, candidates: list[str]) -> str | None:
        """The token that the template writes once for a picture (or a recording)."""
        probe = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": "x"}]}]
        try:
            text = self.processor.apply_chat_template(probe, tokenize=False)
        except Exception:
            return None
        return next((token for token in candidates if text.count(token) == 1), None)


def encodable(text: str) -> str:
    """The text with U+FFFD for halves of characters, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _grid_of(made: Any) -> tuple[int, ...] | None:
    """Frames, rows and columns of patches of the one picture that a processor made."""
    grid = made.get("image_grid_thw")
    return None if grid is None else tuple(int(number) for number in grid[0])
