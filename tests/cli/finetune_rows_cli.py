"""Rows for the tests of `mmagent finetune`."""

from __future__ import annotations

import json
from pathlib import Path


def rows_with_one_bad(folder: Path) -> Path:
    """Twenty rows, of which the third names a picture that is not there."""
    rows = []
    for number in range(20):
        user: dict[str, object] = {"role": "user", "text": f"Question {number}?"}
        if number == 2:
            user["images"] = ["none.png"]
        rows.append({"messages": [user, {"role": "assistant", "text": f"Answer {number}."}]})
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return file
