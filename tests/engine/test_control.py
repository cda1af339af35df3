"""Sampling and control: what every parameter does, alone and together, to the token."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage

from mmagent import ChatMMAgent
from mmagent.engine import Form, Sampling
from mmagent.engine.transformers_engine import TransformersEngine
from mmagent.errors import ContextOverflowError, UsageError
from mmagent.messages import to_conversation

TELL = [HumanMessage("Tell me about the weather")]


def answer(engine, sampling, **options):
    chunks = list(engine.generate(to_conversation(TELL), sampling, **options))
    return "".join(chunk.text for chunk in chunks), chunks


@pytest.fixture(scope="module")
def logits(llava_engine):
    """The model's log probabilities (places, vocabulary) of the greedy answer, and its tokens."""
    import torch

    prompt = llava_engine._prompt(to_conversation(TELL))
    with torch.no_grad():
        made = llava_engine.model.generate(
            **llava_engine._worker.inputs(prompt, 0),
            max_new_tokens=12,
            do_sample=False,
            suppress_tokens=list(llava_engine._worker.never),
            return_dict_in_generate=True,
            output_logits=True,
        )
    return torch.stack(made.logits, 1)[0].log_softmax(-1), made.sequences[0, len(prompt.ids) :]


# ---- what may be drawn ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ({"top_k": 3}, lambda p: p.topk(3).indices.tolist()),
        ({"min_p": 0.02}, lambda p: (p >= p.max() * 0.02).nonzero().flatten().tolist()),
        (
            {"top_p": 0.9},
            lambda p: [
                token
                for token, before in zip(
                    p.sort(descending=True).indices.tolist(),
                    (p.sort(descending=True).values.cumsum(0) - p.sort(descending=True).values),
                    strict=True,
                )
                if before < 0.9
            ],
        ),
    ],
)
def test_only_what_a_setting_allows_is_drawn(llava_engine, logits, setting, allowed):
    probabilities = (logits[0][0] / 1.0).exp()
    tokens = set(allowed(probabilities)) - set(llava_engine._worker.never)
    assert 1 < len(tokens) < 300
    drawn = set()
    for seed in range(30):
        # Two, since the first alone may wait for the rest of its character.
        sampling = Sampling(max_tokens=2, temperature=1.0, seed=seed, logprobs=0, **setting)
        chunks = answer(llava_engine, sampling)[1]
        chances = [chance for chunk in chunks for chance in chunk.chances]
        drawn.update(round(chance.logprob, 3) for chance in chances[:1])  # none for the end
    possible = {round(float(logits[0][0][token]), 3) for token in tokens}
    assert drawn <= possible
    assert len(drawn) > 1


@pytest.mark.parametrize("more", [{}, {"repetition_penalty": 1.3}, {"num_beams": 2}])
def test_tokens_that_the_checkpoint_suppresses_are_no_answers(tiny_text_model, tmp_path, more):
    import json
    import shutil

    import torch

    plain = TransformersEngine(str(tiny_text_model), cache_bytes=0)
    prompt = plain._prompt(to_conversation(TELL)).ids
    beams = more.get("num_beams", 1)
    settings = {"max_new_tokens": 10, "do_sample": False, **more}
    with torch.no_grad():
        free = plain.model.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :].tolist()
        banned = sorted({*free[:3], 511})
        wanted = plain.model.generate(torch.tensor([prompt]), suppress_tokens=banned, **settings)[
            0, len(prompt) :
        ].tolist()
    assert not set(wanted) & set(banned)
    folder = shutil.copytree(tiny_text_model, tmp_path / "model")
    file = folder / "generation_config.json"
    # One that the model has no logit for is in the settings of many checkpoints.
    told = {**json.loads(file.read_text()), "suppress_tokens": [*banned, 10**6]}
    file.write_text(json.dumps(told))
    engine = TransformersEngine(str(folder), cache_bytes=0)
    sampling = Sampling(max_tokens=10, temperature=0, **more)
    assert answer(engine, sampling)[0] == engine._decode(wanted)
    if beams == 1:
        drawn = Sampling(max_tokens=10, temperature=5.0, seed=1, logprobs=0)
        chances = [c for chunk in answer(engine, drawn)[1] for c in chunk.chances]
        # What is no whole character is written like any other.
        never = {engine._decode([token]) for token in free[:3]} - {"\ufffd"}
        assert never
        assert not {chance.text for chance in chances} & never


def test_the_vocabulary_is_not_searched_for_them_at_every_token(llava_engine, monkeypatch):
    from transformers import SuppressTokensLogitsProcessor

    config = llava_engine.model.generation_config
    monkeypatch.setattr(config, "suppress_tokens", [5, 6])
    monkeypatch.setattr(SuppressTokensLogitsProcessor, "__call__", None)
    assert answer(llava_engine, Sampling(max_tokens=5, temperature=0))[1][-1].usage.output_tokens


def test_beams_find_what_is_likelier(llava_engine):
    import torch

    def likelihood(sampling):
        said, chunks = answer(llava_engine, sampling)
        del chunks
        prompt = llava_engine._prompt(to_conversation(TELL))
        ids = llava_engine.token_ids(said)
        with torch.no_grad():
            found = llava_engine.model(torch.tensor([prompt.ids + ids])).logits[0].log_softmax(-1)
        return sum(float(found[len(prompt.ids) - 1 + n, token]) for n, token in enumerate(ids))

    greedy = likelihood(Sampling(max_tokens=5, temperature=0))
    assert likelihood(Sampling(max_tokens=5, temperature=0, num_beams=8)) >= greedy - 1e-4


