import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from domain.runs import LoraBias, LoraInit, LoraMethod
from engine.exports import export
from engine.merge import main
from tests.network_path import NetworkPath, adapter_on, disturb, load, loaded_by_peft, logits, write_tiny_gpt2
from tests.tiny_engine import tiny_spec

METHODS = {
    "plain": LoraMethod(lora_rank=4),
    "rslora with patterns": LoraMethod(lora_rank=4, use_rslora=True, rank_pattern={r"0\..*": 2}),
    "patterns": LoraMethod(lora_rank=4, rank_pattern={r"0\..*": 2}, alpha_pattern={r"1\..*": 5.0}),
    "dora": LoraMethod(lora_rank=4, use_dora=True),
    "biases": LoraMethod(lora_rank=4, bias=LoraBias.LORA_ONLY),
    "every bias and dora": LoraMethod(lora_rank=4, bias=LoraBias.ALL, use_dora=True),
    "pissa": LoraMethod(lora_rank=4, init=LoraInit.PISSA),
}


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("gpt2")
    return {
        "llama": tiny_folder,
        "gpt2": write_tiny_gpt2(folder / "whole"),
        "gpt2 in shards": write_tiny_gpt2(folder / "shards", max_shard_size="30KB"),
        "gpt2's body": _without_prefix(write_tiny_gpt2(folder / "body")),
    }


def _without_prefix(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    body = {name.removeprefix("transformer."): tensor for name, tensor in load_file(weights).items()}
    save_file(body, weights, metadata={"format": "pt"})
    return folder


def adapter_of(base: Path, folder: Path, method: LoraMethod) -> Path:
    path = NetworkPath(load(base))
    adapter = adapter_on(path, method)
    disturb(adapter)
    export(adapter, path, folder, spec=tiny_spec(total_steps=1, method=method), base_model=base)
    return folder


def merge(base: Path, adapter: Path, out: Path) -> int:
    return main(["--base", str(base), "--adapter", str(adapter), "--out", str(out)])


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt2 in shards", "gpt2's body"])
def test_the_merged_weights_are_pefts(
    folders: Mapping[str, Path], architecture: str, method: LoraMethod, tmp_path: Path
) -> None:
    base = folders[architecture]
    adapter = adapter_of(base, tmp_path / "adapter", method)
    assert merge(base, adapter, tmp_path / "out") == 0
    merging: Any = loaded_by_peft(base, adapter)
    theirs, ours = merging.merge_and_unload(), load(tmp_path / "out")
    for name, weight in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), weight, atol=1e-6, rtol=0)
    assert (logits(ours) - logits(load(base))).abs().max() > 1e-2


def test_the_result_is_an_ordinary_model_folder(folders: Mapping[str, Path], tmp_path: Path) -> None:
    base, out = folders["llama"], tmp_path / "deep" / "out"
    (adapter := tmp_path / "adapter").mkdir()
    assert merge(base, adapter_of(base, adapter, METHODS["plain"]), out) == 0
    assert {file.name for file in out.iterdir()} == {file.name for file in base.iterdir()}
    assert {stat.S_IMODE(file.stat().st_mode) for file in out.iterdir()} == {0o644}
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    assert (out / "config.json").read_bytes() == (base / "config.json").read_bytes()
    row = [{"role": "user", "content": "what colour is sky"}]
    ours, theirs = (AutoTokenizer.from_pretrained(folder, local_files_only=True) for folder in (out, base))
    assert ours.apply_chat_template(row) == theirs.apply_chat_template(row)


def test_each_weight_keeps_its_number_format_and_is_rounded_once(folders: Mapping[str, Path], tmp_path: Path) -> None:
    base = tmp_path / "bf16"
    load(folders["llama"], torch.bfloat16).save_pretrained(base)
    adapter = adapter_of(base, tmp_path / "adapter", METHODS["plain"])
    assert merge(base, adapter, tmp_path / "out") == 0
    stored, merged = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    merging: Any = loaded_by_peft(base, adapter)
    exact = dict(merging.merge_and_unload().named_parameters())
    for name, weight in merged.items():
        assert weight.dtype is torch.bfloat16
        if name.endswith("proj.weight"):
            # Half a unit in the last of bf16's eight places, and fp32's own rounding.
            torch.testing.assert_close(weight.float(), exact[name].detach(), rtol=2**-8, atol=1e-6)
        else:
            assert torch.equal(weight, stored[name])


def test_what_exists_is_not_overwritten(
    folders: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_of(folders["llama"], tmp_path / "adapter", METHODS["plain"])
    (tmp_path / "out").mkdir()
    assert merge(folders["llama"], adapter, tmp_path / "out") == 1
    assert "exists already" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_written_is_said_so(
    folders: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_of(folders["llama"], tmp_path / "adapter", METHODS["plain"])
    (tmp_path / "file").touch()
    assert merge(folders["llama"], adapter, tmp_path / "file" / "out") == 1
    assert "could not be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "no LoRA adapter"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "plain LoRA"),
        ({"r": 8}, "do not fit its configuration"),
        ({"use_dora": True}, "magnitude"),
        ({"lora_alpha": None}, "cannot be read"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused_and_leaves_nothing(
    folders: Mapping[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    changes: dict[str, Any],
    message: str,
) -> None:
    adapter = adapter_of(folders["llama"], tmp_path / "adapter", METHODS["plain"])
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    assert merge(folders["llama"], adapter, tmp_path / "out") == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_another_base_is_refused_and_leaves_nothing(
    folders: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_of(folders["llama"], tmp_path / "adapter", METHODS["plain"])
    assert merge(folders["gpt2"], adapter, tmp_path / "out") == 1
    assert "has no weight named model.layers.0" in capsys.readouterr().err
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    weights = load_file(folders["llama"] / "model.safetensors")
    save_file({name: tensor[..., :-8].contiguous() for name, tensor in weights.items()}, narrow / "model.safetensors")
    assert merge(narrow, adapter, tmp_path / "out") == 1
    assert "other shapes" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "narrow"]


def test_a_quantised_or_missing_base_is_refused(
    folders: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_of(folders["llama"], tmp_path / "adapter", METHODS["plain"])
    assert merge(tmp_path, adapter, tmp_path / "out") == 1
    assert "missing or cannot be read" in capsys.readouterr().err
    quantised = tmp_path / "quantised"
    quantised.mkdir()
    weights = load_file(folders["llama"] / "model.safetensors")
    save_file({name: tensor.to(torch.int8) for name, tensor in weights.items()}, quantised / "model.safetensors")
    assert merge(quantised, adapter, tmp_path / "out") == 1
    assert "quantised" in capsys.readouterr().err


def test_weights_that_are_no_lora_are_refused(
    folders: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_of(folders["llama"], tmp_path / "adapter", METHODS["plain"])
    weights = load_file(adapter / "adapter_model.safetensors")
    extra = {"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(2, 2)}
    save_file(weights | extra, adapter / "adapter_model.safetensors")
    assert merge(folders["llama"], adapter, tmp_path / "out") == 1
    assert "lora_embedding_A" in capsys.readouterr().err


def test_progress_names_every_shard(
    folders: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = folders["gpt2 in shards"]
    assert merge(base, adapter_of(base, tmp_path / "adapter", METHODS["plain"]), tmp_path / "out") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "weights change" in line]
    assert len(lines) == len(list(base.glob("*.safetensors"))) > 1
