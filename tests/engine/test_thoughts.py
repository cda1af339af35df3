"""Thoughts of reasoning models are told from their answers, however the pieces are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from mmagent import ChatMMAgent
from mmagent.engine import Chunk, EchoEngine, Usage
from mmagent.engine.reader import AnswerReader, ThoughtReader


def read(text: str, sizes: list[int], *, opened: bool = False, stop: tuple[str, ...] = ()):
    reader = AnswerReader(stop, thoughts=ThoughtReader(opened=opened))
    chunks, at = [], 0
    while at < len(text) and not reader.stopped:
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(reader.push(text[at : at + size]) or Chunk())
        at += size
    chunks.append(reader.finish("", "stop", Usage(1, 1)))
    return "".join(c.thought for c in chunks), "".join(c.text for c in chunks)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_wherever_the_pieces_are_cut(sizes):
    assert read("<think>\nWell: a < b</think>\n\nYes.", sizes) == ("\nWell: a < b", "Yes.")
    assert read("\n<think>x</think>Yes.", sizes) == ("x", "Yes.")
    assert read("x</think>\nYes </think>", sizes, opened=True) == ("x", "Yes </think>")
    assert read("<think>never ends</thi", sizes) == ("never ends</thi", "")
    for plain in ("Yes <think>no</think>", " <thin", "<thought>", "", "a"):
        assert read(plain, sizes) == ("", plain)


def test_stop_texts_are_for_answers():
    assert read("<think>a\nb</think>c\nd", [1], stop=("\n",)) == ("a\nb", "c")


class Thinker(EchoEngine):
    def generate(self, conversation, sampling, *, adapter=None, form=None):
        yield Chunk(thought="Hm, ")
        yield Chunk(thought="yes.")
        yield Chunk("Yes.")
        yield Chunk("", "stop", Usage(3, 9, 0, 5))


def test_thoughts_become_a_reasoning_block_and_are_counted():
    model = ChatMMAgent(engine=Thinker())
    pieces = list(model.stream("Is it?"))
    for answer in (model.invoke("Is it?"), sum(pieces[1:], pieces[0])):
        assert answer.text == "Yes."
        assert [block["type"] for block in answer.content_blocks] == ["reasoning", "text"]
        assert answer.content_blocks[0]["reasoning"] == "Hm, yes."
        assert answer.usage_metadata["output_token_details"]["reasoning"] == 5


@pytest.fixture
def thinking(llava_engine, monkeypatch):
    """The engine, as if its template opened a thought in every answer."""
    prompts = llava_engine._prompts
    template = prompts.processor.chat_template
    begin = "<|im_start|>assistant\n"
    opened = template.replace(begin + "{% endif -%}", begin + "<think>{% endif -%}")
    monkeypatch.setattr(prompts.processor, "chat_template", opened + "{# </think> #}")
    prompts.__dict__.pop("reasons", None)
    yield ChatMMAgent(engine=llava_engine, temperature=0, max_tokens=6)
    prompts.__dict__.pop("reasons", None)


def test_a_thought_that_the_template_opened_and_the_limit_cut(thinking):
    assert thinking.prompt_text([HumanMessage("Hi")]).rstrip().endswith("<think>")
    answer = thinking.invoke("Hi")
    assert isinstance(answer, AIMessage)
    assert answer.text == ""
    assert answer.additional_kwargs["reasoning_content"]
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.usage_metadata["output_token_details"]["reasoning"] == 6
