"""Reuse across turns: never a different answer, and work only for what is new."""

from __future__ import annotations

import base64

import pytest
import tiny_models
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from mmagent.engine import Sampling
from mmagent.engine.kvcache import ConversationCache, Remembered, shared_beginning
from mmagent.engine.prompt import Prompt
from mmagent.engine.transformers_engine import TransformersEngine
from mmagent.messages import to_conversation

GREEDY = Sampling(max_tokens=8, temperature=0)


@pytest.fixture
def shot(picture):
    def message(text: str, *colors: str) -> HumanMessage:
        images = [
            {"type": "image", "base64": base64.b64encode(picture(color)).decode()}
            for color in colors
        ]
        return HumanMessage([*images, {"type": "text", "text": text}])

    return message


def answer(engine, messages):
    chunks = list(engine.generate(to_conversation(messages), GREEDY))
    return "".join(chunk.text for chunk in chunks), chunks[-1].usage


class Pair:
    """An engine that remembers and one that does not, asked the same."""

    def __init__(self, folder):
        self.warm = TransformersEngine(str(folder))
        self.cold = TransformersEngine(str(folder), cache_bytes=0)
        assert self.warm.state()["reuse"]

    def ask(self, messages):
        """The answer of both, and how many tokens were known."""
        said, usage = answer(self.warm, messages)
        expected, cold = answer(self.cold, messages)
        assert said == expected
        assert (usage.input_tokens, cold.cache_read) == (cold.input_tokens, 0)
        return said, usage


ARCHITECTURES = [
    "llava",
    "fastvlm",
    "llava_next",
    "idefics3",
    "gemma3",
    "qwen2_5_vl",
    "qwen3_vl",
]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    return Pair(getattr(tiny_models, f"build_{request.param}")(folder))


@pytest.fixture
def fresh(pair):
    pair.warm.cache.clear()
    return pair


def test_a_conversation_with_pictures_reads_only_what_is_new(fresh, shot, monkeypatch):
    shown: list[int] = []
    real = fresh.warm._prompts.pixels
    monkeypatch.setattr(
        fresh.warm._prompts, "pixels", lambda images: shown.append(len(images)) or real(images)
    )
    fresh.warm._worker.eye.kept.clear()
    messages = [SystemMessage("You are kind.")]
    known_before = 0
    for turn, colors in enumerate([("red",), (), ("blue", "green"), (), ("red",)]):
        messages.append(shot(f"What is it now, at {turn}?", *colors))
        said, usage = fresh.ask(messages)
        assert usage.cache_read >= known_before
        assert turn == 0 or usage.cache_read > 0.5 * known_before
        known_before = usage.input_tokens - 1
        messages.append(AIMessage(said))
    # One by one; the red one of the end was seen at the beginning.
    assert shown == [1, 1, 1]
    assert fresh.warm._prompts._expands is True  # and no picture was read again for its tokens


def test_edits_regenerated_turns_and_branches(fresh, shot):
    start = [SystemMessage("You are kind."), shot("Look at this and tell me", "red")]
    said, _ = fresh.ask(start)
    again, usage = fresh.ask(start)  # the same turn anew
    assert again == said
    assert usage.cache_read == usage.input_tokens - 1

    longer = [*start, AIMessage(said), shot("And this?", "blue")]
    fresh.ask(longer)
    # An edit in the middle: what comes after it is read again, what comes before is not.
    edited = [*start, AIMessage("Something else."), shot("And this?", "blue")]
    _, usage = fresh.ask(edited)
    assert 0 < usage.cache_read < usage.input_tokens - 16
    # The first branch is still there.
    _, usage = fresh.ask(longer)
    assert usage.cache_read > 0

    # Another picture in the same place: the placeholders are equal, the picture is not.
    swapped = [SystemMessage("You are kind."), shot("Look at this and tell me", "green")]
    _, usage = fresh.ask(swapped)
    assert usage.cache_read < 20


def test_two_conversations_in_turns(fresh, shot):
    conversations = {
        color: [SystemMessage("You are kind."), shot("Hello", color)] for color in ("red", "blue")
    }
    asked = dict.fromkeys(conversations, 0)
    for turn in range(3):
        for color, messages in conversations.items():
            said, usage = fresh.ask(messages)
            assert usage.cache_read >= asked[color] - 1
            asked[color] = usage.input_tokens
            messages += [AIMessage(said), shot(f"More of {color}, {turn}")]


def test_the_answer_is_that_of_generate(fresh, shot):
    messages = [SystemMessage("You are kind."), shot("What is it?", "red", "green")]
    for engine in (fresh.warm, fresh.cold):
        prompt = engine._prompt(to_conversation(messages))
        made = engine._prompts._process(
            engine._prompts._checked_text(to_conversation(messages))[0], prompt.images
        )
        assert made["input_ids"][0].tolist() == prompt.ids
        wanted = engine.model.generate(
            **{name: value for name, value in made.items() if name != "labels"},
            max_new_tokens=GREEDY.max_tokens,
            do_sample=False,
            suppress_tokens=list(engine._worker.never),
        )[0, len(prompt.ids) :]
        assert answer(engine, messages)[0] == engine._decode(wanted.tolist())


