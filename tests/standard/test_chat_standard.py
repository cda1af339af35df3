"""LangChain's own suite for chat models, on a real (small, random) vision-language model."""

from __future__ import annotations

import pytest
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
