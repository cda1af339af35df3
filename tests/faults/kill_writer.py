"""Remembers and forgets until it is killed, and says so after every acknowledgement."""

from __future__ import annotations

import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "memory"))

from PIL import Image

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory


def main(path: str, run: str) -> None:
    memory = LongTermMemory(FaissStore(path, HashEmbedder()), user="sam", persona="mia")
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, "PNG")
    for number in range(100_000):
        name, text = f"{run}-{number}", f"unique{run}x{number} words to be found again"
        pictures = [buffer.getvalue()] if number % 5 == 0 else []
        print("kept", memory.remember(text, pictures, id=name, thread=run), text, flush=True)
        if number % 7 == 6:
            memory.forget(f"{run}-{number - 3}")
            print("forgot", f"{run}-{number - 3}", "", flush=True)


main(*sys.argv[1:])
