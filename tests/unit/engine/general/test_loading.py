"""What can be loaded, and how it is kept."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from domain.plans import FailureKind, Precision, Quantisation
from domain.runs import FullMethod, LoraMethod
from engine.adapter import Adapter
from engine.failures import BadBaseModel, BadData, RunFailed
from engine.general.path import GeneralPath
from engine.stream import Part
from tests.unit.engine.general.small_models import (
    CONFIGS,
    CPU,
    SIZES,
    Twins,
    gradients_of,
    random_network,
    row_loss,
    rows,
)

quantised = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="quantisation is bitsandbytes'")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_network(CONFIGS["llama"]).save_pretrained(tmp_path)
    return tmp_path


def load(folder: Path, *, precision: Precision = Precision.FP32, quantisation: Quantisation = Quantisation.NONE) -> Any:
    return GeneralPath.load(folder, precision, CPU, quantisation=quantisation, activation_checkpointing=False)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP16])
def test_every_weight_is_frozen_and_in_the_pass_s_number_format(folder: Path, precision: Precision) -> None:
    path = load(folder, precision=precision)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision.value]
    assert {parameter.dtype for parameter in path.network.parameters()} == {dtype}
    assert not any(parameter.requires_grad for parameter in path.network.parameters())


def test_a_layer_s_weight_is_out_by_in_whatever_its_layout() -> None:
    network = random_network(CONFIGS["gpt2"])
    expected = network.transformer.h[0].attn.c_attn.weight.T.clone()
    path = GeneralPath(network, CPU)
    assert path.linears["transformer.h.0.attn.c_attn"] == (96, 32, True)
    assert torch.equal(path.weight("transformer.h.0.attn.c_attn"), expected)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_or_damaged_file_is_a_bad_base_model(folder: Path, file: str) -> None:
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadBaseModel):
        load(folder)
    (folder / file).unlink()
    with pytest.raises(BadBaseModel):
        load(folder)


@pytest.mark.parametrize("fault", ["missing", "misshapen"])
def test_weights_that_are_not_the_configuration_s_are_refused(folder: Path, fault: str) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    if fault == "missing":
        del weights[name]
    else:
        weights[name] = weights[name][:-1].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadBaseModel):
        load(folder)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadBaseModel):
        load(folder)


def test_code_beside_the_weights_is_not_run(folder: Path) -> None:
    configuration = json.loads((folder / "config.json").read_text())
    configuration |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(configuration))
    (folder / "own.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(BadBaseModel):
        load(folder)


@quantised
@pytest.mark.parametrize("quantisation", [Quantisation.NF4, Quantisation.INT8])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_a_quantised_base_trains_as_its_dequantised_weights_would(
    folder: Path, quantisation: Quantisation, precision: Precision
) -> None:
    path = load(folder, precision=precision, quantisation=quantisation)
    dense = random_network(CONFIGS["llama"])
    for name in path.linears:
        dense.get_submodule(name).weight.data = path.weight(name)
    adapter = Twins(CONFIGS["llama"], LoraMethod(lora_rank=4), path=path).adapter
    found = gradients_of(path, adapter, rows(3), scale=0.1)
    expected = gradients_of(GeneralPath(dense, CPU), adapter, rows(3), scale=0.1)
    assert torch.cosine_similarity(found, expected, dim=0) > (0.999999 if precision is Precision.FP32 else 0.99)
    kept = path.network.get_submodule("model.layers.0.mlp.up_proj").weight
    assert kept.numel() * kept.itemsize <= 32 * 48


@quantised
def test_nf4_losses_are_those_of_bitsandbytes_own_layers(tmp_path: Path) -> None:
    """Whose products on a CPU want widths of 64, and round scales to bf16."""
    config = transformers.LlamaConfig(**(SIZES | {"hidden_size": 64, "intermediate_size": 128}))
    random_network(config).save_pretrained(tmp_path)
    configuration: Any = transformers.BitsAndBytesConfig
    network = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path,
        dtype=torch.float32,
        quantization_config=configuration(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
    )
    with torch.no_grad():
        expected = sum(float(row_loss(network, row)) for row in rows(3))
    path = load(tmp_path, quantisation=Quantisation.NF4)
    assert path.losses([Part(None, rows(3))]).sums[0].loss == pytest.approx(expected, rel=5e-3)


@quantised
def test_dora_on_a_quantised_base_measures_the_dequantised_directions(folder: Path) -> None:
    path = load(folder, quantisation=Quantisation.NF4)
    twins = Twins(CONFIGS["llama"], LoraMethod(lora_rank=4, use_dora=True), path=path)
    for name in path.linears:
        layer = twins.peft.get_submodule(f"base_model.model.{name}")
        layer.base_layer.weight.data = path.weight(name)
    passed = path.gradients([Part(twins.adapter, rows(3), scale=0.1)])
    assert passed.sums[0].loss == pytest.approx(twins.peft_backward(rows(3), 0.1), rel=1e-4)
    assert twins.worst_gradient() < 1e-3


@quantised
def test_a_quantised_base_cannot_be_trained_in_full(folder: Path) -> None:
    with pytest.raises(BadData, match="quantised"):
        Adapter(FullMethod(), load(folder, quantisation=Quantisation.NF4).full_parameters())


def test_a_worker_without_bitsandbytes_says_so_and_another_may_try(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(RunFailed, match="bitsandbytes") as refused:
        load(folder, quantisation=Quantisation.NF4)
    # The kind that a job is tried again after.
    assert refused.value.kind is FailureKind.CRASH
    assert load(folder).linears
