"""ChatMMAgent keeps LangChain's promises: on the echo engine, and on a real small model."""

from __future__ import annotations

import asyncio
import base64
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import ModelProfile
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from mmagent import ChatMMAgent
from mmagent.engine import Chunk, EchoEngine, Sampling, Usage
from mmagent.errors import ContextOverflowError, GenerationError, UsageError
from mmagent.media import MediaPolicy


@pytest.fixture
def echo():
    return ChatMMAgent(model="echo")


@pytest.fixture(scope="module")
def llava(tiny_llava):
    return ChatMMAgent(model=tiny_llava, temperature=0, max_tokens=8)


class Scripted(EchoEngine):
    """An engine that records what it was asked, and says words slowly."""

    def __init__(self, words=("a", "b", "c"), pause=0.0):
        super().__init__()
        self.words, self.pause = words, pause
        self.asked: list[tuple[Sampling, str | None]] = []
        self.closed = threading.Event()

    def generate(self, conversation, sampling, *, adapter=None, form=None):
        self.asked.append((sampling, adapter))
        return self._say()

    def _say(self):
        try:
            for word in self.words:
                time.sleep(self.pause)
                yield Chunk(word)
            yield Chunk("", "stop", Usage(1, len(self.words)))
        finally:
            self.closed.set()


# ---- calls ---------------------------------------------------------------------------------


async def test_every_way_to_call_gives_the_same_answer(llava, picture):
    block = {"type": "image", "mime_type": "image/png"}
    block["base64"] = base64.b64encode(picture()).decode()
    messages = [SystemMessage("Be kind."), HumanMessage(["What is it?", block])]
    answer = llava.invoke(messages)
    assert answer.text
    streamed = list(llava.stream(messages))
    assert "".join(chunk.text for chunk in streamed) == answer.text
    assert len(streamed) > 3
    astreamed = [chunk async for chunk in llava.astream(messages)]
    assert "".join(chunk.text for chunk in astreamed) == answer.text
    others = [await llava.ainvoke(messages), *llava.batch([messages] * 2)]
    others += await llava.abatch([messages] * 2)
    assert {other.text for other in others} == {answer.text}


def test_what_an_answer_tells(llava):
    answer = llava.invoke("Hello")
    usage = answer.usage_metadata
    assert usage["input_tokens"] == llava.get_num_tokens_from_messages([HumanMessage("Hello")])
    assert usage["output_tokens"] == 8
    assert usage["total_tokens"] == usage["input_tokens"] + 8
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.response_metadata["model_name"] == llava.model
    assert answer.response_metadata["model_provider"] == "mmagent"
    again = llava.invoke("Hello").usage_metadata
    assert again["input_token_details"]["cache_read"] == usage["input_tokens"] - 1


def test_a_stream_tells_usage_once_and_at_its_end(echo):
    chunks = list(echo.stream("one two"))
    assert [bool(chunk.usage_metadata) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].chunk_position == "last"
    whole = sum(chunks[1:], chunks[0])
    assert whole.text == "You said: one two"
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.response_metadata["model_name"] == "echo"


def test_content_blocks_of_version_one(tiny_llava):
    model = ChatMMAgent(model=tiny_llava, output_version="v1", max_tokens=3)
    answer = model.invoke("Hello")
    assert answer.content[0]["type"] == "text"
    assert answer.content_blocks[0]["text"] == answer.text


def test_stop_texts_of_the_model_and_of_the_call():
    model = ChatMMAgent(model="echo", stop=["two"])
    assert model.invoke("one two three").text == "You said: one "
    assert model.invoke("one two three", stop=["o t"]).text == "You said: one tw"
    assert ChatMMAgent(model="echo", stop_sequences=["x"]).stop == ["x"]


def test_settings_of_the_model_and_of_the_call():
    engine = Scripted()
    model = ChatMMAgent(engine=engine, temperature=0.5, top_k=3, seed=7, stop=["."], adapter="a")
    model.invoke("Hello")
    model.bind(temperature=0, max_tokens=9, adapter="b").invoke("Hello", seed=None, num_beams=2)
    first, second = engine.asked
    assert first == (
        Sampling(max_tokens=512, temperature=0.5, top_k=3, seed=7, stop=(".",)),
        "a",
    )
    assert second == (
        Sampling(max_tokens=9, temperature=0, top_k=3, num_beams=2, stop=(".",)),
        "b",
    )


