"""`mmagent finetune`: the group; each command is loaded when it is asked for.

The options of a training command are the settings themselves (`mmagent.finetune.config`), so
that the YAML file, the command line and the documentation cannot drift apart. Reading them takes
pydantic, which `mmagent --help` must not load: hence the group finds its commands lazily.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["COMMANDS", "app"]

COMMANDS: dict[str, tuple[str, str]] = {
    "chat": ("mmagent.cli.finetune_chat", "chat_command"),
    "vqa": ("mmagent.cli.finetune_objectives", "vqa_command"),
    "match": ("mmagent.cli.finetune_objectives", "match_command"),
    "embed": ("mmagent.cli.finetune_objectives", "embed_command"),
    "classify": ("mmagent.cli.finetune_objectives", "classify_command"),
    "pretrain": ("mmagent.cli.finetune_objectives", "pretrain_command"),
    "inspect": ("mmagent.cli.finetune_chat", "inspect_command"),
    "evaluate": ("mmagent.cli.finetune_after", "evaluate"),
    "export": ("mmagent.cli.finetune_after", "export"),
    "example-data": ("mmagent.cli.finetune_after", "example_data"),
    "rate": ("mmagent.cli.finetune_after", "rate"),
    "fsdp-config": ("mmagent.cli.finetune_after", "fsdp_config"),
}
"""Name of each command, with the module and the name of its function."""


class _Command(TyperCommand):
    """Sets long options above their help where two columns do not fit the terminal."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        if formatter.width >= 60:
            super().format_options(ctx, formatter)
            return
        records = [found for p in self.get_params(ctx) if (found := p.get_help_record(ctx))]
        with formatter.section("Options"):
            for option, words in records:
                for number, name in enumerate(option.split(" / ")):
                    formatter.write_text(name if not number else f"  / {name}")
                formatter.indent()
                formatter.write_text(words)
                formatter.dedent()


class _LazyGroup(TyperGroup):
    """Imports the module of a command when the command is looked at."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, function = COMMANDS[cmd_name]
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        settings = {"help_option_names": ["-h", "--help"]}
        single.command(cmd_name, cls=_Command, context_settings=settings)(
            getattr(importlib.import_module(module), function)
        )
        return typer.main.get_command(single)


app = typer.Typer(
    cls=_LazyGroup,
    help="Teach a model from dialogues, look into the data, measure, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _group() -> None:
    """Teach a model from dialogues, look into the data, measure, export."""
