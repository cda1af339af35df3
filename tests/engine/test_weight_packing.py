"""Weights in float16: where nothing is lost, the same answers from half of the bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny_models
import torch
from langchain_core.messages import AIMessage, HumanMessage
from torch import nn

from mmagent.engine import Sampling, packing
from mmagent.engine.loading import load_checkpoint
from mmagent.engine.packing import PackedLinear, can_pack, pack, weight_bytes
from mmagent.engine.placement import place
from mmagent.engine.transformers_engine import TransformersEngine
from mmagent.messages import to_conversation

pytestmark = pytest.mark.skipif(not can_pack(), reason="FBGEMM is not in this build of torch")

GREEDY = Sampling(max_tokens=12, temperature=0)
QUESTIONS = ("Hi", "Tell me about the weather, please.", "What do you remember about my order?")


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch):
    monkeypatch.setattr(packing, "_WORTHWHILE", 0)


@pytest.fixture(scope="module", params=["float16", "bfloat16", "tied"])
def half_model(request, tmp_path_factory):
    """A checkpoint whose weights were made in half precision."""
    folder = tmp_path_factory.mktemp(request.param)
    dtype = torch.float16 if request.param == "tied" else getattr(torch, request.param)
    return tiny_models.build_text_only(folder, dtype=dtype, tied=request.param == "tied")


def answer(engine, text, **options):
    messages = text if isinstance(text, list) else [HumanMessage(text)]
    chunks = list(engine.generate(to_conversation(messages), GREEDY, **options))
    return "".join(chunk.text for chunk in chunks)


# ---- the layer -----------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_layer(bias):
    torch.manual_seed(1)
    plain = nn.Linear(70, 33, bias=bias).eval()
    with torch.no_grad():
        plain.weight.copy_(plain.weight.half())
        packed = PackedLinear(plain)
        for shape in ((1, 70), (8, 1, 70), (2, 9, 70)):
            rows = torch.randn(shape)
            torch.testing.assert_close(packed(rows), plain(rows), rtol=1e-5, atol=1e-5)
    assert torch.equal(packed.weight, plain.weight)
    assert not packed.training
    assert packed.nbytes() == plain.weight.nbytes // 2


def test_a_packed_model_says_and_saves_its_weights(half_model):
    plain = load_checkpoint(str(half_model), dtype="float32").model
    wanted = {name: value.clone() for name, value in plain.state_dict().items()}
    before = weight_bytes(plain)
    assert pack(plain) == 15  # seven in each of two layers, and the head
    found = plain.state_dict()
    assert found.keys() == wanted.keys()
    for name in wanted:  # the very smallest numbers of bfloat16 are less than float16's steps
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=2.0**-25)
    assert weight_bytes(plain) < before


def test_packing_draws_no_random_numbers(half_model):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    load_checkpoint(str(half_model))
    assert torch.equal(torch.rand(1), wanted)


# ---- which layers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "packs", "rounds"),
    [
        ({}, True, False),
        ({"dtype": "float16"}, True, True),
        ({"dtype": "float32"}, False, False),
        ({"dtype": "bfloat16"}, False, False),
        ({"compile": True}, False, False),
        ({"dtype": "float16", "compile": True}, False, False),
    ],
)
def test_who_asks_for_what(settings, packs, rounds):
    found = place("cpu", **settings)
    assert (found.packs, found.rounds) == (packs, rounds)
    if rounds:
        assert found.options["dtype"] == torch.float32  # what it computes in


def test_where_the_kernels_are_missing_float16_is_torchs_own(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    found = place("cpu", "float16")
    assert (found.packs, found.options["dtype"]) == (False, torch.float16)


def test_weights_that_would_be_rounded_stay_unless_it_is_asked_for(tiny_text_model):
    assert load_checkpoint(str(tiny_text_model)).packed == 0
    rounded = load_checkpoint(str(tiny_text_model), dtype="float16")
    assert rounded.packed == 15
    assert rounded.model.dtype == torch.float32
    assert rounded.parameters == load_checkpoint(str(tiny_text_model)).parameters


def test_one_layer_that_does_not_fit_stays_as_it_is(half_model):
    model = load_checkpoint(str(half_model), dtype="float32").model
    layers = model.model.layers
    with torch.no_grad():
        layers[0].mlp.up_proj.weight[3, 4] = 1e6  # more than float16 has
        layers[1].mlp.up_proj.weight.mul_(1.0001)
    assert pack(model) == 13
    assert type(layers[0].mlp.up_proj) is type(layers[1].mlp.up_proj) is nn.Linear


def test_the_layers_of_a_vision_tower_stay(tmp_path):
    folder = tiny_models.build_llava(tmp_path)
    loaded = load_checkpoint(str(folder), dtype="float16")
    assert loaded.packed == 15
    packed = [name for name, m in loaded.model.named_modules() if isinstance(m, PackedLinear)]
    assert all("language_model" in name or name == "lm_head" for name in packed)


def test_a_recurrent_model_is_left_alone(tmp_path):
    assert load_checkpoint(str(tiny_models.build_mamba(tmp_path)), dtype="float16").packed == 0


# ---- the same answers ----------------------------------------------------------------------


def test_answers_are_those_of_the_plain_model_alone_together_and_later(half_model):
    plain = TransformersEngine(str(half_model), dtype="float32", cache_bytes=0)
    engine = TransformersEngine(str(half_model))
    assert engine.state()["packed"] == 15
    assert engine.state()["weights"] < plain.state()["weights"]
    wanted = [answer(plain, text) for text in QUESTIONS]
    assert [answer(engine, text) for text in QUESTIONS] == wanted
    engine.cache.clear()
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        assert list(pool.map(lambda text: answer(engine, text), QUESTIONS)) == wanted
    for text, said in zip(QUESTIONS, wanted, strict=True):
        longer = [HumanMessage(text), AIMessage(said), HumanMessage("Why?")]
        assert answer(engine, longer) == answer(plain, longer)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"target_modules": "all-linear"}])
def test_adapters_sit_on_packed_layers(tmp_path, options):
    half_model = tiny_models.build_text_only(tmp_path / "base", dtype=torch.float16, tied=True)
    adapter = str(tiny_models.build_adapter(half_model, tmp_path / "one", 3, **options))
    plain = TransformersEngine(str(half_model), dtype="float32", cache_bytes=0)
    engine = TransformersEngine(str(half_model))
    asked = [(text, name) for text in QUESTIONS for name in (None, adapter)]
    wanted = [answer(plain, text, adapter=name) for text, name in asked]
    assert len(set(wanted)) > len(QUESTIONS)
    assert [answer(engine, text, adapter=name) for text, name in asked] == wanted
    engine.cache.clear()
    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(lambda one: answer(engine, one[0], adapter=one[1]), asked))
    assert found == wanted
