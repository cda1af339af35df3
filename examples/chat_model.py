"""A local vision-language model as a LangChain chat model.

Run it with a picture of yours:

    python examples/chat_model.py cat.png
"""

from __future__ import annotations

import base64
import mimetypes
import sys
from pathlib import Path

from langchain_core.messages import HumanMessage

from mmagent import ChatMMAgent


def main(picture: str | None = None, model: str = "tiny") -> None:
    """Say hello, or show a picture, and print the answer as it comes."""
    # Any folder or hub name that AutoModelForImageTextToText loads does as well.
    chat = ChatMMAgent(model=model, temperature=0, max_tokens=60)
    content: list[str | dict[str, str]] = [{"type": "text", "text": "Hello! Who are you?"}]
    if picture is not None:
        content = [
            {
                "type": "image",
                "base64": base64.b64encode(Path(picture).read_bytes()).decode(),
                "mime_type": mimetypes.guess_type(picture)[0] or "image/png",
            },
            {"type": "text", "text": "What is in this picture?"},
        ]
    history: list[HumanMessage] = [HumanMessage(content)]
    answer = None
    for chunk in chat.stream(history):
        print(chunk.text, end="", flush=True)
        answer = chunk if answer is None else answer + chunk
    print()
    if answer is not None:
        print(answer.usage_metadata)


if __name__ == "__main__":
    main(*sys.argv[1:])
