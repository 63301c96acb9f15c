import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import EvaConfig, LoraConfig, get_peft_model, get_peft_model_state_dict, initialize_lora_eva_weights
from torch.nn.utils.rnn import pad_sequence

from domain.plans import Precision, Quantisation
from domain.runs import BottleneckMethod, FullMethod, LoraBias, LoraInit, LoraMethod
from engine.adapter import lora_names
from engine.failures import BadData
from engine.general.bottleneck import bottleneck_names
from engine.general.path import GeneralPath
from engine.inits import OpenPath, initial, initial_adapter, initial_bottleneck, initial_full
from engine.inits.eva import input_directions
from engine.tokenise import TokenisedRow
from tests.network_path import NetworkPath, adapter_on, by_hand, load, logits, peft_on, quiet_peft, write_tiny_gpt2

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llama(tiny_folder: Path) -> NetworkPath:
    return NetworkPath(load(tiny_folder))


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gpt2(tmp_path_factory.mktemp("gpt2") / "base")


@pytest.fixture(scope="module")
def gpt2(gpt2_folder: Path) -> NetworkPath:
    return NetworkPath(load(gpt2_folder))


def rows(count: int, length: int = 40) -> list[TokenisedRow]:
    generator = torch.Generator().manual_seed(3)
    return [
        TokenisedRow(
            line=line,
            ids=tuple(torch.randint(3, 60, (length + line % 5,), generator=generator).tolist()),
            supervised=tuple(place >= 10 for place in range(length + line % 5)),
        )
        for line in range(count)
    ]


def peft_state(path: NetworkPath, method: LoraMethod) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(peft_on(path, method))
    return state


