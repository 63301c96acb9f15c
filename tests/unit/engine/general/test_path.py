import pytest
import torch

from domain.runs import LoraMethod
from engine.general.layout import Layout
from engine.stream import Part
from tests.unit.engine.general.small_models import CONFIGS, Twins, rows

ARCHITECTURES = pytest.mark.parametrize("architecture", CONFIGS)
LORA = LoraMethod(lora_rank=4, alpha=8)
# peft's "all-linear" reaches into experts of this one.
METHODS = {"qwen3_moe": LORA.model_copy(update={"target_modules": ("q_proj", "k_proj", "v_proj", "o_proj")})}


@ARCHITECTURES
def test_the_loss_and_every_gradient_are_pefts(architecture: str) -> None:
    twins = Twins(CONFIGS[architecture], METHODS.get(architecture, LORA))
    documents = rows(3)
    passed = twins.path.gradients([Part(twins.adapter, documents, scale=0.1)])
    assert passed.sums[0].loss == pytest.approx(twins.peft_backward(documents, 0.1), rel=1e-5)
    assert twins.worst_gradient() < 1e-4


@ARCHITECTURES
def test_models_with_plain_causal_attention_are_packed(architecture: str) -> None:
    assert Twins(CONFIGS[architecture], LORA).path.choice.layout is Layout.PACKED


def test_weights_after_four_steps_are_pefts() -> None:
    twins = Twins(CONFIGS["llama"], LORA)
    ours = torch.optim.AdamW([twins.adapter.masters_P], lr=1e-3)
    theirs = torch.optim.AdamW(twins.trained.values(), lr=1e-3)
    for step in range(4):
        documents = rows(step)
        twins.adapter.forget_gradient()
        theirs.zero_grad()
        twins.path.gradients([Part(twins.adapter, documents, scale=0.1)])
        twins.peft_backward(documents, 0.1)
        ours.step()
        theirs.step()
    for name, parameter in twins.trained.items():
        torch.testing.assert_close(twins.adapter.values[name], parameter.detach(), rtol=0, atol=1e-5)