def test_pictures_are_remembered_when_their_conversation_is_not(fresh, shot):
    messages = [SystemMessage("You are kind."), shot("What is it?", "red", "green")]
    said, _ = fresh.ask(messages)
    fresh.warm.cache.clear()
    eye = fresh.warm._worker.eye
    looked = eye.looked
    elsewhere = [shot("And who is that?", "green", "red")]
    assert fresh.ask(messages)[0] == said
    fresh.ask(elsewhere)
    assert eye.looked == looked
    assert eye.kept.state()["pictures"] >= 2
    eye.kept.clear()
    fresh.warm.cache.clear()
    assert fresh.ask(messages)[0] == said
    assert eye.looked == looked + 2


def test_a_stopped_answer_can_be_continued(fresh, shot):
    messages = [shot("Tell me a story", "red")]
    running = fresh.warm.generate(to_conversation(messages), GREEDY)
    next(running)
    running.close()
    _, usage = fresh.ask(messages)
    assert usage.cache_read == usage.input_tokens - 1


def test_attention_in_both_directions_knows_the_same_prompt_and_the_pictures(tmp_path, shot):
    pair = Pair(tiny_models.build_paligemma(tmp_path / "paligemma"))
    messages = [SystemMessage("You are kind."), shot("Look at this", "red", "blue")]
    said, usage = pair.ask(messages)
    assert usage.cache_read == 0
    assert pair.warm._worker.eye.looked == 2
    again, usage = pair.ask(messages)  # regenerated
    assert (again, usage.cache_read) == (said, usage.input_tokens - 1)
    messages += [AIMessage(said), shot("And this?", "red")]
    later, usage = pair.ask(messages)
    assert usage.cache_read == 0  # what was read of the beginning did not see its new end
    assert pair.warm._worker.eye.looked == 2
    assert pair.ask(messages)[0] == later
    other = [SystemMessage("You are rude."), shot("Look at this", "blue")]
    for _ in range(2):
        pair.ask(other)
        assert pair.ask(messages)[0] == later


def test_the_budget_holds_and_the_oldest_goes(tiny_text_model):
    # 2 layers x keys and values x 2 heads x 12 numbers x 4 bytes
    per_token = 2 * 2 * 2 * 12 * 4
    budget = 400 * per_token
    engine = TransformersEngine(str(tiny_text_model), cache_bytes=budget)

    def known(name):
        return answer(engine, [HumanMessage(name * 20)])[1].cache_read

    for name in "abcdefgh":
        known(name)
        state = engine.cache.state()
        assert state["tokens"] * per_token <= state["bytes"] <= budget
        assert state["in_use"] == 0
    assert 1 <= state["conversations"] < 8
    assert known("h") > 10
    assert known("a") < 10


def test_a_shared_beginning_never_ends_inside_a_picture():
    keys = [1, 2, -7, -7, -7, 3, 4]
    prompt = Prompt(keys, keys, spans=[(2, 5)])
    assert shared_beginning(keys, prompt) == 6  # one is always left to compute
    assert shared_beginning([1, 2, -7, -7, -7, 3, 9], prompt) == 6
    assert shared_beginning([1, 2, -7, -7], prompt) == 2
    assert shared_beginning([1, 2, -8, -8, -8, 3], prompt) == 2
    assert shared_beginning([9], prompt) == 0
    ends_with_picture = Prompt([1, -7, -7], [1, -7, -7], spans=[(1, 3)])
    assert shared_beginning([1, -7, -7], ends_with_picture) == 1


def test_a_branch_leaves_the_original_whole():
    import torch

    from mmagent.engine.rowcache import RowCache

    cache = RowCache()
    numbers = torch.arange(100.0).reshape(1, 1, 100, 1)
    cache.update(numbers, numbers, 0)
    kept = ConversationCache(max_bytes=10_000)
    kept.lend(entry := Remembered(list(range(100)), cache, asked=90))
    assert kept.state()["in_use"] == 1
    kept.put(entry)
    assert kept.state()["in_use"] == 0
    sibling = kept.take(Prompt([0, 1, 2, 500], [0, 1, 2, 500]))
    assert sibling.keys == [0, 1, 2]
    assert sibling.cache.get_seq_length() == 3
    sibling.cache.update(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), 0)
    assert kept.state()["tokens"] == 100
    longer = [*range(100), 7]
    original = kept.take(Prompt(longer, longer))
    assert original.keys == list(range(100))
    assert torch.equal(original.cache.layers[0].keys, numbers)
    assert kept.state()["conversations"] == 0
    assert kept.take(Prompt([900], [900])) is None


def test_models_whose_state_is_no_function_of_the_tokens_remember_nothing():
    from types import SimpleNamespace

    from mmagent.engine.loading import _is_reusable

    def model(kind, **more):
        config = SimpleNamespace(is_encoder_decoder=False, model_type=kind)
        return SimpleNamespace(config=config, **more)

    text_config = SimpleNamespace()
    assert not _is_reusable(model("mllama"), text_config)
    assert not _is_reusable(model("other", rope_deltas=None), text_config)
