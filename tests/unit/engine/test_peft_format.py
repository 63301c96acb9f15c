import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from domain.runs import LoraBias, LoraMethod
from engine.adapter import Adapter
from engine.failures import BadData
from engine.peft_format import bias_parameter, patterned, read_adapter, read_method, write_peft
from engine.targets import select_sites
from tests.network_path import (
    NetworkPath,
    adapter_on,
    by_hand,
    disturb,
    load,
    loaded_by_peft,
    logits,
    peft_on,
    quiet_peft,
    write_tiny_gpt2,
)

CPU = torch.device("cpu")

METHODS = {
    "plain": LoraMethod(lora_rank=4),
    "some layers": LoraMethod(lora_rank=4, alpha=6.5, target_modules=("q_proj", "mlp.c_proj", "0.attn.c_attn")),
    "rslora": LoraMethod(lora_rank=3, alpha=7.0, use_rslora=True),
    "dora": LoraMethod(lora_rank=4, use_dora=True),
    "biases of adapted layers": LoraMethod(lora_rank=4, bias=LoraBias.LORA_ONLY, target_modules=("c_attn", "o_proj")),
    "every bias and dora": LoraMethod(lora_rank=2, bias=LoraBias.ALL, use_dora=True),
    "patterns": LoraMethod(
        lora_rank=4, rank_pattern={r"0\..*": 2, "c_fc": 3, "up_proj": 3}, alpha_pattern={r"1\.(attn|mlp)\..*": 5.0}
    ),
    "patterns and rslora": LoraMethod(lora_rank=4, use_rslora=True, rank_pattern={"c_proj": 2, "down_proj": 2}),
}


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {"llama": tiny_folder, "gpt2": write_tiny_gpt2(tmp_path_factory.mktemp("gpt2") / "base")}


def fitted(method: LoraMethod, path: NetworkPath) -> LoraMethod:
    """The method without the names that this base does not have."""

    def known(key: str) -> bool:
        try:
            return bool(select_sites(path.linears, method.model_copy(update=only(key))))
        except BadData:
            return False

    def only(key: str) -> dict[str, Any]:
        return {"target_modules": "all-linear", "rank_pattern": {key: 1}, "alpha_pattern": {}}

    targets = method.target_modules
    return method.model_copy(
        update={
            "target_modules": targets if isinstance(targets, str) else tuple(key for key in targets if known(key)),
            "rank_pattern": {key: rank for key, rank in method.rank_pattern.items() if known(key)},
            "alpha_pattern": {key: alpha for key, alpha in method.alpha_pattern.items() if known(key)},
        }
    )


def trained(path: NetworkPath, method: LoraMethod) -> Adapter:
    adapter = adapter_on(path, fitted(method, path))
    disturb(adapter)
    return adapter


def write(adapter: Adapter, folder: Path, path: NetworkPath) -> Path:
    write_peft(adapter, folder, base_model="tiny", linears=path.linears)
    return folder


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_peft_computes_from_the_folder_what_the_weights_mean(
    folders: Mapping[str, Path], architecture: str, method: LoraMethod, tmp_path: Path
) -> None:
    path = NetworkPath(load(folders[architecture]))
    adapter = trained(path, method)
    write(adapter, tmp_path, path)
    theirs, ours = logits(loaded_by_peft(folders[architecture], tmp_path)), logits(by_hand(path, adapter))
    assert (ours - logits(path.network)).abs().max() > 1e-2
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_what_is_written_is_read_again(
    folders: Mapping[str, Path], architecture: str, method: LoraMethod, tmp_path: Path
) -> None:
    path = NetworkPath(load(folders[architecture]))
    adapter = trained(path, method)
    read = read_adapter(write(adapter, tmp_path, path), path.linears, CPU)
    assert [(site.linear, site.rank, site.scale) for site in read.sites] == [
        (site.linear, site.rank, site.scale) for site in adapter.sites
    ]
    assert read.shapes == adapter.shapes
    assert all(torch.equal(read.values[name], value) for name, value in adapter.values.items())


