"""LangChain's own suite for chat models, on a real (small, random) vision-language model."""

from __future__ import annotations

import httpx
import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from mmagent import ChatMMAgent


class TestChatMMAgentUnit(ChatModelUnitTests):
    @pytest.fixture(autouse=True)
    def _folder(self, tiny_llava):
        type(self).folder = str(tiny_llava)

    folder = "tiny"

    @property
    def chat_model_class(self):
        return ChatMMAgent

    @property
    def chat_model_params(self):
        return {"model": self.folder}

    @property
    def init_from_env_params(self):
        return {"MMAGENT_MODEL": "echo"}, {}, {"model": "echo"}

    @property
    def supports_image_inputs(self):
        return True

    @property
    def supports_image_tool_message(self):
        return True


class TestChatMMAgentIntegration(ChatModelIntegrationTests):
    """What does not depend on what a model knows; the values of calls would (test_structured)."""

    @pytest.fixture(autouse=True)
    def _folder(self, tiny_llava, picture, monkeypatch):
        type(self).folder = str(tiny_llava)
        # The suite fetches its picture itself before it shows it to the model.
        answer = httpx.Response(200, content=picture("green", size=(320, 200)))
        monkeypatch.setattr(httpx, "get", lambda url, **options: answer)

    folder = "tiny"

    @property
    def chat_model_class(self):
        return ChatMMAgent

    @property
    def chat_model_params(self):
        return {"model": self.folder, "max_tokens": 60, "temperature": 0}

    @property
    def has_tool_calling(self):
        return False

    @property
    def has_structured_output(self):
        return True

    @property
    def supports_json_mode(self):
        return True

    @property
    def supports_image_inputs(self):
        return True

    @property
    def supports_image_tool_message(self):
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
