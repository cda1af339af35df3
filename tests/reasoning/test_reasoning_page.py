import re
from collections.abc import Callable
from pathlib import Path

from mmagent.reasoning.templates import Reasoning

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reasoning.md").read_text("utf-8")


def test_the_python_block_runs(run_page: Callable[[str], str]) -> None:
    assert PAGE.count("```python\n") == 1
    said = run_page(PAGE)
    assert "'calls': 2, 'unclosed': False" in said


def test_the_table_tells_the_calls() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d) \|", PAGE, re.MULTILINE)
    assert sorted(name for name, _ in rows) == Reasoning.catalogue()
    for name, calls in rows:
        assert len(Reasoning.load(name).steps) + 1 == int(calls)
