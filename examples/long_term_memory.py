"""Remember texts and pictures on disk, and find them by words, by meaning, and by picture.

python examples/long_term_memory.py FOLDER
"""

from __future__ import annotations

import io
import sys
import tempfile

from PIL import Image, ImageDraw

from mmagent import FaissStore, LongTermMemory


def draw(color: str) -> bytes:
    """A ball of one colour."""
    picture = Image.new("RGB", (160, 160), "white")
    ImageDraw.Draw(picture).ellipse((20, 20, 140, 140), fill=color)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def main(folder: str | None = None) -> None:
    """Remember three things, find two of them, and erase all."""
    store = FaissStore(folder or tempfile.mkdtemp())
    memory = LongTermMemory(store, user="sam", persona="mia")
    memory.remember("I am allergic to nuts.", speaker="Sam")
    memory.remember("My bicycle has a flat tyre.", speaker="Sam")
    memory.remember("This is my new ball.", images=[draw("red")], speaker="Sam")

    print("By words:")
    for hit in memory.recall("What am I allergic to?", k=2):
        print(f"  {hit.score:.2f}  {hit.text}")

    print("By picture:")
    hit = memory.recall("", images=[draw("red")], k=1)[0]
    print(f"  {hit.text}  picture {hit.images[0].id[:12]}, {len(hit.images[0].data())} bytes")

    # Everything of this user, with every trace of it on disk.
    receipt = memory.erase()
    print(f"Erased {receipt.memories} memories and {receipt.images} pictures.")
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
