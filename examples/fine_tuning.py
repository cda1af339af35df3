"""Teach a model a manner of speaking and a few shapes, and talk with it.

python examples/fine_tuning.py [MODEL] [FOLDER] [STEPS]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from mmagent import ChatMMAgent
from mmagent.finetune import ChatSettings, finetune_chat, make_example


def main(model: str = "tiny", folder: str | None = None, steps: str = "120") -> None:
    """Make the example data, train on it, and ask the tuned model something."""
    place = Path(folder or tempfile.mkdtemp())
    data = make_example(place / "shapes", rows=240 if int(steps) > 20 else 20)
    settings = ChatSettings(
        base=model,
        data=[data / "dialogues.jsonl"],
        output=place / "pip",
        steps=int(steps),
        lr=4e-4,
    )
    run = finetune_chat(settings, quiet=False, note=print)

    for name in ("perplexity", "token_f1"):
        before, after = (run.report[when]["figures"][name] for when in ("before", "after"))
        print(f"{name}: {before['value']:.2f} before, {after['value']:.2f} after")

    # The adapter is an ordinary PEFT adapter; the chat model puts it on its base.
    chat = ChatMMAgent(model=model, adapter=str(run.weights), temperature=0, max_tokens=20)
    print("Pip:", chat.invoke("Hello! I am Ana and I like stars.").text)


if __name__ == "__main__":
    main(*sys.argv[1:])
