"""A persona that remembers: an ordinary LangGraph agent, here in two conversations.

python examples/companion.py [MODEL] [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

from langgraph.checkpoint.memory import InMemorySaver

from mmagent import ChatMMAgent, FaissStore, create_companion


def main(model: str = "tiny", folder: str | None = None) -> None:
    """Tell the companion something, and ask for it in another conversation."""
    store = FaissStore(folder or tempfile.mkdtemp())
    # Any LangChain chat model does; memory and persona are middleware around it.
    chat = ChatMMAgent(model=model, temperature=0, max_tokens=60)
    companion = create_companion(chat, store, "mia", user="sam", checkpointer=InMemorySaver())

    monday = {"configurable": {"thread_id": "monday"}}
    said = "Hi Mia! I am learning to play the oboe."
    result = companion.invoke({"messages": [("user", said)]}, monday)
    print("Sam:", said)
    print("Mia:", result["messages"][-1].text)

    # Another thread: nothing of the first conversation is in the history, only in memory.
    friday = {"configurable": {"thread_id": "friday"}}
    asked = "Which instrument am I learning to play?"
    result = companion.invoke({"messages": [("user", asked)]}, friday)
    print("Sam:", asked)
    for hit in result["recall"].hits:
        print(f"  (recalled: {hit.speaker}: {hit.text})")
    print("Mia:", result["messages"][-1].text)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
