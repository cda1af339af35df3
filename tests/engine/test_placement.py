"""Where weights go, and what cannot go together."""

from __future__ import annotations

import sys

import pytest
import torch

from mmagent.engine.placement import place
from mmagent.errors import MissingDependencyError, UsageError


def test_a_cpu_gets_single_precision(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = place()
    assert (found.device, found.options, found.compiles) == ("cpu", {"dtype": torch.float32}, False)


def test_a_gpu_comes_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert place().device == "cuda"
    assert place().options == {"dtype": "auto"}
    assert place("cuda:1", "bfloat16").options == {"dtype": torch.bfloat16}
    spread = place("balanced")
    assert spread.device is None
    assert spread.options["device_map"] == "balanced"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"device": "toaster"}, "not a torch device"),
        ({"device": "cuda"}, "no CUDA GPU"),
        ({"device": "mps"}, "no Apple GPU"),
        ({"device": "balanced"}, "torch finds none"),
        ({"dtype": "int8"}, "not a dtype"),
        ({"quantization": "2bit"}, "use int8, 8bit, 4bit"),
        ({"quantization": "4bit", "compile": True}, "opaque to torch.compile"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(settings, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=reason):
        place(**settings)


def test_apples_gpu_does_not_quantise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert place().device == "mps"
    with pytest.raises(UsageError, match="does not run on Apple's GPU"):
        place(quantization="int8")


def test_a_compiled_model_is_not_spread(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UsageError, match="one device"):
        place("balanced", compile=True)


@pytest.mark.parametrize(("way", "package"), [("int8", "torchao"), ("4bit", "bitsandbytes")])
def test_a_missing_package_is_named_with_its_command(way, package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(MissingDependencyError, match=rf"{package}: pip install 'mmagent\[quant"):
        place(quantization=way)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "8bit", "4bit"])
def test_a_quantised_model_answers(quantization, tiny_llava):
    # Of an extra of its own: both packages are large, and slow to import.
    pytest.importorskip("torchao" if quantization == "int8" else "bitsandbytes")
    from mmagent import ChatMMAgent

    model = ChatMMAgent(model=str(tiny_llava), quantization=quantization, max_tokens=4)
    assert model.invoke("Hello").usage_metadata["output_tokens"] >= 1


def test_a_model_without_eyes_says_so_before_its_weights_are_read(
    tiny_text_model, picture, tmp_path, monkeypatch
):
    import base64

    from mmagent import ChatMMAgent
    from mmagent.errors import MediaError

    # A configuration and nothing else: loading it would fail otherwise.
    (tmp_path / "config.json").write_bytes((tiny_text_model / "config.json").read_bytes())
    data = base64.b64encode(picture()).decode()
    block = {"type": "image", "base64": data, "mime_type": "image/png"}
    with pytest.raises(MediaError, match="takes no images: 'llama' models read text alone"):
        ChatMMAgent(model=str(tmp_path)).invoke([("user", [block])])
