"""Draw the conversation that `mmagent demo` plays, as the picture at the top of the README.

    mmagent demo --play --json | python docs/capture.py docs/demo.svg

Nothing is retouched: the words are the model's own, the pictures those that it was shown.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import textwrap
from html import escape
from pathlib import Path

WIDTH, PAD, LINE, PICTURE = 760, 16, 20, 96
PICTURES = Path(__file__).parents[1] / "mmagent" / "cli" / "demo"


def bubble(
    top: int, words: str, *, mine: bool, picture: Path | None = None, small: str = ""
) -> tuple[str, int]:
    """One speech bubble as SVG, and where the next one begins."""
    lines = textwrap.wrap(words, 62) or [""]
    wide = max(len(line) for line in lines) * 7.7 + 2 * PAD
    if picture:
        wide = max(wide, PICTURE + 2 * PAD)
    high = len(lines) * LINE + 18 + (PICTURE + 8 if picture else 0)
    left = WIDTH - PAD - wide if mine else PAD
    fill = "#2f6fde" if mine else "#eceff4"
    ink = "#ffffff" if mine else "#1c2330"
    out = [
        f'<rect x="{left:.0f}" y="{top}" width="{wide:.0f}" height="{high}" rx="12" fill="{fill}"/>'
    ]
    at = top + 9
    if picture:
        data = base64.b64encode(picture.read_bytes()).decode()
        out.append(
            f'<image x="{left + PAD:.0f}" y="{at}" width="{PICTURE}" height="{PICTURE}" '
            f'href="data:image/png;base64,{data}"/>'
        )
        at += PICTURE + 8
    for number, line in enumerate(lines):
        y = at + number * LINE + 15
        out.append(f'<text x="{left + PAD:.0f}" y="{y}" fill="{ink}">{escape(line)}</text>')
    if small:
        out.append(
            f'<text x="{PAD + 4}" y="{top + high + 15}" class="small">{escape(small)}</text>'
        )
    return "\n".join(out), top + high + (26 if small else 10)


def main() -> None:
    """Read one JSON object a line and write the SVG."""
    by_hash = {hashlib.sha256(p.read_bytes()).hexdigest(): p for p in PICTURES.glob("*.png")}
    parts: list[str] = []
    top = PAD
    for line in sys.stdin:
        turn = json.loads(line)
        if "answer" not in turn:
            middle = f'<text x="{WIDTH // 2}" y="{top + 18}" class="small" text-anchor="middle">'
            parts.append(f"{middle}{escape(turn.get('later', ''))}</text>")
            top += 34
            continue
        picture = next((by_hash[i] for i in turn["images"] if i in by_hash), None)
        text, top = bubble(top, turn["message"], mine=True, picture=picture)
        parts.append(text)
        memories = turn["memories"]
        note = f"recalled: {memories[0]['text']}" if memories else ""
        text, top = bubble(top, turn["answer"], mine=False, small=note)
        parts.append(text)
    style = (
        "text{font:14px ui-monospace,Menlo,Consolas,monospace}"
        ".small{font-size:12px;fill:#7a8499;font-style:italic}"
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top + PAD}" '
        f'viewBox="0 0 {WIDTH} {top + PAD}"><style>{style}</style>'
        f'<rect width="100%" height="100%" rx="14" fill="#ffffff" stroke="#d5dae3"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
    Path(sys.argv[1]).write_text(svg, "utf-8")


if __name__ == "__main__":
    main()