def up_to_sign(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return found * torch.sign((found * expected).sum(dim=1, keepdim=True))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("bias", LoraBias)
def test_names_and_shapes_are_those_of_pefts_files(gpt2: NetworkPath, bias: LoraBias, dora: bool) -> None:  # noqa: FBT001
    method = LoraMethod(
        lora_rank=4, target_modules=("c_attn", "mlp.c_proj"), bias=bias, use_dora=dora, rank_pattern={"c_attn": 2}
    )
    adapter = adapter_on(gpt2, method)
    assert adapter.shapes == {name: tensor.shape for name, tensor in peft_state(gpt2, method).items()}


def test_kaiming_is_uniform_within_one_over_the_root_of_the_inputs(llama: NetworkPath) -> None:
    adapter = initial_adapter(llama, LoraMethod(lora_rank=64), 1)
    for site in adapter.sites:
        inputs = llama.linears[site.linear].in_features
        assert site.A_RI.abs().max() <= 1 / math.sqrt(inputs)
        # A uniform variable's variance is a twelfth of its width squared.
        assert site.A_RI.std().item() == pytest.approx(1 / math.sqrt(3 * inputs), rel=0.05)
        assert not site.B_OR.any()
    pooled = torch.cat([site.A_RI.flatten() * math.sqrt(site.A_RI.shape[1]) for site in adapter.sites])
    quarters = torch.quantile(pooled[:100_000], torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quarters, torch.tensor([-0.5, 0.0, 0.5]), atol=0.02, rtol=0)


def test_kaiming_has_the_distribution_peft_draws_from(llama: NetworkPath) -> None:
    method = LoraMethod(lora_rank=64)
    torch.manual_seed(5)
    theirs, ours = peft_state(llama, method), initial_adapter(llama, method, 5)
    at = torch.linspace(0, 1, 11)
    for name in theirs:
        if name.endswith("lora_A.weight"):
            quantiles = torch.quantile(ours.values[name], at), torch.quantile(theirs[name], at)
            torch.testing.assert_close(*quantiles, atol=0.012, rtol=0)


def test_gaussian_deviates_by_one_over_the_rank(llama: NetworkPath) -> None:
    method = LoraMethod(lora_rank=16, init=LoraInit.GAUSSIAN, rank_pattern={"down_proj": 32})
    for site in initial_adapter(llama, method, 1).sites:
        assert site.A_RI.std().item() == pytest.approx(1 / site.rank, rel=0.1)
        assert site.A_RI.mean().item() == pytest.approx(0, abs=0.1 / site.rank)
        assert not site.B_OR.any()


def test_the_start_depends_on_the_seed_alone(llama: NetworkPath) -> None:
    method = LoraMethod(lora_rank=4)
    torch.manual_seed(1)
    first = initial_adapter(llama, method, 7).masters_P.detach()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    torch.manual_seed(2)
    assert torch.equal(initial_adapter(llama, method, 7).masters_P, first)
    assert not torch.equal(initial_adapter(llama, method, 8).masters_P, first)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_pissa_takes_the_same_factors_out_of_the_same_weight_as_peft(
    llama: NetworkPath, gpt2: NetworkPath, *, use_rslora: bool
) -> None:
    for path in (llama, gpt2):
        method = LoraMethod(lora_rank=4, alpha=6.0, init=LoraInit.PISSA, use_rslora=use_rslora)
        adapter, network = initial_adapter(path, method, 1), peft_on(path, method)
        theirs = get_peft_model_state_dict(network)
        residual = NetworkPath(network.unload())
        for site in adapter.sites:
            a, b, _ = lora_names(site.linear)
            torch.testing.assert_close(up_to_sign(site.A_RI, theirs[a]), theirs[a], atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(up_to_sign(site.B_OR.T, theirs[b].T), theirs[b].T, atol=1e-4, rtol=1e-3)
            assert site.start_A_RI is not None
            assert site.start_B_OR is not None
            weight = path.weight(site.linear)
            residue = weight - site.scale * site.start_B_OR @ site.start_A_RI
            torch.testing.assert_close(residue, residual.weight(site.linear), atol=1e-5, rtol=0)
            torch.testing.assert_close(residue + site.scale * site.B_OR @ site.A_RI, weight, atol=1e-6, rtol=0)


def test_pissa_refuses_a_rank_no_weight_has(llama: NetworkPath) -> None:
    with pytest.raises(BadData):
        initial_adapter(llama, LoraMethod(lora_rank=65, init=LoraInit.PISSA), 1)


@pytest.mark.parametrize("start", [LoraInit.KAIMING, LoraInit.PISSA])
def test_doras_magnitudes_are_pefts(llama: NetworkPath, gpt2: NetworkPath, start: LoraInit) -> None:
    for path in (llama, gpt2):
        method = LoraMethod(lora_rank=4, use_dora=True, init=start)
        adapter, theirs = initial_adapter(path, method, 1), peft_state(path, method)
        for site in adapter.sites:
            assert site.magnitude_O is not None
            torch.testing.assert_close(site.magnitude_O, theirs[lora_names(site.linear)[2]])


@pytest.mark.parametrize("start", [LoraInit.KAIMING, LoraInit.GAUSSIAN, LoraInit.PISSA])
@pytest.mark.parametrize("dora", [False, True])
def test_an_untrained_adapter_changes_nothing(gpt2: NetworkPath, start: LoraInit, dora: bool) -> None:  # noqa: FBT001
    method = LoraMethod(lora_rank=4, init=start, use_dora=dora, bias=LoraBias.ALL)
    adapter = adapter_on(gpt2, method)
    torch.testing.assert_close(logits(by_hand(gpt2, adapter)), logits(gpt2.network), atol=1e-6, rtol=0)


def test_eva_is_what_peft_finds(llama: NetworkPath, tiny_folder: Path) -> None:
    # One batch for both: where batches are cut differently, the two stop at slightly different directions.
    data = rows(20)
    found = input_directions(tiny_folder, Precision.FP32, data, LoraMethod(lora_rank=4), device=CPU)
    network = load(tiny_folder)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        target_modules="all-linear",
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=1.0),
    )
    with quiet_peft():
        theirs = get_peft_model(network, config, low_cpu_mem_usage=True)
    initialize_lora_eva_weights(theirs, [labelled(data)], show_progress_bar=False)
    state = get_peft_model_state_dict(theirs)
    assert set(found) == set(llama.linears)
    for linear, directions in found.items():
        expected = state[lora_names(linear)[0]]
        torch.testing.assert_close(up_to_sign(directions, expected), expected, atol=1e-5, rtol=1e-4)


