"""Every method's gradients, against peft or a plain reference written here."""

import copy
from typing import Any

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional

from domain.runs import BottleneckMethod, FullMethod, LoraBias, LoraMethod
from engine.adapter import Adapter, SiteShape, lora_names
from engine.general.bottleneck import bottleneck_names
from engine.general.path import GeneralPath
from engine.stream import Part
from tests.unit.engine.general.small_models import CONFIGS, CPU, Twins, gradients_of, random_network, row_loss, rows

LORA = LoraMethod(lora_rank=4, alpha=8)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2, "c_fc": 3}, "alpha_pattern": {"down_proj": 3.0}},
        {"bias": LoraBias.ALL},
        {"bias": LoraBias.LORA_ONLY, "target_modules": ("o_proj", "down_proj", "c_attn")},
    ],
    ids=["dora", "patterns", "all_biases", "adapted_biases"],
)
def test_methods_have_the_loss_and_gradients_of_peft(architecture: str, changes: dict[str, Any]) -> None:
    twins = Twins(CONFIGS[architecture], LORA.model_copy(update=changes))
    passed = twins.path.gradients([Part(twins.adapter, rows(3), scale=0.1)])
    assert passed.sums[0].loss == pytest.approx(twins.peft_backward(rows(3), 0.1), rel=1e-5)
    assert twins.worst_gradient() < 1e-4


@pytest.mark.parametrize("bias", [LoraBias.LORA_ONLY, LoraBias.ALL])
def test_biases_are_found_and_named_as_peft_does(bias: LoraBias) -> None:
    method = LORA.model_copy(update={"bias": bias, "target_modules": ("c_attn",)})
    twins = Twins(CONFIGS["gpt2"], method)
    targets = [name for name in twins.path.linears if name.endswith("c_attn")]
    theirs = {name for name in twins.trained if name.endswith("bias")}
    assert twins.path.biases(method, targets).keys() == theirs
    assert not twins.path.biases(LORA, targets)


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_start_is_taken_off_the_base(use_dora: bool) -> None:  # noqa: FBT001
    """As with a base of W - scale B0 A0, which is how peft keeps PiSSA."""
    twins = Twins(CONFIGS["llama"], LORA.model_copy(update={"use_dora": use_dora}))
    random = torch.Generator().manual_seed(9)
    starts = {}
    for site in twins.adapter.sites:
        a, b, _ = lora_names(site.linear)
        starts[a] = torch.randn(site.A_RI.shape, generator=random) * 0.1
        starts[b] = torch.randn(site.B_OR.shape, generator=random) * 0.1
        layer = twins.peft.get_submodule(f"base_model.model.{site.linear}.base_layer")
        layer.weight.data -= site.scale * starts[b] @ starts[a]
    shapes = tuple(SiteShape(site.linear, site.rank, site.scale) for site in twins.adapter.sites)
    twins.adapter = Adapter(twins.adapter.method, twins.trained, sites=shapes, starts=starts)
    passed = twins.path.gradients([Part(twins.adapter, rows(3), scale=0.1)])
    assert passed.sums[0].loss == pytest.approx(twins.peft_backward(rows(3), 0.1), rel=1e-5)
    assert twins.worst_gradient() < 1e-4


@pytest.mark.parametrize("use_dora", [False, True])
def test_dropout_is_pefts_under_the_same_masks(use_dora: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    twins = Twins(CONFIGS["llama"], LORA.model_copy(update={"use_dora": use_dora, "dropout": 0.5}))
    masks = {}
    for name, layer in twins.peft.named_modules():
        if name.endswith("lora_dropout.default"):
            width = twins.peft.get_submodule(name.removesuffix(".lora_dropout.default")).in_features
            keep = torch.rand(14, width, generator=torch.Generator().manual_seed(len(masks))) < 0.5
            masks[name.removeprefix("base_model.model.").removesuffix(".lora_dropout.default")] = keep
            layer.forward = lambda x, keep=keep: x * keep * 2
    seeds = {name: number for number, name in enumerate(twins.path.linears)}
    by_seed = {number: masks[name] for name, number in seeds.items()}
    monkeypatch.setattr("engine.general.working.derive_seed", lambda _seed, place: place)
    monkeypatch.setattr("engine.general.adapted.Factors.mask", lambda factors, _: by_seed[factors.seed])
    twins.peft.train()
    passed = twins.path.gradients([Part(twins.adapter, rows(3, (14,)), scale=0.1)])
    assert passed.sums[0].loss == pytest.approx(twins.peft_backward(rows(3, (14,)), 0.1), rel=1e-5)
    assert twins.worst_gradient() < 1e-4


def test_dropout_keeps_its_share_and_depends_on_the_seed_alone() -> None:
    twins = Twins(CONFIGS["llama"], LORA.model_copy(update={"dropout": 0.5}))
    first = gradients_of(twins.path, twins.adapter, rows(3), seed=1)
    other = gradients_of(twins.path, twins.adapter, rows(3), seed=2)
    again = gradients_of(twins.path, twins.adapter, rows(3), seed=1)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_measuring_drops_nothing() -> None:
    twins = Twins(CONFIGS["llama"], LORA.model_copy(update={"dropout": 0.5}))
    with torch.no_grad():
        expected = sum(float(row_loss(twins.peft, row)) for row in rows(3))
    assert twins.path.losses([Part(twins.adapter, rows(3))]).sums[0].loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "gpt_oss", "qwen3_moe"])
