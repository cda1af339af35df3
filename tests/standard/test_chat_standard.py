"""LangChain's own suites for chat models, on a real (small, random) vision-language model."""

from __future__ import annotations

import http.server
import io
import threading
import wave

import numpy as np
import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from mmagent import ChatMMAgent
from mmagent.media import MediaPolicy

MEDIA = {
    "https://raw.githubusercontent.com/langchain-ai/docs/"
    "4d11d08b6b0e210bd456943f7a22febbd168b543/src/images/agentic-rag-output.png": "/picture.png",
    "https://www.w3.org/WAI/ER/tests/xhtml/testfiles/resources/pdf/dummy.pdf": "/dummy.pdf",
    "https://upload.wikimedia.org/wikipedia/commons/6/6a/Northern_Flicker_202280456.wav": "/b.wav",
}
"""What the suite fetches, and where the local server has its like."""
THAT_FETCH = (
    "test_image_inputs",
    "test_image_tool_message",
    "test_pdf_inputs",
    "test_pdf_tool_message",
    "test_audio_inputs",
    "test_anthropic_inputs",
)


class ChatMMAgentReads:
    """What both suites are told of the class and of what its messages may hold."""

    @property
    def chat_model_class(self):
        return ChatMMAgent

    @property
    def supports_image_inputs(self):
        return True

    @property
    def supports_image_urls(self):
        return True

    @property
    def supports_image_tool_message(self):
        return True

    @property
    def supports_pdf_inputs(self):
        return True

    @property
    def supports_pdf_tool_message(self):
        return True

    @property
    def supports_video_inputs(self):
        return True


class ChatMMAgentTells(ChatMMAgentReads):
    """What the suite of integration is told besides: which details of usage are reported."""

    @property
    def supported_usage_metadata_details(self):
        details = ["cache_read_input", "reasoning_output"]
        return {"invoke": details, "stream": details}

    def invoke_with_cache_read_input(self, *, stream=False):
        model = ChatMMAgent(**self.chat_model_params)
        model.invoke("What was read once is known.")
        answer = self._answer(model, stream)
        assert answer.usage_metadata["input_token_details"]["cache_read"] > 0
        return answer

    def invoke_with_reasoning_output(self, *, stream=False):
        return self._answer(ChatMMAgent(**self.chat_model_params), stream)

    def _answer(self, model, stream):
        said = "What was read once is known."
        return sum_of(model.stream(said)) if stream else model.invoke(said)


def sum_of(chunks):
    whole = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    return whole


class TestChatMMAgentUnit(ChatMMAgentReads, ChatModelUnitTests):
    @pytest.fixture(autouse=True)
    def _folder(self, tiny_llava):
        type(self).folder = str(tiny_llava)

    folder = "tiny"

    @property
    def chat_model_params(self):
        return {"model": self.folder}

    # test_serdes skips: LangChain loads no class from outside of its own packages.
    @property
    def init_from_env_params(self):
        return {"MMAGENT_MODEL": "echo"}, {}, {"model": "echo"}


def a_pdf() -> bytes:
    from PIL import Image

    target = io.BytesIO()
    Image.new("RGB", (200, 280), "white").save(target, "PDF")
    return target.getvalue()


def a_sound() -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        noise = np.random.default_rng(0).integers(-3_000, 3_000, 16_000)
        file.writeframes(noise.astype("<i2").tobytes())
    return target.getvalue()


@pytest.fixture(scope="module")
def media_server(picture):
    """A server on this machine; its address."""
    served = {
        "/picture.png": ("image/png", picture("green", size=(320, 200))),
        "/dummy.pdf": ("application/pdf", a_pdf()),
        "/b.wav": ("audio/wav", a_sound()),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            kind, data = served[self.path]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def local_media(media_server, monkeypatch):
    """The suite's tests as they are, but for the addresses: nothing leaves this machine."""
    monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "mmagent's tests")
    for name in THAT_FETCH:
        test = getattr(ChatModelIntegrationTests, name)
        constants = tuple(
            f"http://{media_server}{MEDIA[value]}"
            if isinstance(value, str) and value in MEDIA
            else value
            for value in test.__code__.co_consts
        )
        assert constants != test.__code__.co_consts
        monkeypatch.setattr(test, "__code__", test.__code__.replace(co_consts=constants))
    return media_server


@pytest.fixture(scope="module")
def bundled_chat(bundled_model):
    """The bundled model, loaded once for all tests that ask for its folder."""
    model = ChatMMAgent(model=str(bundled_model))
    model.load()
    return model


# Streaming is timed only where recorded traffic is played back; here it is run once.
@pytest.mark.bundled
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")
class TestBundledModel(ChatMMAgentTells, ChatModelIntegrationTests):
    """The suite on the bundled model, calls and their values included; held out of its training."""

    @pytest.fixture(autouse=True)
    def _ready(self, bundled_chat, local_media, moonshine, monkeypatch):
        monkeypatch.setattr(type(self), "folder", bundled_chat.model)
        monkeypatch.setattr(type(self), "host", local_media)
        monkeypatch.setattr(type(self), "listener", str(moonshine))

    folder = host = listener = ""

    @property
    def chat_model_params(self):
        return {
            "model": self.folder,
            "max_tokens": 128,
            "temperature": 0,
            "media_policy": MediaPolicy(allowed_hosts=(self.host,)),
            "transcriber": self.listener,
        }

    @property
    def has_tool_calling(self):
        return True

    @property
    def has_tool_choice(self):
        return True

    @property
    def has_structured_output(self):
        return True

    @property
    def supports_json_mode(self):
        return True

    @property
    def enable_vcr_tests(self):
        return True  # there is no traffic to record

    @property
    def supports_audio_inputs(self):
        return True

    @property
    def supports_anthropic_inputs(self):
        return True

    @property
    def supports_model_override(self):
        return True

    @property
    def model_override_value(self):
        return "echo"


def test_a_model_that_hears_passes_the_test_of_sound(tiny_hearing, local_media):
    class Suite(ChatMMAgentReads, ChatModelIntegrationTests):
        @property
        def supports_audio_inputs(self):
            return True

    model = ChatMMAgent(model=str(tiny_hearing), max_tokens=20, temperature=0)
    Suite().test_audio_inputs(model)
    assert not model.transcriber
