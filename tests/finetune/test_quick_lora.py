"""A layer and its adapter as one matrix: the same values and gradients as PEFT's."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from mmagent.finetune.bundled.quick_lora import quicken


class Two(nn.Module):
    def __init__(self, bias=False):
        super().__init__()
        self.first, self.last = nn.Linear(12, 20, bias=bias), nn.Linear(20, 6, bias=bias)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def adapted(**options):
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["first", "last"], **options)
    model = get_peft_model(Two(bias=options.pop("bias_", False)), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model


def gradients(model, x):
    x = x.clone().requires_grad_()
    model(x).pow(2).sum().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None} | {"x": x.grad}


def test_values_and_gradients_are_those_of_peft():
    x = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1))
    plain, quick = adapted(), adapted()
    assert quicken(quick) == 2
    torch.testing.assert_close(quick(x), plain(x), rtol=1e-5, atol=1e-5)
    wanted, got = gradients(plain, x), gradients(quick, x)
    assert set(got) == set(wanted)
    assert sum("lora_" in name for name in got) == 4
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-4)


def test_an_adapter_that_stands_still_gets_no_gradient_and_lets_others_learn():
    quick = adapted()
    quicken(quick)
    still = [p for n, p in quick.named_parameters() if "last" in n and "lora_" in n]
    for parameter in still:
        parameter.requires_grad_(False)
    found = gradients(quick, torch.randn(2, 12))
    assert all(parameter.grad is None for parameter in still)
    assert sum("first" in name and "lora_" in name for name in found) == 2


def test_other_kinds_of_adapters_are_refused():
    with pytest.raises(ValueError, match="without bias"):
        quicken(adapted(use_dora=True))
