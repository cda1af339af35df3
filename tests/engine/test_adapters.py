"""Several adapters on one base: each answers as it would alone, also side by side."""

from __future__ import annotations

import base64
import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny_models
from langchain_core.messages import HumanMessage

from mmagent import ChatMMAgent
from mmagent.engine import Sampling
from mmagent.engine.transformers_engine import TransformersEngine
from mmagent.errors import ModelNotFoundError
from mmagent.messages import to_conversation

ASKED = [HumanMessage("Who are you?")]
IN_LANGUAGE = r".*language_model.*\.(q|v)_proj"
EVERYWHERE = r".*\.(q|v)_proj"


@pytest.fixture(scope="module")
def adapters(tiny_text_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [
        str(tiny_models.build_adapter(tiny_text_model, folder / f"{seed}", seed)) for seed in (1, 2)
    ]


def answer(engine, adapter=None, messages=ASKED, tokens=10):
    sampling = Sampling(max_tokens=tokens, temperature=0)
    chunks = list(engine.generate(to_conversation(messages), sampling, adapter=adapter))
    return "".join(chunk.text for chunk in chunks), chunks[-1].usage


def alone(base, adapter, messages=ASKED, tokens=10):
    return answer(
        TransformersEngine(str(base), adapter=adapter, cache_bytes=0), None, messages, tokens
    )[0]


def together(engine, asked, **options):
    barrier = threading.Barrier(len(asked))

    def ask(adapter):
        barrier.wait()
        return answer(engine, adapter, **options)[0]

    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(ask, asked))


@pytest.fixture
def rows(monkeypatch):
    def watch(engine):
        seen: list[int] = []
        real = engine.model.forward

        @functools.wraps(real)
        def forward(*args, **kwargs):
            if kwargs["input_ids"].shape[1] == 1:
                seen.append(kwargs["input_ids"].shape[0])
            return real(*args, **kwargs)

        monkeypatch.setattr(engine.model, "forward", forward)
        return seen

    return watch


def test_adapters_share_a_step(tiny_text_model, adapters, rows):
    asked = [None, *adapters, adapters[0], None]
    expected = [alone(tiny_text_model, adapter) for adapter in asked]
    assert len(set(expected)) == 3
    engine = TransformersEngine(str(tiny_text_model))
    for adapter in adapters:
        answer(engine, adapter)
    seen = rows(engine)
    assert together(engine, asked) == expected
    assert max(seen) == len(asked)
    assert sorted(engine.state()["adapters"]) == sorted(adapters)


def test_what_cannot_be_mixed_takes_turns(tiny_text_model, adapters, tmp_path, rows):
    odd = str(tiny_models.build_adapter(tiny_text_model, tmp_path / "dora", 3, use_dora=True))
    asked = [None, adapters[0], odd, odd]
    expected = [alone(tiny_text_model, adapter) for adapter in asked]
    assert len(set(expected)) == 3
    engine = TransformersEngine(str(tiny_text_model))
    answer(engine, odd)
    seen = rows(engine)
    for _ in range(2):
        assert together(engine, asked) == expected
    assert max(seen) in (2, 3, 4)  # rows of one adapter go on together


def test_what_is_remembered_belongs_to_its_adapter(tiny_text_model, adapters):
    engine = TransformersEngine(str(tiny_text_model))
    for adapter in (None, *adapters):
        assert answer(engine, adapter)[1].cache_read == 0
    for adapter in (None, *adapters):
        said, usage = answer(engine, adapter)
        assert usage.cache_read == usage.input_tokens - 1
        assert said == alone(tiny_text_model, adapter)


@pytest.mark.parametrize("where", [IN_LANGUAGE, EVERYWHERE])
def test_pictures_are_looked_at_again_only_by_an_adapter_of_the_eye(
    tiny_llava, tmp_path, picture, where
):
    adapter = str(tiny_models.build_adapter(tiny_llava, tmp_path / "lora", 5, target_modules=where))
    block = {"type": "image", "base64": base64.b64encode(picture("red")).decode()}
    messages = [HumanMessage([block, "What is it?"])]
    engine = TransformersEngine(str(tiny_llava))
    assert answer(engine, None, messages)[0] == alone(tiny_llava, None, messages)
    assert answer(engine, adapter, messages)[0] == alone(tiny_llava, adapter, messages)
    assert engine._worker.eye.looked == (1 if where == IN_LANGUAGE else 2)
    assert answer(engine, None, messages)[0] == alone(tiny_llava, None, messages)


def test_a_call_chooses_its_adapter(tiny_text_model, adapters):
    model = ChatMMAgent(model=tiny_text_model, temperature=0, max_tokens=10)
    expected = [alone(tiny_text_model, adapter) for adapter in (None, *adapters)]
    said = [model.bind(adapter=adapter).invoke(ASKED).text for adapter in (None, *adapters)]
    assert said == expected
    said = model.batch([ASKED] * 2, adapter=adapters[1])
    assert [one.text for one in said] == [expected[2]] * 2
    other = ChatMMAgent(model=tiny_text_model, adapter=adapters[0], temperature=0, max_tokens=10)
    assert other.load() is model.load()
    assert other.invoke(ASKED).text == expected[1]
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        model.invoke(ASKED, adapter="./nowhere")