def test_mistakes_in_settings_are_named_at_once(echo):
    for wrong, message in (
        ({"temperature": -1}, "temperature must be"),
        ({"top_p": 2}, "top_p must be"),
        ({"temprature": 1}, "temprature"),
    ):
        with pytest.raises(ValueError, match=message):
            ChatMMAgent(model="echo", **wrong)
        with pytest.raises(UsageError, match=message):
            echo.invoke("x", **wrong)
    # What pydantic would make fit, or a model stumble over.
    for wrong, message in (
        ({"max_tokens": "5"}, "max_tokens must be a whole number; it is '5'"),
        ({"max_tokens": 3.5}, "max_tokens must be a whole number"),
        ({"num_beams": 2.0}, "num_beams must be a whole number"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"temperature": float("inf")}, "temperature must be a finite number"),
        ({"temperature": float("nan")}, "temperature must be 0 or more"),
        ({"top_k": True}, "top_k must be a whole number"),
        ({"seed": "a"}, "seed must be a whole number"),
        ({"seed": 1 << 64}, "seed must be of 64 bits"),
        ({"top_logprobs": "3"}, "top_logprobs must be a whole number"),
        ({"stop": [1]}, "stop must be texts"),
        ({"stop": [""]}, "stop must be texts that are not empty"),
    ):
        with pytest.raises(UsageError, match=message):
            echo.invoke("x", **wrong)
    hosted = ChatMMAgent(model_name="echo", api_key="k", max_retries=2, timeout=60)
    assert hosted.model == "echo"


def test_another_model_for_one_call(echo, tiny_llava):
    answer = echo.invoke("Hello", model=str(tiny_llava), max_tokens=3)
    assert answer.response_metadata["model_name"] == str(tiny_llava)
    assert not answer.text.startswith("You said")
    assert echo._get_ls_params(model="other")["ls_model_name"] == "other"


def test_chat_models_of_one_checkpoint_share_its_weights(tiny_llava, llava):
    other = ChatMMAgent(model=tiny_llava, temperature=1.0)
    assert other.load() is llava.load()


# ---- limits --------------------------------------------------------------------------------


def test_a_prompt_that_does_not_fit():
    from langchain_core.exceptions import ContextOverflowError as LangChainOverflow

    model = ChatMMAgent(model="echo", context_length=10)
    assert model.profile["max_input_tokens"] == 10
    for call in (model.invoke, lambda said: list(model.stream(said))):
        with pytest.raises(ContextOverflowError, match="13 tokens") as refused:
            call("word " * 10)
        assert isinstance(refused.value, LangChainOverflow)


def test_a_timeout_ends_a_slow_answer():
    engine = Scripted(words=("a",) * 1000, pause=0.01)
    model = ChatMMAgent(engine=engine, timeout=0.05)
    with pytest.raises(GenerationError, match=r"0\.05 seconds"):
        model.invoke("Hello")
    assert engine.closed.is_set()


def test_leaving_a_stream_stops_the_engine():
    engine = Scripted(words=("a",) * 1000)
    for _ in ChatMMAgent(engine=engine).stream("Hello"):
        break
    assert engine.closed.wait(1)


@pytest.mark.parametrize("kind", ["ainvoke", "astream"])
async def test_cancelling_stops_the_engine_after_the_token_at_hand(kind):
    engine = Scripted(words=("a",) * 10_000, pause=0.002)
    model = ChatMMAgent(engine=engine)

    async def run():
        if kind == "ainvoke":
            await model.ainvoke("Hello")
        else:
            async for _ in model.astream("Hello"):
                pass

    task = asyncio.create_task(run())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(100):
        if engine.closed.is_set():
            break
        await asyncio.sleep(0.01)
    assert engine.closed.is_set()


async def test_the_event_loop_stays_free_while_the_model_works():
    model = ChatMMAgent(engine=Scripted(words=("a",) * 20, pause=0.02))
    beats = 0

    async def heart():
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.create_task(heart())
    await model.ainvoke("Hello")
    beating.cancel()
    assert beats > 10


def test_an_engine_that_breaks_off_is_an_error():
    class Broken(Scripted):
        def generate(self, conversation, sampling, *, adapter=None, form=None):
            return iter([Chunk("a")])

    with pytest.raises(GenerationError, match="broke off"):
        ChatMMAgent(engine=Broken()).invoke("Hello")


