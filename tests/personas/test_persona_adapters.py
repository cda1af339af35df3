"""A persona names a LoRA adapter, and `create_companion` switches it: a real one, on a LLaVA."""

import base64
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from mmagent.agents import create_companion
from mmagent.chat_model import ChatMMAgent
from mmagent.errors import UsageError
from mmagent.personas.persona import Persona

SETTINGS: Any = {"temperature": 0, "max_tokens": 12, "cache_bytes": 1 << 20}


@pytest.fixture(scope="module")
def personas(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two personas in YAML, and beside them the adapters that they name."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    folder = tmp_path_factory.mktemp("personas")
    for seed, name in enumerate(("rex", "kim")):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_pretrained(tiny_llava)
        targets = r".*language_model\..*\.(q|v)_proj"
        config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT, of a name in transformers
            get_peft_model(model, config).save_pretrained(folder / f"{name}-adapter")
        text = f"name: {name.title()}\nadapter: {name}-adapter\n"
        (folder / f"{name}.yaml").write_text(text)
    (folder / "plain.yaml").write_text("name: Plain\n")
    return folder


def said(model: Any, persona: Any, content: Any) -> str:
    agent = create_companion(model, None, persona, user="sam")
    return str(agent.invoke({"messages": [HumanMessage(content)]})["messages"][-1].text)


def test_two_personas_with_adapters_share_one_model(
    tiny_llava: Path, personas: Path, picture: Callable[..., bytes]
) -> None:
    packed = base64.b64encode(picture("red")).decode()
    content = [
        {"type": "image", "base64": packed, "mime_type": "image/png"},
        {"type": "text", "text": "Who are you?"},
    ]
    shared = ChatMMAgent(model=str(tiny_llava), **SETTINGS)
    expected = {}
    for name in ("rex", "kim"):
        adapter = str(personas / f"{name}-adapter")
        alone = ChatMMAgent(model=str(tiny_llava), adapter=adapter, **SETTINGS)
        expected[name] = said(alone, personas / f"{name}.yaml", content)
        # Without the adapter the same persona speaks otherwise.
        bare = Persona.load(personas / f"{name}.yaml").model_copy(update={"adapter": None})
        assert said(shared, bare, content) != expected[name]
    expected["plain"] = said(shared, personas / "plain.yaml", content)
    for name in ("rex", "kim", "plain", "kim", "rex"):
        assert said(shared, personas / f"{name}.yaml", content) == expected[name], name


def test_the_models_own_adapter_stays(tiny_llava: Path, personas: Path) -> None:
    kim = ChatMMAgent(model=str(tiny_llava), adapter=str(personas / "kim-adapter"), **SETTINGS)
    rex = Persona.load(personas / "rex.yaml")
    assert said(kim, rex, "Hi") == said(kim, rex.model_copy(update={"adapter": None}), "Hi")


def test_an_adapter_that_is_not_there(tiny_llava: Path, personas: Path) -> None:
    model = ChatMMAgent(model=str(tiny_llava), **SETTINGS)
    with pytest.raises(UsageError, match="adapter"):
        said(model, Persona(name="Rex", adapter=str(personas / "nothing")), "Hi")


def test_where_an_adapter_is_looked_for(personas: Path) -> None:
    assert Persona.load(personas / "rex.yaml").adapter_path == str(personas / "rex-adapter")
    assert Persona.load(personas / "rex.yaml").adapter == "rex-adapter"
    assert Persona(name="Rex", adapter="org/name").adapter_path == "org/name"
    assert Persona(name="Rex").adapter_path is None
    # A card may have been written by anybody: it names no adapter.
    card = {"spec": "chara_card_v2", "data": {"name": "Rex", "adapter": "evil"}}
    assert Persona.from_card(card).adapter is None