def test_torch_s_own_seed_repeats_what_has_none(llava_engine):
    import torch

    said = []
    for _ in range(2):
        torch.manual_seed(5)
        said.append(answer(llava_engine, Sampling(max_tokens=12, temperature=1.5))[0])
    assert said[0] == said[1]


# ---- how likely it was ---------------------------------------------------------------------


def test_chances_are_those_of_the_model(llava_engine, logits):
    said, chunks = answer(llava_engine, Sampling(max_tokens=12, temperature=0, logprobs=3))
    chances = [chance for chunk in chunks for chance in chunk.chances]
    assert len(chances) == 12
    for place, (chance, token) in enumerate(zip(chances, logits[1].tolist(), strict=True)):
        assert chance.text == llava_engine._decode([token])
        assert chance.logprob == pytest.approx(float(logits[0][place][token]), abs=1e-4)
        assert [other.logprob for other in chance.others] == pytest.approx(
            logits[0][place].topk(3).values.tolist(), abs=1e-4
        )
    assert said == answer(llava_engine, Sampling(max_tokens=12, temperature=0))[0]


def test_chances_come_with_their_text_and_end_with_it(llava_engine):
    whole, chunks = answer(llava_engine, Sampling(max_tokens=30, temperature=0, logprobs=0))
    for chunk in chunks[:-1]:
        if chunk.chances and "\ufffd" not in chunk.text:
            assert "".join(chance.text for chance in chunk.chances) == chunk.text
    stop = whole[9:13]
    said, chunks = answer(
        llava_engine, Sampling(max_tokens=30, temperature=0, logprobs=0, stop=(stop,))
    )
    told = "".join(chance.text for chunk in chunks for chance in chunk.chances)
    assert told.startswith(said)
    assert len(told) < len(whole)


async def test_langchain_is_told_as_by_openai_s_models(tiny_llava):
    model = ChatMMAgent(model=tiny_llava, temperature=0, max_tokens=6)
    assert "logprobs" not in model.invoke("Hello").response_metadata
    told = model.invoke("Hello", logprobs=True, top_logprobs=2).response_metadata["logprobs"]
    assert len(told["content"]) == 6
    for entry in told["content"]:
        assert set(entry) == {"token", "bytes", "logprob", "top_logprobs"}
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert entry["top_logprobs"][0]["logprob"] == pytest.approx(entry["logprob"])
        assert len(entry["top_logprobs"]) == 2
    bare = model.bind(logprobs=True).invoke("Hello").response_metadata["logprobs"]
    assert [entry["top_logprobs"] for entry in bare["content"]] == [[]] * 6
    chunks = [chunk async for chunk in model.astream("Hello", top_logprobs=2)]
    streamed = sum(chunks[1:], chunks[0]).response_metadata["logprobs"]
    assert [entry["token"] for entry in streamed["content"]] == [
        entry["token"] for entry in told["content"]
    ]
    for wrong in ({"top_logprobs": 21}, {"logprobs": False, "top_logprobs": 2},
                  {"logprobs": True, "num_beams": 2}):  # fmt: skip
        with pytest.raises(UsageError, match="logprobs"):
            model.invoke("Hello", **wrong)


# ---- where it ends -------------------------------------------------------------------------


def test_a_stop_text_in_the_middle_of_a_stream_never_shows(llava_engine):
    whole, _ = answer(llava_engine, Sampling(max_tokens=40, temperature=0))
    for begin in range(3, 20, 4):
        stop = whole[begin : begin + 5]
        sampling = Sampling(max_tokens=40, temperature=0, stop=("never said", stop))
        chunks = list(llava_engine.generate(to_conversation(TELL), sampling))
        shown = ""
        for chunk in chunks:
            shown += chunk.text
            assert stop not in shown
            assert whole.startswith(shown)
        assert shown == whole[: whole.index(stop)]
        assert chunks[-1].finish_reason == "stop"


def test_every_reason_to_end(llava_engine, monkeypatch):
    tool = {"name": "add", "parameters": {"type": "object", "properties": {}}}
    reasons = {
        "length": answer(llava_engine, Sampling(max_tokens=3, temperature=0)),
        "tool_calls": answer(
            llava_engine,
            Sampling(max_tokens=60, temperature=0),
            form=Form(functions=(tool,), required=True),
        ),
        "stop": answer(
            llava_engine,
            Sampling(max_tokens=60, temperature=0),
            form=Form(schema={"type": "object", "properties": {}}),
        ),
    }
    for reason, (_, chunks) in reasons.items():
        assert chunks[-1].finish_reason == reason
        assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


async def test_a_prompt_that_is_too_long_never_reaches_the_model(tiny_llava, monkeypatch):
    model = ChatMMAgent(model=tiny_llava, context_length=40, temperature=0)
    engine = model.load()
    assert isinstance(engine, TransformersEngine)
    ran = []
    real = engine.model.forward
    monkeypatch.setattr(engine.model, "forward", lambda *a, **k: ran.append(1) or real(*a, **k))
    for call in (model.ainvoke, model.abatch):
        with pytest.raises(ContextOverflowError, match=r"prompt has \d+ tokens .*window 40"):
            await call("Hello " * 50 if call == model.ainvoke else ["Hello " * 50])
    assert not ran
    room = 40 - model.get_num_tokens_from_messages([HumanMessage("Hi")])
    assert model.invoke("Hi").usage_metadata["output_tokens"] <= room
