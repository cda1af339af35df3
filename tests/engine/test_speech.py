"""Speech recognition with a real architecture, small and with random weights."""

from __future__ import annotations

import base64
import io
import wave

import numpy as np
import pytest

from mmagent import ChatMMAgent
from mmagent.engine.speech import Transcriber
from mmagent.errors import ModelNotFoundError


@pytest.fixture(scope="module")
def moonshine(tmp_path_factory):
    """Folder of a Moonshine of two layers."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        MoonshineConfig,
        MoonshineForConditionalGeneration,
        PreTrainedTokenizerFast,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2Processor,
    )

    folder = tmp_path_factory.mktemp("speech") / "moonshine"
    words = ["<unk>", "<s>", "</s>", "one", "two", "three", "four", "five"]
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    torch.manual_seed(0)
    config = MoonshineConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        pad_token_id=2,
    )
    model = MoonshineForConditionalGeneration(config)
    model.generation_config.max_length = 12
    model.save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=16_000, return_attention_mask=True)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return folder


def test_a_checkpoint_turns_sound_into_words(moonshine):
    listen = Transcriber(moonshine)
    sound = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    words = listen(sound)
    assert set(words.split()) <= {"one", "two", "three", "four", "five"}
    assert words.split()
    assert listen(sound) == words


def test_a_chat_model_hears_through_it(moonshine):
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(8_000, dtype="<i2").tobytes())
    data = base64.b64encode(target.getvalue()).decode()
    block = {"type": "audio", "base64": data, "mime_type": "audio/wav"}
    model = ChatMMAgent(model="echo", transcriber=moonshine)
    answer = model.invoke([{"role": "user", "content": ["Repeat:", block]}])
    assert "speech, transcribed:" in answer.text
    assert model.profile["audio_inputs"] is True
    assert ChatMMAgent(model="echo").profile["audio_inputs"] is False


def test_no_such_checkpoint(tmp_path):
    with pytest.raises(ModelNotFoundError, match="speech recognition"):
        Transcriber(tmp_path / "none")(np.zeros(16_000, dtype=np.float32))
