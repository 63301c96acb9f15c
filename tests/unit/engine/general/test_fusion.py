"""Runs that share a pass are what they are alone."""

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from domain.runs import BottleneckMethod, FullMethod, LoraBias, LoraMethod
from engine.adapter import Adapter
from engine.general.adapted import Factors
from engine.general.layout import Layout
from engine.general.path import GeneralPath
from engine.path import Sums
from engine.stream import Part
from engine.tokenise import TokenisedRow
from tests.unit.engine.general.small_models import CONFIGS, CPU, SIZES, Twins, gradients_of, random_network, rows

METHODS = (
    LoraMethod(lora_rank=4, alpha=8),
    LoraMethod(lora_rank=3, use_dora=True, target_modules=("q_proj", "c_attn", "c_proj", "down_proj", "dense")),
    LoraMethod(lora_rank=8, dropout=0.5, target_modules=("v_proj", "o_proj", "c_fc", "c_attn", "up_proj")),
)


def adapters_on(path: GeneralPath, config: Any) -> list[Adapter]:
    return [Twins(config, method, path=path, seed=seed).adapter for seed, method in enumerate(METHODS)]


def shared(path: GeneralPath, adapters: list[Adapter], documents: list[list[TokenisedRow]]) -> tuple[list[Sums], Any]:
    for adapter in adapters:
        adapter.forget_gradient()
    parts = [
        Part(adapter, chosen, scale=0.1, seed=seed)
        for seed, (adapter, chosen) in enumerate(zip(adapters, documents, strict=True))
    ]
    sums = path.gradients(parts).sums
    return sums, [adapter.grad_P.clone() for adapter in adapters]


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "phi", "gpt2", "gpt_oss"])
def test_runs_of_different_methods_in_one_pass_are_what_they_are_alone(architecture: str) -> None:
    path = GeneralPath(random_network(CONFIGS[architecture]), CPU)
    adapters = adapters_on(path, CONFIGS[architecture])
    documents = [rows(11), rows(12, (7, 30)), rows(13, (12, 12, 3))]
    sums, together = shared(path, adapters, documents)
    for seed, (adapter, chosen) in enumerate(zip(adapters, documents, strict=True)):
        alone = gradients_of(path, adapter, chosen, scale=0.1, seed=seed)
        assert alone.abs().max() > 1e-2
        assert (together[seed] - alone).abs().max() <= 1e-6 * max(1.0, float(alone.abs().max()))
        assert sums[seed].loss == pytest.approx(
            path.gradients([Part(adapter, chosen, seed=seed)]).sums[0].loss, rel=1e-6
        )


def test_bottlenecks_share_a_pass_with_adapters() -> None:
    path = GeneralPath(random_network(CONFIGS["llama"]), CPU)
    random = torch.Generator().manual_seed(1)
    values = {}
    for site in path.bottleneck_sites:
        name = f"{site.name}.bottleneck"
        values[f"{name}.down.weight"] = torch.randn(3, 32, generator=random) * 0.1
        values[f"{name}.down.bias"] = torch.randn(3, generator=random) * 0.1
        values[f"{name}.up.weight"] = torch.randn(32, 3, generator=random) * 0.1
        values[f"{name}.up.bias"] = torch.randn(32, generator=random) * 0.1
    adapters = [adapters_on(path, CONFIGS["llama"])[0], Adapter(BottleneckMethod(width=3), values)]
    documents = [rows(11), rows(12, (7, 30))]
    _, together = shared(path, adapters, documents)
    for place, adapter in enumerate(adapters):
        alone = gradients_of(path, adapter, documents[place], scale=0.1)
        assert (together[place] - alone).abs().max() <= 1e-6


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_another_runs_data_and_weights_leave_my_gradient_bit_for_bit(architecture: str) -> None:
    path = GeneralPath(random_network(CONFIGS[architecture]), CPU)
    adapters = adapters_on(path, CONFIGS[architecture])
    _, before = shared(path, adapters, [rows(11), rows(12), rows(13)])
    adapters[0].masters_P.data.mul_(-3)
    _, after = shared(path, adapters, [rows(21), rows(12), rows(23)])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[2], after[2])


