"""Command-line options made from settings: `lora.r` of the YAML file is `--lora-r` here."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel

from mmagent.finetune.config import Settings, is_list, leaves, load_settings, without_none

__all__ = ["settings_command"]

_SHORT = {"from_memory.folder": "--from-memory", "from_memory.user": "--user",
          "from_memory.persona": "--persona", "from_memory.rated_only": "--rated-only",
          "from_memory.consent": "--consent", "from_memory.redact": "--redact",
          "from_memory.names": "--redact-name"}  # fmt: skip


def settings_command(
    kind: type[Settings],
    action: Callable[..., None],
    extra: dict[str, tuple[Any, Any]] | None = None,
) -> Callable[..., None]:
    """A function for typer whose options are the settings of `kind`.

    Args:
        kind: The settings.
        action: Is called with the settings, and with the extra options by name. Its docstring is
            the help.
        extra: Further options: name to (annotation, default).
    """
    names: dict[str, str] = {}
    parameters = [
        inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Path | None,
                typer.Option("--config", metavar="FILE", help="A YAML file of settings."),
            ],
        )
    ]
    for name, annotation, field in leaves(kind):
        parameter = name.replace(".", "__")
        names[parameter] = name
        parameters.append(
            inspect.Parameter(
                parameter,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=_option(name, annotation, field),
            )
        )
    for name, (annotation, default) in (extra or {}).items():
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
        )

    def command(**given: Any) -> None:
        file = given.pop("config")
        overrides = {
            names[key]: given.pop(key)
            for key in list(given)
            if key in names and given[key] not in (None, [])
        }
        for key in set(names) & set(given):
            del given[key]
        action(load_settings(kind, file, overrides), **given)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = action.__doc__
    return command


def _option(name: str, annotation: Any, field: Any) -> Any:
    """The annotation of one option."""
    flag = _SHORT.get(name, f"--{name.replace('.', '-').replace('_', '-')}")
    inner = without_none(annotation)
    several = is_list(inner)
    if get_origin(inner) is Annotated:
        inner = get_args(inner)[0]
    item = get_args(inner)[0] if several else inner
    choices = get_args(item) if get_origin(item) is typing.Literal else ()
    help_ = str(field.description or "")
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel) or default is None or default == []:
        shown = ""
    elif isinstance(default, list):
        shown = f" [default: {', '.join(map(str, default))}]"
    else:
        shown = f" [default: {str(default).lower() if isinstance(default, bool) else default}]"
    if choices and not several:
        help_ = f"{help_} One of {', '.join(choices)}."
    help_ += shown
    if item is bool:
        both = f"{flag}/--no-{flag.removeprefix('--')}"
        if len(both) > 34:  # help has to fit a narrow terminal: then what is not the default
            both = f"/--no-{flag.removeprefix('--')}" if default else flag
        option = typer.Option(both, help=help_)
        return Annotated[bool | None, option]
    value: Any = str if choices else item
    if value not in (str, int, float, Path):
        value = str
    metavar = {str: "TEXT", int: "N", float: "X", Path: "PATH"}[value]
    option = typer.Option(flag, metavar=metavar, help=help_, show_default=False)
    return Annotated[list[value] | None, option] if several else Annotated[value | None, option]
