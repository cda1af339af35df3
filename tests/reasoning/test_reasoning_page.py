import re
import subprocess
import sys
from pathlib import Path

from mmagent.reasoning.templates import Reasoning

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reasoning.md").read_text("utf-8")


def test_the_python_block_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    path = ":".join(str(ROOT / folder) for folder in ("", "memory", "prompts"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        env={"PYTHONPATH": path, "MMAGENT_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'calls': 2, 'unclosed': False" in done.stdout


def test_the_table_tells_the_calls() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d) \|", PAGE, re.MULTILINE)
    assert sorted(name for name, _ in rows) == Reasoning.catalogue()
    for name, calls in rows:
        assert len(Reasoning.load(name).steps) + 1 == int(calls)