def test_a_padded_layout_gives_what_a_packed_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [rows(11), rows(12, (7, 30))]
    found = []
    for supported in (True, False):
        monkeypatch.setattr(transformers.LlamaForCausalLM, "_supports_attention_backend", supported)
        path = GeneralPath(random_network(CONFIGS["llama"]), CPU)
        assert path.choice.layout is (Layout.PACKED if supported else Layout.PADDED)
        monkeypatch.setattr(transformers.LlamaForCausalLM, "_supports_attention_backend", True)
        found.append(shared(path, adapters_on(path, CONFIGS["llama"])[:2], documents))
    for packed_sums, padded_sums in zip(found[0][0], found[1][0], strict=True):
        assert padded_sums.loss == pytest.approx(packed_sums.loss, rel=1e-6)
        assert padded_sums.correct == packed_sums.correct
    for packed, padded in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(padded, packed, rtol=0, atol=1e-6)


def test_runs_that_train_the_base_itself_are_alone() -> None:
    path = GeneralPath(random_network(CONFIGS["gpt2"]), CPU)
    assert path.fusable(METHODS[0])
    assert path.fusable(BottleneckMethod())
    assert not path.fusable(FullMethod())
    assert not path.fusable(LoraMethod(bias=LoraBias.ALL))


class Experts(nn.Module):
    """A feed-forward block that sends every other token to a linear layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.expert = nn.Linear(32, 32)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        flat = hidden.reshape(-1, 32)
        return torch.stack((flat[::2], self.expert(flat[::2])), 1).flatten(0, 1)[: len(flat)].view(hidden.shape)


def test_layers_that_see_a_choice_of_tokens_are_adapted_by_one_run_at_a_time() -> None:
    network = random_network(CONFIGS["llama"])
    network.model.layers[1].mlp = Experts().requires_grad_(requires_grad=False)
    path = GeneralPath(network, CPU)
    assert path.choice.routed == {"model.layers.1.mlp.expert"}
    assert not path.fusable(METHODS[0])
    assert path.fusable(BottleneckMethod())


def test_parts_without_rows_or_adapter_are_measured_and_nothing_else() -> None:
    path = GeneralPath(random_network(CONFIGS["llama"]), CPU)
    adapter = adapters_on(path, CONFIGS["llama"])[0]
    unsupervised = TokenisedRow(1, (1, 2, 3), (False, False, False))
    assert path.gradients([Part(adapter, []), Part(adapter, [unsupervised])]) == ([Sums(0.0, 0)] * 2, 0)
    alone = path.losses([Part(adapter, rows(3))]).sums[0]
    passed = path.losses([Part(None, rows(4)), Part(adapter, []), Part(adapter, rows(3))])
    assert passed.sums[1] == Sums(0.0, 0)
    assert passed.sums[2].loss == pytest.approx(alone.loss, rel=1e-6)
    assert passed.computed_tokens == 2 * (5 + 23 + 9 + 14)
    assert not adapter.grad_P.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients_point_where_full_ones_do(dtype: torch.dtype) -> None:
    found = []
    for number_format in (torch.float32, dtype):
        path = GeneralPath(random_network(CONFIGS["llama"]).to(number_format), CPU)
        adapters = adapters_on(path, CONFIGS["llama"])
        found.append(shared(path, adapters, [rows(11), rows(12, (7, 30)), rows(13)])[1])
    for full, half in zip(*found, strict=True):
        assert half.dtype is torch.float32
        assert torch.cosine_similarity(full, half, dim=0) > 0.99


def test_dropout_keeps_the_share_it_says() -> None:
    nothing = torch.zeros(0)
    factors = Factors(slice(0, 1), 1.0, nothing, nothing, None, None, dropout=0.25, seed=3)
    keep = factors.mask(torch.ones(200, 200))
    assert keep is not None
    # Four standard deviations of the mean of 40,000 draws.
    assert keep.float().mean().item() == pytest.approx(0.75, abs=4 * (0.25 * 0.75 / 40_000) ** 0.5)


def test_operations_count_every_weight_a_token_meets() -> None:
    path = GeneralPath(random_network(CONFIGS["llama"]), CPU)
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
    assert path.flops(10, 0) == 4 * 10 * 2 * layer
    assert path.flops(0, 7) == 4 * 7 * 97 * 32


def test_operations_count_the_experts_a_token_is_sent_to() -> None:
    path = GeneralPath(random_network(transformers.MixtralConfig(**SIZES, num_local_experts=4)), CPU)
    attention = 2 * 32 * 32 + 2 * 32 * 16
    # Two of four experts, each of three products.
    assert path.flops(1, 0) == 4 * 2 * (attention + 2 * 3 * 32 * 48)