# ---- what LangChain asks -------------------------------------------------------------------


def test_every_flag_of_the_profile_is_set(echo, llava, tiny_text_model):
    unknown = {"name", "status", "release_date", "last_updated", "reasoning_effort_levels"}
    unknown |= {"reasoning_effort_default"}  # said of hosted models
    for model in (echo, llava):
        assert set(ModelProfile.__annotations__) - unknown == set(model.profile)
    assert llava.profile["image_inputs"] is True
    assert llava.profile["max_input_tokens"] == 2048
    # Known before anything is loaded.
    assert ChatMMAgent(model=tiny_text_model).profile["image_inputs"] is False
    assert ChatMMAgent(model=tiny_text_model, max_tokens=5).profile["max_output_tokens"] == 5


def test_the_cache_of_answers_tells_settings_apart():
    cache = InMemoryCache()
    fields = {
        "adapter": "a",
        "max_tokens": 3,
        "temperature": 0.1,
        "top_p": 0.5,
        "top_k": 2,
        "min_p": 0.1,
        "num_beams": 2,
        "repetition_penalty": 1.1,
        "seed": 1,
        "stop": ["x"],
        "dtype": "float32",
        "context_length": 100,
        "sanitize_control_tokens": False,
    }
    engine = Scripted()
    ChatMMAgent(engine=engine, cache=cache).invoke("Hello")
    ChatMMAgent(engine=engine, cache=cache).invoke("Hello")
    assert len(engine.asked) == 1
    for number, (name, value) in enumerate(fields.items(), start=2):
        ChatMMAgent(engine=engine, cache=cache, **{name: value}).invoke("Hello")
        assert len(engine.asked) == number, name


def test_traces_know_the_settings():
    params = ChatMMAgent(model="echo", temperature=0.5, max_tokens=3, stop=["x"])._get_ls_params()
    assert params == {
        "ls_provider": "mmagent",
        "ls_model_type": "chat",
        "ls_model_name": "echo",
        "ls_temperature": 0.5,
        "ls_max_tokens": 3,
        "ls_stop": ["x"],
    }


def test_tokens_are_counted_with_pictures_and_tools(llava, picture):
    block = {"type": "image", "mime_type": "image/png"}
    block["base64"] = base64.b64encode(picture()).decode()
    bare = llava.get_num_tokens_from_messages([HumanMessage("Hi")])
    shown = llava.get_num_tokens_from_messages([HumanMessage(["Hi", block, block])])
    assert shown == bare + 32
    tool = {"name": "add", "description": "Add.", "parameters": {"type": "object"}}
    assert llava.get_num_tokens_from_messages([HumanMessage("Hi")], tools=[tool]) > bare + 10
    assert llava.get_num_tokens("Hello") == len(llava.get_token_ids("Hello")) > 0


def test_pictures_from_where_the_policy_allows(tmp_path, picture):
    (tmp_path / "a.png").write_bytes(picture("blue"))
    block = {"type": "image", "url": str(tmp_path / "a.png")}
    model = ChatMMAgent(model="echo", media_policy=MediaPolicy(allowed_roots=(tmp_path,)))
    assert model.invoke([HumanMessage([block])]).text.endswith("#0000ff]")
    with pytest.raises(UsageError, match="allowed_roots"):
        ChatMMAgent(model="echo").invoke([HumanMessage([block])])


def test_a_conversation_over_several_turns(llava):
    messages = [HumanMessage("Hello")]
    for _ in range(3):
        answer = llava.invoke(messages)
        assert isinstance(answer, AIMessage)
        messages += [answer, HumanMessage("And then?")]
    usage = llava.invoke(messages).usage_metadata
    assert usage["input_token_details"]["cache_read"] > usage["input_tokens"] // 2


def test_importing_and_making_one_loads_no_torch():
    code = (
        "import sys; from mmagent import ChatMMAgent; m = ChatMMAgent(model='echo');"
        "assert m.invoke('x').text == 'You said: x';"
        "assert not {'torch', 'transformers', 'faiss'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=None)


def test_the_page_about_the_chat_model_runs(capsys):
    page = (Path(__file__).parent.parent / "docs" / "chat-model.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile("\n".join(blocks), "chat-model.md", "exec"), {"__name__": "page"})
    shown = capsys.readouterr().out
    for line in re.findall(r"print\(.*?\)\s+# (.+)", page):
        assert line.strip() in shown
