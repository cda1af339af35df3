"""Sound that a checkpoint hears itself, on small Qwen2-Audio and Audio Flamingo 3 models."""

from __future__ import annotations

import base64
import io
import itertools
import json
import wave

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from mmagent import ChatMMAgent
from mmagent.attachments import read_attachment
from mmagent.errors import MediaError
from mmagent.media import MediaPolicy
from mmagent.messages import to_conversation
from mmagent.sounds import SAMPLE_RATE, load_sound


def wav(seed: int, seconds: float = 1.0, *, rate: int = SAMPLE_RATE, channels: int = 1) -> bytes:
    """Noise."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        noise = np.random.default_rng(seed).integers(-9000, 9000, int(seconds * rate) * channels)
        file.writeframes(noise.astype("<i2").tobytes())
    return target.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def heard(seed: int, seconds: float = 1.0, **how: int) -> dict[str, str]:
    return {
        "type": "audio",
        "base64": b64(wav(seed, seconds, **how)),
        "mime_type": "audio/wav",
    }


@pytest.fixture(scope="module")
def flamingo(tmp_path_factory):
    from tiny_models import build_audio_flamingo

    return build_audio_flamingo(tmp_path_factory.mktemp("flamingo") / "model")


@pytest.fixture(scope="module", params=["qwen2_audio", "audio_flamingo"])
def pair(request):
    """The same model with a cache and without."""
    name = {"qwen2_audio": "tiny_hearing", "audio_flamingo": "flamingo"}[request.param]
    folder = str(request.getfixturevalue(name))
    fixed = {"model": folder, "temperature": 0, "max_tokens": 10}
    return ChatMMAgent(**fixed), ChatMMAgent(**fixed, cache_bytes=0)


@pytest.fixture(scope="module")
def hearing(tiny_hearing):
    return ChatMMAgent(model=str(tiny_hearing), temperature=0, max_tokens=10)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_prompt_and_the_answer_are_those_of_the_processor_and_the_model(pair, beams):
    import torch

    warm, _ = pair
    engine = warm.load()
    messages = [HumanMessage(["What is it?", heard(1, 0.7)])]
    prompt = engine._prompts.build(to_conversation(messages, hears=lambda: True))
    made = engine._prompts.processor(
        text=[warm.prompt_text(messages)],
        audio=[sound.samples() for sound in prompt.media],
        sampling_rate=SAMPLE_RATE,
        return_tensors="pt",
    )
    assert prompt.ids == made["input_ids"][0].tolist()
    with torch.no_grad():
        whole = engine.model.generate(**made, max_new_tokens=10, do_sample=False, num_beams=beams)
    wanted = engine._prompts.tokenizer.decode(whole[0, len(prompt.ids) :], skip_special_tokens=True)
    assert warm.invoke(messages, num_beams=beams).text == wanted


def first_chance(model, messages):
    """How likely the first token of an answer was: a number for what the model was shown."""
    answer = model.invoke(messages, logprobs=True, max_tokens=1)
    return answer.response_metadata["logprobs"]["content"][0]["logprob"]


def test_sound_counts_as_many_tokens_as_it_lasts(pair):
    warm, _ = pair
    counts = [
        warm.get_num_tokens_from_messages([HumanMessage(["Listen:", heard(1, seconds)])])
        for seconds in (0.4, 0.8, 1.6)
    ]
    assert [later - earlier for earlier, later in itertools.pairwise(counts)] == [10, 20]
    messages = [HumanMessage(["Listen:", heard(1, 0.8)])]
    assert warm.invoke(messages).usage_metadata["input_tokens"] == counts[1]


def test_different_sounds_are_different_to_the_model(pair):
    warm, _ = pair
    chances = [first_chance(warm, [HumanMessage(["Listen:", heard(seed)])]) for seed in (1, 2, 1)]
    assert chances[0] == pytest.approx(chances[2], abs=1e-5)
    assert chances[0] != pytest.approx(chances[1], abs=1e-3)


def test_answers_with_the_cache_are_those_without(pair):
    warm, fresh = pair
    one, two = heard(11), heard(12, 0.5)
    first = [HumanMessage(["What is this?", one, "And that:", two])]
    answer = AIMessage("A bird.")
    more = HumanMessage(["And now?", heard(13, 0.3)])
    other = heard(14, 0.5)
    talks = {
        "first": first,
        "again": first,
        "next turn": [*first, answer, more],
        "regenerated": [*first, answer, more],
        "the other way round": [HumanMessage(["What is this?", two, "And that:", one]), more],
        "another sound as long": [HumanMessage(["What is this?", one, "And that:", other]), more],
        "an edit after the sound": [*first, AIMessage("A cat."), more],
        "no sound": [HumanMessage(["What is this?"])],
    }
    read = {}
    for name, messages in talks.items():
        found = warm.invoke(messages)
        assert found.text == fresh.invoke(messages).text, name
        read[name] = found.usage_metadata["input_token_details"]["cache_read"]
    tokens = warm.get_num_tokens_from_messages(first)
    assert read["next turn"] >= tokens - 5
    # Neither the same placeholders nor a part of a sound pass for the sound.
    assert read["another sound as long"] < tokens - 12
    assert read["the other way round"] < 15


def test_sounds_share_steps_with_text(hearing):
    asked = [[HumanMessage(["Listen:", heard(seed, 0.2 * seed)])] for seed in range(1, 5)] + [
        [HumanMessage("No sound here.")]
    ]
    together = hearing.batch(asked)
    assert [answer.text for answer in together] == [hearing.invoke(one).text for one in asked]
    assert hearing.load().state()["batched"]


def test_order_of_text_and_sound_is_kept(hearing):
    text = hearing.prompt_text(
        [HumanMessage(["before", heard(1), "between", heard(2), "after"]), AIMessage("yes")]
    )
    places = [text.index(word) for word in ("before", "between", "after")]
    marks = [at for at in range(len(text)) if text.startswith("<|AUDIO|>", at)]
    assert places[0] < marks[0] < places[1] < marks[1] < places[2]


def test_every_form_of_a_block_is_heard(hearing, tmp_path):
    data = wav(5, 0.5)
    file = tmp_path / "bird song.wav"
    file.write_bytes(data)
    allowed = hearing.model_copy(update={"media_policy": MediaPolicy(allowed_roots=(tmp_path,))})
    blocks = [
        {"type": "audio", "base64": b64(data), "mime_type": "audio/wav"},
        {"type": "audio", "source_type": "base64", "data": b64(data), "mime_type": "audio/wav"},
        {"type": "audio", "data": data},
        {"type": "audio", "url": f"data:audio/wav;base64,{b64(data)}"},
        {"type": "audio", "url": file.as_uri()},
        {"type": "audio", "path": file},
        {"type": "input_audio", "input_audio": {"data": b64(data), "format": "wav"}},
        {"type": "file", "base64": b64(data), "mime_type": "audio/wav"},
    ]
    answers = {allowed.invoke([HumanMessage(["Listen:", block])]).text for block in blocks}
    assert len(answers) == 1
    with pytest.raises(MediaError, match="outside the folders"):
        hearing.invoke([HumanMessage([{"type": "audio", "path": file}])])
    with pytest.raises(MediaError, match="not allowed"):
        hearing.invoke([HumanMessage([{"type": "audio", "url": "https://example.org/a.wav"}])])


def test_what_a_tool_recorded_is_heard(hearing):
    call = {"name": "record", "args": {}, "id": "1"}
    talk = [HumanMessage("Record it."), AIMessage("", tool_calls=[call])]
    chances = [
        first_chance(hearing, [*talk, ToolMessage([heard(seed)], tool_call_id="1")])
        for seed in (1, 2)
    ]
    assert chances[0] != pytest.approx(chances[1], abs=1e-3)


def test_flags_tell_whether_a_model_hears(hearing, tiny_llava, tiny_hearing):
    unloaded = ChatMMAgent(model=str(tiny_hearing))
    hearing.load()
    for model in (unloaded, hearing):
        assert model.profile["audio_inputs"] is True
        assert model.profile["image_inputs"] is False
    assert ChatMMAgent(model=str(tiny_llava)).profile["audio_inputs"] is False


def test_a_model_that_does_not_hear_says_so_before_it_is_loaded(tiny_llava, tiny_text_model):
    for folder in (tiny_llava, tiny_text_model, "tiny"):
        model = ChatMMAgent(model=str(folder))
        with pytest.raises(MediaError, match=r"takes no sound; pass .*transcriber="):
            model.invoke([HumanMessage([heard(1)])])
        assert not model._engines


def test_a_checkpoint_of_a_hub_is_asked_by_its_configuration_alone(tmp_path, monkeypatch):
    import huggingface_hub

    def fetch(repository, file):
        assert file == "config.json"
        path = tmp_path / repository.replace("/", "-")
        path.write_text(json.dumps({"model_type": "llava", "vision_config": {}}), "utf-8")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    with pytest.raises(MediaError, match="takes no sound"):
        ChatMMAgent(model="someone/deaf").invoke([HumanMessage([heard(1)])])


def test_sound_stays_sound_though_there_is_a_transcriber(tiny_hearing, tiny_llava):
    asked = []

    def transcribe(sound):
        asked.append(sound)
        return "words"

    block = HumanMessage(["Listen:", heard(1)])
    hears = ChatMMAgent(model=str(tiny_hearing), transcriber=transcribe, max_tokens=2)
    assert "<|AUDIO|>" in hears.prompt_text([block])
    assert not asked
    deaf = ChatMMAgent(model=str(tiny_llava), transcriber=transcribe, max_tokens=2)
    assert "[speech, transcribed: words]" in deaf.prompt_text([block])


def test_typed_placeholders_claim_no_sound(hearing):
    typed = "Say <|AUDIO|> and <|audio_bos|>"
    text = hearing.prompt_text([HumanMessage([typed, heard(1)])])
    assert text.count("<|AUDIO|>") == 1
    ids = hearing.load()._prompts.build(to_conversation([HumanMessage(typed)])).ids
    assert hearing.load()._checkpoint.audio_token_id not in ids
    assert hearing.load()._checkpoint.audio_token_id in hearing.load()._worker.never


def test_what_would_be_cut_in_silence_is_an_error(hearing, flamingo):
    with pytest.raises(MediaError, match=r"3 seconds long .* its first 2 seconds alone"):
        hearing.invoke([HumanMessage([heard(1, 3.3)])])
    # This one hears a long recording piece by piece.
    long = ChatMMAgent(model=str(flamingo), max_tokens=1)
    assert long.get_num_tokens_from_messages([HumanMessage([heard(1, 3.3)])]) > 80


def test_sounds_are_bounded_in_number_and_length(tiny_hearing):
    policy = MediaPolicy(max_sounds=2, max_seconds=1.5)
    model = ChatMMAgent(model=str(tiny_hearing), media_policy=policy)
    with pytest.raises(MediaError, match="more than 2 recordings"):
        model.invoke([HumanMessage([heard(n, 0.1) for n in range(3)])])
    with pytest.raises(MediaError, match="2 seconds long, more than 2"):
        model.invoke([HumanMessage([heard(1, 1.9)])])


def test_a_rate_that_makes_much_of_little_is_refused_before_it_is_resampled():
    data = bytearray(wav(1, 0.5))
    data[24:28] = (1).to_bytes(4, "little")  # one sample a second: two hours
    with pytest.raises(MediaError, match="seconds"):
        load_sound(bytes(data), MediaPolicy())


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 2), (44_100, 1), (48_000, 2)])
def test_any_rate_becomes_that_of_the_model(rate, channels):
    sound = load_sound(wav(1, 1.0, rate=rate, channels=channels), MediaPolicy())
    for wanted in (SAMPLE_RATE, 24_000, SAMPLE_RATE):
        samples = sound.samples(wanted)
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        assert abs(samples.size - wanted) < wanted / 50
    assert sound.seconds == pytest.approx(1.0, abs=0.02)


def test_samples_that_are_no_numbers_become_silence():
    floats = np.array([0.5, np.nan, np.inf, -np.inf, 3e38, -7.0] * 400, "<f4").tobytes()
    head = b"WAVEfmt " + (16).to_bytes(4, "little") + (3).to_bytes(2, "little")
    head += (1).to_bytes(2, "little") + SAMPLE_RATE.to_bytes(4, "little")
    head += (4 * SAMPLE_RATE).to_bytes(4, "little") + (4).to_bytes(2, "little")
    head += (32).to_bytes(2, "little") + b"data" + len(floats).to_bytes(4, "little")
    data = b"RIFF" + (len(head) + len(floats)).to_bytes(4, "little") + head + floats
    samples = load_sound(data, MediaPolicy()).samples()
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1.0


def test_a_click_is_heard_with_silence_behind(hearing):
    assert hearing.invoke([HumanMessage(["Listen:", heard(1, 0.004)])]).text
    assert load_sound(wav(1, 0.004), MediaPolicy()).samples().size == SAMPLE_RATE // 10


def test_films_keep_their_sound_for_a_model_that_hears():
    from test_attachments import film

    parts = read_attachment(film(sound=True), "video", MediaPolicy(), None, hears=True)
    assert parts[-2].text == "[the film's sound]"
    assert parts[-1].sound is not None
    assert parts[-1].sound.seconds > 1
    silent = read_attachment(film(), "video", MediaPolicy(), None, hears=True)
    assert all(part.sound is None for part in silent)


def test_a_template_without_a_place_for_sound_says_so(tiny_hearing, tmp_path):
    import shutil

    from tiny_models import CHAT_TEMPLATE

    folder = tmp_path / "model"
    shutil.copytree(tiny_hearing, folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")
    with pytest.raises(MediaError, match="template has no place for sound"):
        ChatMMAgent(model=str(folder)).invoke([HumanMessage([heard(1)])])
