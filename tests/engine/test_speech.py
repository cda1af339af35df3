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
