"""Small data sets for the tests of fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

COLOURS = ["red", "blue", "green", "yellow", "black", "white", "purple", "orange", "pink", "grey"]


def picture(folder: Path, name: str, colour: str, size: tuple[int, int] = (40, 32)) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(folder / name)
    return name


def own(*messages: tuple[Any, ...], **more: Any) -> dict[str, Any]:
    """A row of our own format: (role, text, picture…)."""
    turns = [
        {"role": role, "text": text, **({"images": list(images)} if images else {})}
        for role, text, *images in messages
    ]
    return {"messages": turns, **more}


def write_rows(file: Path, rows: list[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return file


def colours_data(folder: Path, count: int = 10, texts: int = 4) -> Path:
    """Rows that ask for the colour of a picture, and rows without pictures among them."""
    rows = []
    for number, colour in enumerate(COLOURS[:count]):
        name = picture(folder, f"{number}.png", colour)
        rows.append(own(("user", "What do you see?", name), ("assistant", f"I see {colour}.")))
        if number < texts:
            rows.append(own(("user", f"Hello {number}"), ("assistant", f"Hello, number {number}!")))
    return write_rows(folder / "rows.jsonl", rows)
