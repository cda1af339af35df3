"""The house rules, as tests: arrows, sizes, names, and what an import may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "mmagent": ROOT / "mmagent",
    "mmagent_memory": ROOT / "memory" / "mmagent_memory",
    "mmagent_prompts": ROOT / "prompts" / "mmagent_prompts",
}
# Lower layers first; a module may import from its own layer or a lower one.
LAYERS = (
    ("errors", "home", "untrusted"),
    ("media", "media_sources", "sounds", "attachments", "shelf", "messages", "models"),
    ("engine", "personas", "reasoning", "embedders", "context"),
    ("answers", "chat_model", "chat_settings", "structured", "finetune"),
    ("middleware",),
    ("agents",),
    ("evaluation",),
    ("cli", "web", "__main__"),
)
HEAVY = ("torch", "transformers", "faiss", "peft", "accelerate", "sentence_transformers")
MAY_READ_PICKLES = ("mmagent_memory.langchain_faiss",)  # old files; runs nothing that is in them
MAY_LOAD_TORCH = ("mmagent.engine", "mmagent.embedders", "mmagent.finetune", "mmagent.models")


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *[p for p in parts if p != "__init__"])), path


MODULES = dict(modules())


def imports(path: Path, *, only_at_top: bool = False) -> set[str]:
    """Absolute names that a module imports, those for the type checker left out."""
    tree = ast.parse(path.read_text("utf-8"))
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if only_at_top and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                found.add(child.module)
                found.update(f"{child.module}.{alias.name}" for alias in child.names)
            walk(child)

    walk(tree)
    return found


def layer_of(module: str) -> int:
    part = module.split(".")[1] if "." in module else "__init__"
    for number, layer in enumerate(LAYERS):
        if part in layer:
            return number
    raise AssertionError(f"{module} is in no layer; add it to LAYERS where it belongs")


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("mmagent.")])
def test_arrows_point_down(module: str) -> None:
    mine = layer_of(module)
    for name in imports(MODULES[module]):
        if name in MODULES and name.startswith("mmagent."):
            assert layer_of(name) <= mine, f"{module} imports {name}, which is above it"


@pytest.mark.parametrize("package", ["mmagent_memory", "mmagent_prompts"])
def test_leaves_know_nothing_of_the_rest(package: str) -> None:
    others = {p for p in SOURCES if p != package} | {"torch", "transformers"}
    for module, path in MODULES.items():
        if module.split(".")[0] == package:
            roots = {name.split(".")[0] for name in imports(path)}
            assert not roots & others, f"{module} imports {sorted(roots & others)}"


def test_no_cycles_at_import_time() -> None:
    graph = {
        module: {n for n in imports(path, only_at_top=True) if n in MODULES and n != module}
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for target in graph[module]:
                # A package's __init__ runs before its submodules: that is no cycle.
                if not module.startswith(f"{target}."):
                    visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_long(module: str) -> None:
    lines = len(MODULES[module].read_text("utf-8").splitlines())
    assert lines <= 400, f"{module} has {lines} lines; split it"


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith(MAY_LOAD_TORCH)])
def test_heavy_libraries_stay_in_their_rooms(module: str) -> None:
    roots = {name.split(".")[0] for name in imports(MODULES[module])}
    assert "torch" not in roots, f"{module} imports torch"


def test_no_pickle_anywhere() -> None:
    for module, path in MODULES.items():
        text = path.read_text("utf-8")
        if module not in MAY_READ_PICKLES:
            assert "pickle" not in {n.split(".")[0] for n in imports(path)}, module
        assert "trust_remote_code=True" not in text, module


def test_import_is_light() -> None:
    code = (
        "import sys, mmagent; "
        f"print([m for m in {HEAVY!r} if m in sys.modules]); mmagent.__version__"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_sorted_and_exist() -> None:
    import mmagent

    names = [n for n in mmagent.__all__ if n != "__version__"]
    assert names == sorted(names)
    assert set(names) == set(mmagent._HOME_OF)
    for name in names:
        assert getattr(mmagent, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mmagent.nonsense  # noqa: B018
