"""The same companion and the same memory with a model on a server (vLLM, or any of its kind).

For models that outgrow this machine: start a server, here for a model that was fine-tuned and
exported, and give its address.

    mmagent finetune export mia-2 mia-2-whole
    vllm serve ./mia-2-whole --served-model-name mia --port 8000
    pip install langchain-openai
    python examples/model_server.py http://localhost:8000/v1 mia [FOLDER]

Nothing but the chat model changes: memory, persona and reasoning are middleware around any
LangChain chat model. Pictures travel as `data:` addresses; the server answers many users at once.
"""

from __future__ import annotations

import sys
import tempfile

from langchain_openai import ChatOpenAI

from mmagent import FaissStore, create_companion


def main(address: str, model: str = "mia", folder: str | None = None) -> None:
    """Tell the companion something, and ask for it in another conversation."""
    chat = ChatOpenAI(base_url=address, model=model, api_key="none", temperature=0)  # type: ignore[arg-type]
    with FaissStore(folder or tempfile.mkdtemp()) as store:
        companion = create_companion(chat, store, "mia", user="sam")
        for said in ("I am learning to play the oboe.", "Which instrument am I learning?"):
            # Each is a conversation of its own: only the memory connects them.
            result = companion.invoke({"messages": [("user", said)]})
            print("Sam:", said)
            for hit in result["recall"].hits:
                print(f"  (recalled: {hit.speaker}: {hit.text})")
            print("Mia:", result["messages"][-1].text)


if __name__ == "__main__":
    main(*sys.argv[1:4])
