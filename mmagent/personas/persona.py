"""`Persona`: who the assistant is, and how that reads in a prompt."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, field_validator

from mmagent.errors import PersonaError
from mmagent.personas import cards, containers
from mmagent.personas.assets import main_icon, read_asset
from mmagent.personas.cards import CARD_FIELDS, CardSource, Spec
from mmagent.personas.charx import write_charx
from mmagent.personas.lorebook import Lorebook, read_lorebook
from mmagent.personas.macros import MacroContext
from mmagent.personas.png import PNG_SIGNATURE
from mmagent.personas.prompt import (
    Dialogue,
    parse_examples,
    render,
    render_system_prompt,
    with_original,
)
from mmagent.personas.reading import explain, read_file
from mmagent.personas.report import ImportReport, dialect_of, report_on
from mmagent.personas.shelf import SUFFIXES, shelf_path
from mmagent_prompts import CatalogueError, entry_names, load_yaml, read_entry

__all__ = ["Persona"]

_CARD_MARKS = {"spec", "first_mes", "mes_example", "char_name", "context"}


class Persona(BaseModel):
    """A character: its instructions, description, greetings, examples and lore.

    It comes from the catalogue, from a YAML file of ours, or from a Character Card (V1, V2, V3;
    PNG, JSON or CHARX) with every field of it. `{{char}}` and `{{user}}` in the texts stand for the
    names.

    Attributes:
        name: The full name; never empty.
        nickname: What `{{char}}` becomes, if not the name.
        language: The language it speaks ("en", "zh", …); decides the labels in the prompt.
        instructions: The card's `system_prompt`. `{{original}}` in it is our default.
        description: Who it is.
        personality: A short list of traits.
        scenario: Where the conversation takes place.
        greeting: The first message; the card's `first_mes`.
        alternate_greetings: Other first messages.
        group_only_greetings: First messages for conversations of several characters.
        examples: Example conversations, each after a line `<START>`; the card's `mes_example`.
        post_history_instructions: What is said to the model after the conversation so far.
        lorebook: The card's `character_book`, as it stands there.
        creator_notes: For people; never in a prompt.
        adapter: A fine-tuned adapter to use with this persona: a folder, in a file's persona also
            one beside the file.
        extensions: What other programs keep in the card.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    nickname: str | None = None
    language: str = "en"
    instructions: str = ""
    description: str = ""
    personality: str = ""
    scenario: str = ""
    greeting: str = ""
    alternate_greetings: list[str] = []
    group_only_greetings: list[str] = []
    examples: str = ""
    post_history_instructions: str = ""
    lorebook: dict[str, Any] | None = None
    tags: list[str] = []
    creator: str = ""
    creator_notes: str = ""
    creator_notes_multilingual: dict[str, str] = {}
    character_version: str = ""
    source: list[str] = []
    creation_date: int | None = None
    modification_date: int | None = None
    assets: list[dict[str, Any]] | None = None
    adapter: str | None = None
    extensions: dict[str, Any] = {}

    _card: CardSource | None = PrivateAttr(default=None)
    _catalogue_name: str | None = PrivateAttr(default=None)
    _folder: Path | None = PrivateAttr(default=None)

    @field_validator("name")
    @classmethod
    def _name_is_not_empty(cls, name: str) -> str:
        if not name.strip():
            raise ValueError("the name is empty; give the persona a name")
        return name

    def __eq__(self, other: object) -> bool:
        """Whether all fields are equal; where a persona was read from does not count."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # its fields can be changed

    # Reading

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Return a persona of the catalogue or the user's own, or the one in a file.

        Args:
            name_or_path: A name such as "mia", or the path of a `.yaml`,
                `.json`, `.png` or `.charx` file.

        Raises:
            PersonaError: There is no such persona or file, or it cannot be used.
        """
        path = Path(name_or_path)
        is_path = isinstance(name_or_path, Path) or "/" in name_or_path
        # Risu writes CHARX files whose names end in .jpeg; no name of a persona has a dot.
        if is_path or path.suffix.lower() in SUFFIXES or (path.suffix and path.is_file()):
            persona = cls.from_bytes(read_file(path), source=path.name)
            persona._folder = path.parent
            return persona
        name = str(name_or_path)
        own = shelf_path(name)
        try:
            # A file that happens to lie here must not stand in for a name: names come first.
            if name not in entry_names("personas") and own is not None:
                persona = cls.from_bytes(read_file(own), source=own.name)
            else:
                persona = cls._validated(read_entry("personas", name), name)
        except CatalogueError as error:
            raise PersonaError(f"{error} Name one of these, or the path of a file.") from error
        persona._catalogue_name = name
        return persona

    @staticmethod
    def catalogue() -> list[str]:
        """Return the names of the personas that ship with the package."""
        return entry_names("personas")

    @classmethod
    def from_yaml(cls, text_or_path: str | Path) -> Self:
        """Return the persona of a YAML file, or of a YAML text (of more than one line).

        Raises:
            PersonaError: The file is absent, not YAML, or has an unknown or wrong field.
        """
        if isinstance(text_or_path, Path) or "\n" not in text_or_path:
            path = Path(text_or_path)
            return cls._from_yaml_bytes(read_file(path), path.name)
        return cls._from_yaml_bytes(text_or_path.encode("utf-8", "replace"), "the YAML text")

    @classmethod
    def from_card(cls, card: str | Path | bytes | dict[str, Any]) -> Self:
        """Return the persona of a character card: a file, its bytes, or its JSON as a dict.

        Raises:
            PersonaError: The card is absent, damaged, or holds no usable character.
        """
        if isinstance(card, dict):
            containers.check_depth(card, "the card")
            document = copy.deepcopy(card)
            return cls._of_source(CardSource(cards.spec_of(document), document), "the card")
        if isinstance(card, bytes):
            return cls._of_source(containers.read_card(card, "the card"), "the card")
        path = Path(card)
        return cls._of_source(containers.read_card(read_file(path), path.name), path.name)

    @classmethod
    def from_bytes(cls, data: bytes, *, source: str = "the file") -> Self:
        """Return the persona in the bytes of a file of any form: PNG, JSON, CHARX, YAML.

        Args:
            data: The file.
            source: What to call it in errors.

        Raises:
            PersonaError: No persona can be read from it.
        """
        if containers.is_card_file(data):
            return cls._of_source(containers.read_card(data, source), source)
        return cls._from_yaml_bytes(data, source)

    @classmethod
    def _from_yaml_bytes(cls, data: bytes, source: str) -> Self:
        try:
            document = load_yaml(data, source=source)
        except CatalogueError as error:
            raise PersonaError(str(error)) from error
        if not isinstance(document, dict):
            raise PersonaError(
                f"{source} is neither a persona (a YAML mapping with at least `name`) "
                "nor a character card."
            )
        if _CARD_MARKS & document.keys():
            containers.check_depth(document, source)
            return cls._of_source(CardSource(cards.spec_of(document), document, "yaml"), source)
        return cls._validated(document, source)

    @classmethod
    def _of_source(cls, card: CardSource, source: str) -> Self:
        persona = cls._validated(cards.fields_of(card), source)
        persona._card = card
        return persona

    @classmethod
    def _validated(cls, values: dict[Any, Any], source: str) -> Self:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise PersonaError(explain(error, source, list(cls.model_fields))) from None

    # Writing

    def to_card(self, spec: Spec | None = None) -> dict[str, Any]:
        """Return the persona as a Character Card document.

        Args:
            spec: "v1", "v2" or "v3"; if not given, the version it was read from, else "v3".
        """
        values = {name: getattr(self, name) for name in CARD_FIELDS.values()}
        return cards.build_document(values, self._card, spec)

    def to_json(self, spec: Spec | None = None) -> bytes:
        """Return the card document as JSON; an unchanged card's own bytes."""
        document = self.to_card(spec)
        card = self._card
        if card is not None and card.raw_json is not None and document == card.document:
            return card.raw_json
        # ASCII, since cards may hold lone surrogates that UTF-8 cannot carry.
        return json.dumps(document, indent=2).encode("ascii")

    def to_yaml(self) -> str:
        """Return the persona in our YAML, without the fields that are empty."""
        # What may be absent is told from what is empty: a date of 0 says that nobody knows it.
        maybe = {name for name, about in type(self).model_fields.items() if about.default is None}
        values = {
            name: value
            for name, value in self.model_dump().items()
            if value or (name in maybe and value is not None)
        }
        return yaml.safe_dump(values, allow_unicode=True, sort_keys=False, width=96)

    def to_png(self, picture: bytes | None = None, spec: Spec | None = None) -> bytes:
        """Return a PNG with the card in it.

        Args:
            picture: The PNG to put it into; if not given, the one it was read from.
            spec: As in `to_card`.

        Raises:
            PersonaError: There is no picture, or it is not a PNG.
        """
        card, raw_json = self._card, self.to_json(spec)
        own = card.picture if card is not None else None
        if card is not None and own and picture is None and raw_json == card.raw_json:
            return own
        picture = picture or own
        if picture is None or not picture.startswith(PNG_SIGNATURE):
            raise PersonaError(f"A card of {self.name} needs a picture; pass the bytes of a PNG.")
        written = cards.spec_of(self.to_card(spec))
        return containers.card_in_png(picture, raw_json, written, self.to_json("v2"))

    def to_charx(self) -> bytes:
        """Return a CHARX file (V3) with the card; an imported one keeps its assets.

        Raises:
            PersonaError: An asset of the imported file is damaged.
        """
        archive = self._card.archive if self._card else None
        raw_json = self.to_json("v3")
        if archive is not None and raw_json == getattr(self._card, "raw_json", None):
            return archive
        return write_charx(raw_json, archive)

    def export(self, path: str | Path, *, picture: bytes | None = None) -> None:
        """Write the persona to a file; the suffix (.yaml, .json, .png, .charx) names the form.

        Raises:
            PersonaError: The suffix is another one, or the file cannot be written.
        """
        target = Path(path)
        suffix = target.suffix.lower()
        if suffix in (".yaml", ".yml"):
            data = self.to_yaml().encode("utf-8", "replace")
        elif suffix == ".json":
            data = self.to_json()
        elif suffix == ".png":
            data = self.to_png(picture)
        elif suffix == ".charx":
            data = self.to_charx()
        else:
            raise PersonaError(
                f"{target.name}: name a file that ends in .yaml, .json, .png or .charx."
            )
        try:
            target.write_bytes(data)
        except OSError as error:
            raise PersonaError(f"{target} cannot be written: {error.strerror}.") from error

    # What came with it

    @property
    def import_report(self) -> ImportReport | None:
        """What was read, guessed and left without effect of the card; None if it is no card."""
        return report_on(self._card) if self._card is not None else None

    @property
    def picture(self) -> bytes | None:
        """The character's picture, if the card holds one."""
        return main_icon(self._card, self.assets) if self._card is not None else None

    def asset(self, uri: str) -> bytes:
        """Return the bytes of one of `assets` by its `uri`; nothing is fetched from the web.

        Raises:
            PersonaError: The card does not hold it.
        """
        if self._card is None:
            raise PersonaError(f"{self.name} was not read from a card, so it holds no assets.")
        return read_asset(self._card, uri)

    # Speaking

    @property
    def key(self) -> str:
        """What its memories are filed under: the catalogue's name, or its own in lower case."""
        return self._catalogue_name or self.name.strip().casefold()

    @property
    def adapter_path(self) -> str | None:
        """Where its adapter is: beside the file that it was read from, or else as it is named."""
        if self.adapter is None or self._folder is None:
            return self.adapter
        beside = self._folder / self.adapter
        return str(beside) if beside.is_dir() else self.adapter

    @property
    def spoken_name(self) -> str:
        """What `{{char}}` stands for: the nickname if there is one, else the name."""
        return self.nickname if self.nickname and self.nickname.strip() else self.name

    def system_prompt(
        self,
        *,
        user: str,
        developer: str | None = None,
        max_example_chars: int = 0,
        macros: MacroContext | None = None,
    ) -> str:
        """Return the system prompt, with the lore that is always said.

        Args:
            user: Whom the persona talks with.
            developer: The application's own instructions. They stand first, and the persona's
                are said to give way to them: a card may have been written by anybody.
            max_example_chars: How many characters of whole example conversations to add.
            macros: What macros of chance and time depend on.
        """
        constant = [e for e in self.lore.entries if e.is_static]
        before = [entry.content for entry in constant if entry.place == "before"]
        after = [entry.content for entry in constant if entry.place == "after"]
        return render_system_prompt(
            self, user, developer, max_example_chars, macros, (before, after)
        )

    def first_message(self, *, user: str, macros: MacroContext | None = None) -> str:
        """Return the greeting, or "" if the persona waits to be spoken to."""
        return render(self.greeting, self.spoken_name, user, macros)

    def first_messages(self, *, user: str, macros: MacroContext | None = None) -> list[str]:
        """Return the greeting and its alternatives; the first is the default."""
        texts = [self.greeting, *self.alternate_greetings]
        return [render(text, self.spoken_name, user, macros) for text in texts if text.strip()]

    def example_dialogues(self, *, user: str) -> list[Dialogue]:
        """Return the example conversations, each a list of (speaker, words)."""
        return parse_examples(self.examples, self.spoken_name, user)

    def closing_instructions(self, *, user: str, macros: MacroContext | None = None) -> str:
        """Return the post-history instructions; `{{original}}` in them stands for nothing."""
        text = with_original(self.post_history_instructions, "")
        return render(text, self.spoken_name, user, macros)

    @property
    def lore(self) -> Lorebook:
        """The card's book, read."""
        return self.lore_for("")

    def lore_for(self, user: str) -> Lorebook:
        """Return the card's book, with the names filled into its keys."""
        dialect = dialect_of(self._card.document) if self._card is not None else "spec"
        names = {"char": self.spoken_name, "user": user} if user else None
        return read_lorebook(self.lorebook, dialect, names)
