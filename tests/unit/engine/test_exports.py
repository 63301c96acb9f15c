import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from domain.runs import BottleneckMethod, FullMethod, LoraBias, LoraInit, LoraMethod
from engine.adapter import Adapter, lora_names
from engine.exports import TOLERANCE, export, plain_lora, read_bottleneck
from engine.failures import BadBaseModel, BadData
from engine.inits import initial_bottleneck, initial_full
from tests.network_path import NetworkPath, adapter_on, by_hand, disturb, load, loaded_by_peft, logits, write_tiny_gpt2
from tests.tiny_engine import tiny_spec

CPU = torch.device("cpu")
RANK = 4


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {"llama": tiny_folder, "gpt2": write_tiny_gpt2(tmp_path_factory.mktemp("gpt2") / "base")}


def pissa(path: NetworkPath, **changes: Any) -> Adapter:
    method = LoraMethod(lora_rank=RANK, alpha=6.0, init=LoraInit.PISSA).model_copy(update=changes)
    return adapter_on(path, method)


def exported(adapter: Adapter, path: NetworkPath, folder: Path, base: Path) -> dict[str, Any]:
    export(adapter, path, folder, spec=tiny_spec(total_steps=1, method=adapter.method), base_model=base)
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config


def change_of(adapter: Adapter) -> dict[str, torch.Tensor]:
    found = {}
    for site in adapter.sites:
        found[site.linear] = site.scale * site.B_OR @ site.A_RI
        if site.start_A_RI is not None and site.start_B_OR is not None:
            found[site.linear] -= site.scale * site.start_B_OR @ site.start_A_RI
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"bias": LoraBias.ALL, "target_modules": ("c_attn", "c_proj")},
        {"rank_pattern": {"c_fc": 2}, "alpha_pattern": {"attn.c_proj": 3.0}},
    ],
    ids=str,
)
def test_peft_computes_from_a_pissa_export_on_the_plain_base_what_was_trained(
    folders: Mapping[str, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    base = folders["gpt2"]
    path = NetworkPath(load(base))
    adapter = pissa(path, **changes)
    disturb(adapter)
    exported(adapter, path, tmp_path, base)
    theirs, ours = logits(loaded_by_peft(base, tmp_path)), logits(by_hand(path, adapter))
    assert (ours - logits(path.network)).abs().max() > 1e-2
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def test_a_generic_change_needs_twice_the_rank_and_loses_no_more_than_the_tolerance(
    folders: Mapping[str, Path],
) -> None:
    adapter = pissa(NetworkPath(load(folders["llama"])))
    disturb(adapter)
    expected, (plain, ranks) = change_of(adapter), plain_lora(adapter)
    found = change_of(plain)
    assert [rank.linear for rank in ranks] == list(expected)
    for rank in ranks:
        assert rank.rank == 2 * RANK == torch.linalg.matrix_rank(expected[rank.linear], rtol=1e-4)
        lost = (found[rank.linear] - expected[rank.linear]).norm() / expected[rank.linear].norm()
        assert lost <= TOLERANCE
        assert rank.relative_error <= TOLERANCE


def test_a_change_of_low_rank_keeps_the_rank(folders: Mapping[str, Path], tmp_path: Path) -> None:
    base = folders["llama"]
    path = NetworkPath(load(base))
    adapter = pissa(path)
    # Only B moves: scale (B - B0) A0 has the rank of the factors.
    for site in adapter.sites:
        site.B_OR.add_(torch.randn(site.B_OR.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    config = exported(adapter, path, tmp_path, base)
    assert (config["r"], config["rank_pattern"]) == (RANK, {})
    torch.testing.assert_close(
        logits(loaded_by_peft(base, tmp_path)), logits(by_hand(path, adapter)), atol=1e-5, rtol=0
    )


def test_uneven_ranks_keep_one_scale_for_readers_with_and_without_patterns(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    base = folders["llama"]
    path = NetworkPath(load(base))
    adapter = pissa(path)
    for site in adapter.sites:
        site.B_OR[:, 0] += 0.1
        if site.linear.endswith("v_proj"):
            site.A_RI.add_(torch.randn(site.A_RI.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    config = exported(adapter, path, tmp_path, base)
    assert (config["r"], config["lora_alpha"]) == (1, 1)
    assert set(config["rank_pattern"]) == {"v_proj"}
    assert config["alpha_pattern"] == config["rank_pattern"]
    torch.testing.assert_close(
        logits(loaded_by_peft(base, tmp_path)), logits(by_hand(path, adapter)), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2])
def test_the_smallest_rank_within_the_tolerance_is_kept(folders: Mapping[str, Path], tolerance: float) -> None:
    adapter = pissa(NetworkPath(load(folders["llama"])), target_modules=("q_proj",))
    for site in adapter.sites:
        site.A_RI.add_(torch.randn(site.A_RI.shape, generator=torch.Generator().manual_seed(1)), alpha=1e-3)
        site.B_OR.add_(torch.randn(site.B_OR.shape, generator=torch.Generator().manual_seed(2)), alpha=1e-1)
    expected, (_, ranks) = change_of(adapter), plain_lora(adapter, tolerance)
    for rank in ranks:
        values = torch.linalg.svdvals(expected[rank.linear].double())
        tails = [float(values[kept:].norm() / values.norm()) for kept in range(len(values))]
        assert tails[rank.rank] <= tolerance < tails[rank.rank - 1]
        assert rank.relative_error == pytest.approx(tails[rank.rank], rel=1e-3)


def test_an_untrained_pissa_run_exports_an_adapter_that_does_nothing(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    base = folders["llama"]
    path = NetworkPath(load(base))
    config = exported(pissa(path), path, tmp_path, base)
    assert config["r"] == 1
    torch.testing.assert_close(logits(loaded_by_peft(base, tmp_path)), logits(path.network), atol=1e-6, rtol=0)


def test_other_starts_leave_as_they_are(folders: Mapping[str, Path], tmp_path: Path) -> None:
    base = folders["llama"]
    path = NetworkPath(load(base))
    adapter = adapter_on(path, LoraMethod(lora_rank=RANK))
    disturb(adapter)
    spec = tiny_spec(total_steps=1, method=adapter.method)
    assert export(adapter, path, tmp_path, spec=spec, base_model=base) == ()
    written = load_file(tmp_path / "adapter_model.safetensors")
    a, b, _ = lora_names("model.layers.0.self_attn.q_proj")
    assert torch.equal(written[a], adapter.values[a])
    assert torch.equal(written[b], adapter.values[b])


def test_a_full_run_leaves_as_an_ordinary_model_folder(folders: Mapping[str, Path], tmp_path: Path) -> None:
    for name, base in folders.items():
        path = NetworkPath(load(base))
        adapter = initial_full(path.full_parameters())
        disturb(adapter)
        out = tmp_path / name
        export(adapter, path, out, spec=tiny_spec(total_steps=1, method=FullMethod()), base_model=base)
        read = load(out)
        assert all(torch.equal(value, adapter.values[found]) for found, value in read.named_parameters())
        assert {file.name for file in out.iterdir()} == {file.name for file in base.iterdir()}
        assert {stat.S_IMODE(file.stat().st_mode) for file in out.iterdir()} == {0o644}


def test_a_full_model_keeps_the_number_format_of_its_base(folders: Mapping[str, Path], tmp_path: Path) -> None:
    base = tmp_path / "bf16"
    load(folders["llama"], torch.bfloat16).save_pretrained(base)
    path = NetworkPath(load(base))
    adapter = initial_full(path.full_parameters())
    disturb(adapter)
    export(adapter, path, tmp_path / "out", spec=tiny_spec(total_steps=1, method=FullMethod()), base_model=base)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(written[name], adapter.values[name].to(torch.bfloat16))


def test_a_full_model_of_another_base_is_refused(folders: Mapping[str, Path], tmp_path: Path) -> None:
    path = NetworkPath(load(folders["gpt2"]))
    adapter = initial_full(path.full_parameters())
    with pytest.raises(BadBaseModel):
        export(
            adapter,
            path,
            tmp_path / "out",
            spec=tiny_spec(total_steps=1, method=FullMethod()),
            base_model=folders["llama"],
        )


def test_bottlenecks_are_read_as_they_were_written(folders: Mapping[str, Path], tmp_path: Path) -> None:
    path = NetworkPath(load(folders["llama"]))
    method = BottleneckMethod(width=6)
    adapter = initial_bottleneck(method, path.bottleneck_sites, 1, CPU)
    disturb(adapter)
    export(adapter, path, tmp_path, spec=tiny_spec(total_steps=1, method=method), base_model=folders["llama"])
    config = json.loads((tmp_path / "bottleneck_config.json").read_text())
    assert config == {
        "base_model_name_or_path": "tiny",
        "sites": dict(path.bottleneck_sites),
        "type": "bottleneck",
        "width": 6,
    }
    read = read_bottleneck(tmp_path, CPU)
    assert read.method == method
    assert read.shapes == adapter.shapes
    assert all(torch.equal(read.values[name], value) for name, value in adapter.values.items())


def test_damaged_bottlenecks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData):
        read_bottleneck(tmp_path, CPU)
    adapter = initial_bottleneck(BottleneckMethod(width=6), [("block", 16)], 1, CPU)
    spec = tiny_spec(total_steps=1, method=adapter.method)
    export(adapter, NetworkPathless(), tmp_path, spec=spec, base_model=tmp_path)  # type: ignore[arg-type]
    weights = tmp_path / "bottleneck.safetensors"
    save_file(dict(list(load_file(weights).items())[1:]), weights)
    with pytest.raises(BadData):
        read_bottleneck(tmp_path, CPU)


class NetworkPathless:
    linears: Mapping[str, Any] = {}