def test_a_method_is_read_as_it_was_but_for_how_its_layers_are_named(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    path = NetworkPath(load(folders["gpt2"]))
    method = LoraMethod(
        lora_rank=4, alpha=6.5, dropout=0.25, use_dora=True, bias=LoraBias.ALL, rank_pattern={"c_attn": 2}
    )
    read = read_method(write(trained(path, method), tmp_path, path))
    assert read == method.model_copy(update={"target_modules": ("c_attn", "c_fc", "c_proj")})


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_folder_of_pefts_own_is_read(folders: Mapping[str, Path], method: LoraMethod, tmp_path: Path) -> None:
    path = NetworkPath(load(folders["gpt2"]))
    network = peft_on(path, fitted(method, path))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad(), quiet_peft():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        network.save_pretrained(tmp_path)
    read = read_adapter(tmp_path, path.linears, CPU)
    torch.testing.assert_close(logits(by_hand(path, read)), logits(network), atol=1e-5, rtol=0)


def test_equal_adapters_are_equal_bytes_that_others_may_read(folders: Mapping[str, Path], tmp_path: Path) -> None:
    path = NetworkPath(load(folders["llama"]))
    one, two = (write(trained(path, METHODS["patterns"]), tmp_path / name, path) for name in "ab")
    names = ["adapter_config.json", "adapter_model.safetensors"]
    assert sorted(file.name for file in one.iterdir()) == names
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()
        assert stat.S_IMODE((one / name).stat().st_mode) == 0o644
        assert str(tmp_path).encode() not in (one / name).read_bytes()


def test_the_configuration_asks_servers_for_nothing_they_refuse(folders: Mapping[str, Path], tmp_path: Path) -> None:
    # A Llama has no biases to train, whatever the method says; servers refuse a folder that declares some.
    path = NetworkPath(load(folders["llama"]))
    write(trained(path, LoraMethod(lora_rank=4, bias=LoraBias.ALL)), tmp_path, path)
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {
        "alpha_pattern": {},
        "base_model_name_or_path": "tiny",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 16,
        "lora_bias": False,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": 4,
        "rank_pattern": {},
        "target_modules": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "LOHA"},
        {"r": 8},
        {"r": 0},
        {"r": 100_000},
        {"lora_alpha": "much"},
        {"target_modules": ["q_proj"]},
        {"target_modules": ["nothing"]},
        {"target_modules": ".*q_proj"},
        {"target_modules": None},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}},
        {"modules_to_save": ["lm_head"]},
        {"lora_bias": True},
        {"layers_to_transform": [0]},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_4"},
    ],
    ids=str,
)
def test_a_folder_that_would_be_half_understood_is_refused(
    folders: Mapping[str, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = NetworkPath(load(folders["llama"]))
    config = write(trained(path, METHODS["plain"]), tmp_path, path) / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(BadData):
        read_adapter(tmp_path, path.linears, CPU)


def test_missing_damaged_or_foreign_weights_are_refused(folders: Mapping[str, Path], tmp_path: Path) -> None:
    path = NetworkPath(load(folders["llama"]))
    weights = write(trained(path, METHODS["plain"]), tmp_path, path) / "adapter_model.safetensors"
    whole = load_file(weights)
    save_file(dict(list(whole.items())[1:]), weights)
    with pytest.raises(BadData):
        read_adapter(tmp_path, path.linears, CPU)
    weights.write_bytes(b"no tensors")
    with pytest.raises(BadData):
        read_adapter(tmp_path, path.linears, CPU)
    weights.unlink()
    with pytest.raises(BadData):
        read_adapter(tmp_path, path.linears, CPU)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(BadData):
        read_method(tmp_path)


def test_a_bias_goes_by_the_name_of_the_module_peft_wraps() -> None:
    assert bias_parameter("base_model.model.h.0.c_fc.base_layer.bias") == "h.0.c_fc.bias"
    assert bias_parameter("base_model.model.h.0.ln.bias") == "h.0.ln.bias"
    assert bias_parameter("base_model.model.h.0.c_fc.lora_A.weight") is None


def test_uneven_numbers_become_the_commonest_and_a_pattern() -> None:
    assert patterned({"0.q": 4, "0.k": 4, "0.v": 8, "1.q": 4, "1.k": 4, "1.v": 8}) == (4, {"v": 8})
    assert patterned({"0.q": 4, "0.k": 2, "1.q": 4, "1.k": 8}) == (4, {"0.k": 2, "1.k": 8})
