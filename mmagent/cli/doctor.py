"""`mmagent doctor`: what is installed, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mmagent.cli.screen import colour, print_json

__all__ = ["doctor"]

_NEEDED = (
    "langchain",
    "langchain-core",
    "langgraph",
    "transformers",
    "torch",
    "peft",
    "faiss-cpu",
    "numpy",
    "Pillow",
)
# What some models or commands need: the module, what for, and how to get it.
_EXTRAS = (
    ("torchvision", "models whose processor handles video (Qwen-VL, SmolVLM, InternVL)",
     "pip install torchvision"),
    ("resvg_py", "making the bundled model's training data", "pip install 'mmagent[train]'"),
    ("pytest", "running the tests", "pip install 'mmagent[dev]'"),
)  # fmt: skip


@dataclass
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        state: `ok`, `missing` (optional), or `broken`.
        detail: What was found.
        remedy: What to do, if anything.
    """

    what: str
    state: str
    detail: str
    remedy: str = ""


def doctor(
    memory: Annotated[
        Path | None,
        typer.Option("--memory", metavar="FOLDER", help="A memory folder to look at."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="A model to load and look at."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at versions, devices, the model and the memory.

    Says what is missing and which command helps. The exit code is 1 if
    something that is needed is broken.
    """
    findings = [*_packages(), *_devices(), _model(), *_engine(model), _memory(memory), *_extras()]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        marks = {"ok": colour("ok", "green"), "missing": "--", "broken": colour("!!", "red")}
        for finding in findings:
            typer.echo(f"{marks[finding.state]} {finding.what}: {finding.detail}")
            if finding.remedy:
                typer.echo(f"   → {finding.remedy}")
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


def _packages() -> list[Finding]:
    from mmagent import __version__

    found = [
        Finding("mmagent", "ok", f"{__version__} on Python {platform.python_version()}"),
    ]
    for name in _NEEDED:
        try:
            found.append(Finding(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, "broken", "not installed", f"pip install {name}"))
    return found


def _devices() -> list[Finding]:
    from mmagent.models.devices import describe_devices

    try:
        return [Finding("device", "ok", device) for device in describe_devices()]
    except (ImportError, OSError) as error:
        return [Finding("device", "broken", f"torch does not load: {error}", "pip install torch")]


def _model() -> Finding:
    from mmagent import home
    from mmagent.errors import UsageError
    from mmagent.models.pull import assembled_folder, is_assembled

    folder = assembled_folder()
    if is_assembled():
        others = sorted(p.name for p in folder.parent.glob("tiny-*") if p != folder)
        older = f"; of earlier versions, to be deleted if you like: {', '.join(others)}"
        return Finding("model tiny", "ok", f"{folder}{older if others else ''}")
    try:
        home.writable(folder.parent)
    except UsageError as error:
        return Finding("model tiny", "broken", str(error))
    return Finding("model tiny", "missing", f"not in {folder.parent}", "mmagent pull tiny")


def _engine(model: str | None) -> list[Finding]:
    """The limits of what a model remembers and serves; of one that is asked for, what it can."""
    from mmagent import ChatMMAgent
    from mmagent.errors import MMAgentError

    chat = ChatMMAgent(model=model or "echo")
    limits = (
        f"{_mebibytes(chat.cache_bytes)} for conversations and pictures between turns "
        f"(cache_bytes); {chat.max_batch} answers at once (max_batch), {chat.max_queue} more wait "
        "(max_queue)"
    )
    found = [Finding("reuse and requests", "ok", limits)]
    if model is None:
        return found
    try:
        state: dict[str, Any] = getattr(chat.load(), "state", dict)()
    except MMAgentError as error:
        return [*found, Finding(f"model {model}", "broken", str(error))]
    if not state:
        return [*found, Finding(f"model {model}", "ok", "no weights, so nothing is remembered")]
    kept, seen = state["remembered"], state["pictures"]
    told = (
        f"{state['type']}, {state['parameters'] / 1e6:,.0f}M parameters in {state['dtype']} on "
        f"{state['device']}, {_mebibytes(state['weights'])}"
        f"{' with layers kept in float16' if state['packed'] else ''}, "
        f"window {state['context_length']:,}; "
        f"{'reuses what it read' if state['reuse'] else 'reads every turn anew'}; "
        f"{'answers share steps' if state['batched'] else 'answers take turns'}; "
        f"conversations {_mebibytes(kept['bytes'])} of {_mebibytes(kept['max_bytes'])}, "
        f"pictures {_mebibytes(seen['bytes'])} of {_mebibytes(seen['max_bytes'])}"
    )
    return [*found, Finding(f"model {model}", "ok", told)]


def _mebibytes(number: int) -> str:
    return f"{number / 2**20:,.0f} MiB"


def _memory(folder: Path | None) -> Finding:
    from mmagent import home
    from mmagent_memory import FaissStore, list_users
    from mmagent_memory.errors import MemoryStoreError, MissingStoreError

    place = folder or home.default_memory_folder()
    if place.exists() and not place.is_dir():
        return Finding("memory", "broken", f"{place} is a file, not a folder")
    embedder = os.environ.get("MMAGENT_EMBEDDER", "bundled")
    try:
        store = FaissStore(place, create=False)
        users = len({user for user, _ in list_users(store)})
        store.close()
    except MissingStoreError:
        return Finding("memory", "missing", f"none in {place}", "the first chat makes one")
    except MemoryStoreError as error:
        return Finding("memory", "broken", str(error))
    return Finding("memory", "ok", f"{place} ({users} users, embedder {embedder})")


def _extras() -> list[Finding]:
    found = []
    for module, purpose, remedy in _EXTRAS:
        if importlib.util.find_spec(module) is not None:
            found.append(Finding(module, "ok", f"for {purpose}"))
        else:
            found.append(Finding(module, "missing", f"only for {purpose}", remedy))
    return found