def labelled(batch: list[TokenisedRow]) -> dict[str, torch.Tensor]:
    def padded(numbers: list[tuple[int, ...]], padding: int) -> torch.Tensor:
        return pad_sequence([torch.tensor(row) for row in numbers], batch_first=True, padding_value=padding)

    labels = [
        tuple(token if wanted else -100 for token, wanted in zip(row.ids, row.supervised, strict=True)) for row in batch
    ]
    ids, mask = padded([row.ids for row in batch], 0), padded([(1,) * len(row.ids) for row in batch], 0)
    return {"input_ids": ids, "attention_mask": mask, "labels": padded(labels, -100)}


def test_eva_spans_what_varies_most_in_a_layers_inputs(llama: NetworkPath, tiny_folder: Path) -> None:
    linear, seen = "model.layers.1.mlp.down_proj", []
    module = llama.network.get_submodule(linear)
    handle = module.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].detach()))
    data = rows(20)
    with torch.no_grad():
        for row in data:
            llama.network(input_ids=torch.tensor([row.ids]), use_cache=False)
    handle.remove()
    inputs = torch.cat([x[0][torch.tensor(row.supervised)] for x, row in zip(seen, data, strict=True)])
    centred = inputs - inputs.mean(dim=0)
    directions = input_directions(
        tiny_folder, Precision.FP32, data, LoraMethod(lora_rank=4, target_modules=(linear,)), device=CPU
    )[linear]
    torch.testing.assert_close(directions @ directions.T, torch.eye(4), atol=1e-4, rtol=0)
    # The most any four orthonormal directions can hold is the sum of the four largest squared singular values.
    most = torch.linalg.svdvals(centred)[:4].square().sum()
    assert (centred @ directions.T).square().sum() > 0.99 * most


def test_eva_keeps_the_ranks_it_is_given(llama: NetworkPath, tiny_folder: Path) -> None:
    method = LoraMethod(lora_rank=4, init=LoraInit.EVA, rank_pattern={"k_proj": 2})
    adapter = initial(method, llama, seed=1, base_model=tiny_folder, rows=rows(30))
    assert {site.rank for site in adapter.sites if site.linear.endswith("k_proj")} == {2}
    assert {site.rank for site in adapter.sites if not site.linear.endswith("k_proj")} == {4}
    assert not any(site.B_OR.any() for site in adapter.sites)


def test_eva_is_the_same_every_time(tiny_folder: Path) -> None:
    method = LoraMethod(lora_rank=4, target_modules=("q_proj",))
    torch.manual_seed(1)
    first = input_directions(tiny_folder, Precision.FP32, rows(30), method, device=CPU)
    torch.manual_seed(2)
    second = input_directions(tiny_folder, Precision.FP32, rows(30), method, device=CPU)
    assert all(torch.equal(first[linear], second[linear]) for linear in first)


@pytest.mark.parametrize(("count", "rank"), [(1, 20), (30, 33)])
def test_eva_refuses_too_few_tokens_and_too_narrow_layers(tiny_folder: Path, count: int, rank: int) -> None:
    with pytest.raises(BadData):
        input_directions(tiny_folder, Precision.FP32, rows(count), LoraMethod(lora_rank=rank), device=CPU)


def test_eva_reads_conv1d_layers(gpt2_folder: Path, gpt2: NetworkPath) -> None:
    short = rows(40, length=25)
    found = input_directions(gpt2_folder, Precision.FP32, short, LoraMethod(lora_rank=4), device=CPU)
    assert {linear: directions.shape[1] for linear, directions in found.items()} == {
        linear: shape.in_features for linear, shape in gpt2.linears.items()
    }