def test_full_training_has_autograds_gradients(architecture: str) -> None:
    network = random_network(CONFIGS[architecture])
    path = GeneralPath(copy.deepcopy(network), CPU)
    adapter = Adapter(FullMethod(), path.full_parameters())
    adapter.masters_P.data += torch.randn(adapter.parameters, generator=torch.Generator().manual_seed(4)) * 0.01
    passed = path.gradients([Part(adapter, rows(3), scale=0.1)])
    leaves = {name: value.clone().requires_grad_() for name, value in adapter.values.items()}

    def swapped(**inputs: Any) -> Any:
        return functional_call(network, leaves, (), inputs)

    loss: Any = sum(row_loss(swapped, row) for row in rows(3))
    (loss * 0.1).backward()
    assert passed.sums[0].loss == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, leaf in leaves.items():
        if leaf.grad is None:
            assert not adapter.grads[name].any()
        else:
            difference = (adapter.grads[name] - leaf.grad).abs().max()
            assert difference <= 1e-4 * leaf.grad.abs().max() + 1e-7, name


def test_full_training_leaves_the_frozen_base_as_it_was() -> None:
    path = GeneralPath(random_network(CONFIGS["llama"]), CPU)
    before = path.losses([Part(None, rows(3))])
    adapter = Adapter(FullMethod(), path.full_parameters())
    adapter.masters_P.data.zero_()
    path.gradients([Part(adapter, rows(3))])
    assert path.losses([Part(None, rows(3))]) == before


def bottleneck_adapter(path: GeneralPath, width: int, seed: int) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    values = {}
    for site in path.bottleneck_sites:
        shapes = ((width, site.width), (width,), (site.width, width), (site.width,))
        for name, shape in zip(bottleneck_names(site.name), shapes, strict=True):
            values[name] = torch.randn(shape, generator=random) * 0.1
    return Adapter(BottleneckMethod(width=width), values)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_bottlenecks_stand_behind_both_blocks_of_every_layer(architecture: str) -> None:
    network = random_network(CONFIGS[architecture])
    path = GeneralPath(copy.deepcopy(network), CPU)
    assert len(path.bottleneck_sites) == 4
    adapter = bottleneck_adapter(path, 3, seed=2)
    passed = path.gradients([Part(adapter, rows(3), scale=0.1)])
    leaves = {name: value.clone().requires_grad_() for name, value in adapter.values.items()}

    def behind(block: str) -> Any:
        def hook(_: Any, _inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            down, down_bias, up, up_bias = (leaves[name] for name in bottleneck_names(block))
            hidden = hidden + functional.gelu(hidden @ down.T + down_bias) @ up.T + up_bias
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    for layer in range(2):
        for site in path.bottleneck_sites[2 * layer : 2 * layer + 2]:
            network.get_submodule(site.name).register_forward_hook(behind(site.name))
    loss: Any = sum(row_loss(network, row) for row in rows(3))
    (loss * 0.1).backward()
    assert passed.sums[0].loss == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        assert (adapter.grads[name] - leaf.grad).abs().max() <= 1e-4 * leaf.grad.abs().max(), name


@pytest.mark.parametrize("method", ["lora", "dora", "dropout", "biases", "full", "bottleneck"])
def test_recomputed_activations_give_the_same_gradients(method: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "lora": {},
        "dora": {"use_dora": True, "dropout": 0.5},
        "dropout": {"dropout": 0.5},
        "biases": {"bias": LoraBias.ALL},
    }
    plain = GeneralPath(random_network(CONFIGS["gpt2"]), CPU)
    recomputing = GeneralPath(random_network(CONFIGS["gpt2"]), CPU, activation_checkpointing=True)
    if method == "full":
        adapter = Adapter(FullMethod(), plain.full_parameters())
    elif method == "bottleneck":
        adapter = bottleneck_adapter(plain, 3, seed=2)
    else:
        adapter = Twins(CONFIGS["gpt2"], LORA.model_copy(update=changes[method]), path=plain).adapter
    expected = gradients_of(plain, adapter, rows(3), seed=5, scale=0.1)
    found = gradients_of(recomputing, adapter, rows(3), seed=5, scale=0.1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert expected.abs().max() > 1e-2
