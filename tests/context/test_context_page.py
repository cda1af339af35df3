import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "context.md").read_text("utf-8")


def test_the_python_block_runs(run_page: Callable[[str], str]) -> None:
    assert PAGE.count("```python\n") == 1
    said = run_page(PAGE)
    assert " of 300\n" in said
    assert "'source': 'system'" in said
    assert "evicted, oldest first" in said
    assert "summary" in said


@pytest.mark.parametrize(
    ("page", "name"),
    [("context", "long-conversation"), ("reasoning", "reasoning"), ("personas", "persona")],
)
def test_tables_find_their_place(page: str, name: str, tmp_path: Path) -> None:
    copy = tmp_path / "page.md"
    before = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    copy.write_text(before, "utf-8")
    (tmp_path / "table.md").write_text("| a |\n|---|\n| \\1 |\n", "utf-8")
    tables = [sys.executable, ROOT / "docs" / "tables.py", copy]
    subprocess.run([*tables, name, tmp_path / "table.md"], check=True, timeout=60)
    after = copy.read_text("utf-8")
    assert f"<!-- table {name} -->\n| a |\n|---|\n| \\1 |\n<!-- /table -->" in after
    assert after.partition("<!-- table")[0] == before.partition("<!-- table")[0]
    failed = subprocess.run(
        [*tables, "nothing", tmp_path / "table.md"], check=False, capture_output=True, timeout=60
    )
    assert b"has no place" in failed.stderr