def test_a_full_run_begins_with_the_base(gpt2: NetworkPath) -> None:
    adapter = initial(FullMethod(), gpt2, seed=1, base_model=Path(), rows=())
    assert list(adapter.values) == [name for name, _ in gpt2.network.named_parameters()]
    assert all(torch.equal(adapter.values[name], weight) for name, weight in gpt2.full_parameters().items())
    assert initial_full(gpt2.full_parameters()).parameters == sum(w.numel() for w in gpt2.network.parameters())


def test_a_bottleneck_adds_nothing_at_first(llama: NetworkPath) -> None:
    adapter = initial(BottleneckMethod(width=8), llama, seed=1, base_model=Path(), rows=())
    assert len(adapter.shapes) == 2 * 2 * 4
    for site, hidden in llama.bottleneck_sites:
        down, down_bias, up, up_bias = (adapter.values[name] for name in bottleneck_names(site))
        assert (down.shape, down_bias.shape, up.shape, up_bias.shape) == ((8, hidden), (8,), (hidden, 8), (hidden,))
        assert 0 < down.abs().max() <= 1 / math.sqrt(hidden)
        assert not any(tensor.any() for tensor in (down_bias, up, up_bias))


def test_bottlenecks_of_one_seed_are_equal() -> None:
    one, same, other = (initial_bottleneck(BottleneckMethod(), [("block", 16)], seed, CPU) for seed in (1, 1, 2))
    assert torch.equal(one.masters_P, same.masters_P)
    assert not torch.equal(one.masters_P, other.masters_P)


def test_trained_biases_begin_with_the_bases(gpt2: NetworkPath) -> None:
    method = LoraMethod(lora_rank=4, target_modules=("c_fc",), bias=LoraBias.LORA_ONLY)
    adapter = initial(method, gpt2, seed=1, base_model=Path(), rows=())
    trained = {name: value for name, value in adapter.values.items() if name.endswith(".bias")}
    assert len(trained) == 2
    for layer in range(2):
        bias = gpt2.network.transformer.h[layer].mlp.c_fc.bias
        assert torch.equal(trained[f"base_model.model.transformer.h.{layer}.mlp.c_fc.base_layer.bias"], bias)


def test_the_general_path_shows_what_every_method_needs(gpt2_folder: Path, gpt2: NetworkPath) -> None:
    path = GeneralPath.load(
        gpt2_folder, Precision.FP32, CPU, quantisation=Quantisation.NONE, activation_checkpointing=False
    )
    assert isinstance(path, OpenPath)
    for method in (FullMethod(), BottleneckMethod(width=4), LoraMethod(bias=LoraBias.ALL, use_dora=True)):
        ours, expected = (initial(method, shown, seed=1, base_model=Path(), rows=()) for shown in (path, gpt2))
        assert ours.shapes == expected.shapes
        assert torch.equal(ours.masters_P, expected.masters_P)


def test_a_base_without_known_blocks_gets_no_bottlenecks() -> None:
    with pytest.raises(BadData):
        initial_bottleneck(BottleneckMethod(), [], 1, CPU)


@pytest.mark.parametrize("method", [FullMethod(), BottleneckMethod(), LoraMethod(bias=LoraBias.ALL)])
def test_a_path_that_trains_factors_only_says_so(llama: NetworkPath, method: FullMethod) -> None:
    class FactorsOnly:
        device, linears, weight = llama.device, llama.linears, llama.weight
        flops = activation_bytes = gradients = losses = llama.flops

    with pytest.raises(TypeError):
        initial(method, FactorsOnly(), seed=1, base_model=Path(), rows=())  # type: ignore[arg-type]


def test_a_plain_run_imports_neither_peft_nor_transformers() -> None:
    code = (
        "import sys, engine.inits, engine.exports, engine.merge;"
        "sys.exit(not {'peft', 'transformers'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
