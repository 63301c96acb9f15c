import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import transformers

from domain.plans import Precision
from domain.runs import LoraBias, LoraMethod
from engine.adapter import Adapter
from engine.decoder import DecoderPath, RowExceedsWindow
from engine.failures import BadBaseModel
from engine.path import Passed
from engine.stream import Part
from tests.unit.engine.decoder.random_models import (
    ALL_LINEARS,
    MODELS,
    Targets,
    by_peft,
    load_path,
    random_adapter,
    random_rows,
    relative_error,
    write_model,
)

# PEFT asks transformers by a name that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

RAGGED = (3, 17, 5, 30, 29, 2, 11)
# Ranks and targets as different as runs of one pass may have them.
MIXED = (
    Targets(rank=4),
    Targets(rank=8, modules=("q_proj", "v_proj")),
    Targets(rank=16, modules=("down_proj", "k_proj", "gate_proj")),
    Targets(rank=2, ranks={"up_proj": 6, "o_proj": 1}),
)

Folders = Callable[[str], Path]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    written: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in written:
            written[name] = write_model(tmp_path_factory.mktemp("model") / "base_model", name)
        return written[name]

    return write


@pytest.fixture
def llama(folder_of: Folders) -> DecoderPath:
    return load_path(folder_of("llama"))


def mixed_parts(path: DecoderPath, *, seed: int = 0) -> list[Part]:
    return [
        Part(
            random_adapter(path, targets, seed=seed + number), random_rows(RAGGED[number:], seed=number), 0.01 * number
        )
        for number, targets in enumerate(MIXED, start=1)
    ]


def trained(path: DecoderPath, parts: Sequence[Part]) -> tuple[Passed, list[dict[str, torch.Tensor]]]:
    """One pass over the parts, and the gradients it added to each adapter."""
    for part in parts:
        assert part.adapter is not None
        for gradient in part.adapter.grads.values():
            gradient.zero_()
    passed = path.gradients(parts)
    return passed, [
        {name: gradient.clone() for name, gradient in part.adapter.grads.items()} for part in parts if part.adapter
    ]


def numbers(passed: Passed) -> list[float]:
    """Losses and hits in one list."""
    return [number for sums in passed.sums for number in sums]


def largest_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    return max(float((found[name] - value).abs().max()) for name, value in expected.items())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_loss_and_every_gradient_are_those_of_peft(folder_of: Folders, name: str) -> None:
    folder, targets = folder_of(name), Targets(rank=4)
    path = load_path(folder)
    adapter = random_adapter(path, targets, seed=1)
    part = Part(adapter, random_rows(RAGGED, seed=2), scale=0.01)
    expected = by_peft(folder, adapter, targets, part, dtype=torch.float32)
    passed, (gradients,) = trained(path, [part])
    assert passed.sums[0].loss == pytest.approx(expected.loss, rel=1e-5)
    assert passed.sums[0].correct == expected.correct
    assert gradients.keys() == expected.gradients.keys()
    for key, gradient in expected.gradients.items():
        assert relative_error(gradients[key], gradient) < 2e-5, key
    assert passed.computed_tokens == sum(RAGGED)


def test_ranks_by_pattern_and_few_targets_are_those_of_peft(folder_of: Folders) -> None:
    folder = folder_of("qwen3")
    path = load_path(folder)
    for targets in MIXED:
        adapter = random_adapter(path, targets, seed=1)
        part = Part(adapter, random_rows(RAGGED, seed=2), scale=0.01)
        expected = by_peft(folder, adapter, targets, part, dtype=torch.float32)
        _, (gradients,) = trained(path, [part])
        for key, gradient in expected.gradients.items():
            assert relative_error(gradients[key], gradient) < 2e-5, key


def test_many_runs_in_one_pass_get_what_each_gets_alone(llama: DecoderPath) -> None:
    parts = mixed_parts(llama)
    together, gradients = trained(llama, parts)
    for number, part in enumerate(parts):
        alone, (expected,) = trained(llama, [part])
        assert together.sums[number].loss == pytest.approx(alone.sums[0].loss, rel=1e-6)
        assert together.sums[number].correct == alone.sums[0].correct
        assert largest_difference(gradients[number], expected) <= 1e-6


def test_gradients_are_added_to_what_is_there(llama: DecoderPath) -> None:
    (part, *_) = mixed_parts(llama)
    _, (once,) = trained(llama, [part])
    llama.gradients([part])
    assert part.adapter is not None
    for name, gradient in once.items():
        assert torch.allclose(part.adapter.grads[name], 2 * gradient, atol=1e-7)


def test_a_row_in_a_pack_is_measured_as_it_is_alone(folder_of: Folders) -> None:
    for name in ("llama", "qwen3"):
        path = load_path(folder_of(name))
        adapter = random_adapter(path, Targets(rank=4), seed=1)
        rows = random_rows((40, 3, 41, 9, 17, 33), seed=3)
        packed = path.losses([Part(adapter, [row]) for row in rows])
        for row, sums in zip(rows, packed.sums, strict=True):
            alone = path.losses([Part(adapter, [row])]).sums[0]
            assert sums.loss == pytest.approx(alone.loss, abs=1e-4)


def test_the_base_alone_is_what_an_adapter_without_effect_gives(llama: DecoderPath) -> None:
    adapter = random_adapter(llama, Targets(rank=4), seed=1)
    rows = random_rows(RAGGED, seed=2)
    with_adapter = llama.losses([Part(adapter, rows)]).sums[0]
    for name, value in adapter.values.items():
        if "lora_B" in name:
            value.zero_()
    without_effect, base = llama.losses([Part(adapter, rows), Part(None, rows)]).sums
    assert base == pytest.approx(without_effect)
    assert base.loss != pytest.approx(with_adapter.loss, rel=1e-3)


def test_losses_are_those_of_gradients_and_touch_no_gradient(llama: DecoderPath) -> None:
    parts = mixed_parts(llama)
    passed, before = trained(llama, parts)
    assert numbers(llama.losses(parts)) == pytest.approx(numbers(passed))
    for part, gradients in zip(parts, before, strict=True):
        assert part.adapter is not None
        assert all(torch.equal(value, gradients[name]) for name, value in part.adapter.grads.items())


def test_other_runs_rows_and_weights_leave_my_gradient_bit_equal(llama: DecoderPath) -> None:
    mine, *others = mixed_parts(llama)
    strangers = [
        Part(
            random_adapter(llama, MIXED[number], seed=50 + number), random_rows(RAGGED[number + 1 :], seed=90 + number)
        )
        for number in range(1, len(MIXED))
    ]
    _, (gradients, *_) = trained(llama, [mine, *others])
    _, (again, *_) = trained(llama, [mine, *strangers])
    assert all(torch.equal(gradients[name], again[name]) for name in gradients)


def test_activation_checkpointing_changes_no_number(folder_of: Folders) -> None:
    for name in ("llama", "qwen3"):
        keeping, recomputing = load_path(folder_of(name)), load_path(folder_of(name), checkpointing=True)
        parts = mixed_parts(keeping)
        kept, gradients = trained(keeping, parts)
        recomputed, again = trained(recomputing, parts)
        assert kept.sums == recomputed.sums
        for one, other in zip(gradients, again, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_start_is_taken_out_and_has_no_gradient(folder_of: Folders) -> None:
    # W - s B0 A0 + s B A is W' + s B A with a base that has been changed: PEFT on that base is the oracle.
    folder, targets = folder_of("llama"), Targets(rank=4)
    path = load_path(folder)
    adapter = random_adapter(path, targets, seed=1, pissa=True)
    part = Part(adapter, random_rows(RAGGED, seed=2), scale=0.01)

    def take_out(linear: str, weight: torch.Tensor) -> torch.Tensor:
        site = next(site for site in adapter.sites if site.linear == linear)
        assert site.start_A_RI is not None
        assert site.start_B_OR is not None
        return weight - site.scale * site.start_B_OR @ site.start_A_RI

    expected = by_peft(folder, adapter, targets, part, dtype=torch.float32, change=take_out)
    passed, (gradients,) = trained(path, [part])
    assert passed.sums[0].loss == pytest.approx(expected.loss, rel=1e-5)
    for key, gradient in expected.gradients.items():
        assert relative_error(gradients[key], gradient) < 2e-5, key


def test_parts_without_rows_or_with_single_tokens_are_passed_over(llama: DecoderPath) -> None:
    full, empty, single, bare = (random_adapter(llama, Targets(rank=4), seed=seed) for seed in range(4))
    rows = random_rows(RAGGED, seed=2)
    alone, (expected,) = trained(llama, [Part(full, rows)])
    parts = [Part(empty, []), Part(single, random_rows((1, 1), seed=5)), Part(full, rows), Part(bare, [])]
    passed, gradients = trained(llama, parts)
    assert [sums.loss for sums in passed.sums] == [0.0, 0.0, pytest.approx(alone.sums[0].loss, rel=1e-6), 0.0]
    assert largest_difference(gradients[2], expected) <= 1e-6
    assert all(not gradient.any() for number in (0, 1, 3) for gradient in gradients[number].values())
    assert llama.gradients([Part(empty, [])]).sums == [(0.0, 0)]
    assert llama.gradients([Part(single, random_rows((1,), seed=5))]).computed_tokens == 1


def test_only_layers_below_which_something_is_adapted_are_gone_back_through(folder_of: Folders) -> None:
    folder = folder_of("llama")
    path = load_path(folder)
    everywhere = random_adapter(path, Targets(rank=4), seed=1)
    last = [site for site in everywhere.sites if site.linear.startswith("model.layers.2.")]
    names = {name: value for name, value in everywhere.values.items() if ".layers.2." in name}
    adapter = Adapter(everywhere.method, names, sites=tuple(last))
    for name, value in everywhere.values.items():
        if "lora_B" in name and name not in names:
            value.zero_()
    rows = random_rows(RAGGED, seed=2)
    _, (expected,) = trained(path, [Part(everywhere, rows)])
    _, (gradients,) = trained(path, [Part(adapter, rows)])
    assert len(gradients) == 2 * len(ALL_LINEARS)
    assert all(torch.allclose(gradients[name], expected[name], atol=1e-6) for name in gradients)


def test_rows_long_enough_for_fused_attention_are_those_of_peft(
    folder_of: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.decoder.attention.FUSED_FROM_TOKENS", 16)
    folder, targets = folder_of("qwen3"), Targets(rank=4)
    path = load_path(folder)
    adapter = random_adapter(path, targets, seed=1)
    part = Part(adapter, random_rows(RAGGED, seed=2), scale=0.01)
    expected = by_peft(folder, adapter, targets, part, dtype=torch.float32)
    _, (gradients,) = trained(path, [part])
    for key, gradient in expected.gradients.items():
        assert relative_error(gradients[key], gradient) < 2e-5, key


def test_a_portion_of_the_head_at_a_time_gives_the_same(folder_of: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    path = load_path(folder_of("llama"))
    parts = mixed_parts(path)
    passed, gradients = trained(path, parts)
    monkeypatch.setattr("engine.decoder.head.LOGITS_BYTES", 97 * 4 * 5)
    portioned, again = trained(path, parts)
    assert numbers(portioned) == pytest.approx(numbers(passed), rel=1e-6)
    for one, other in zip(gradients, again, strict=True):
        assert all(relative_error(one[key], other[key]) < 1e-5 for key in one)


def test_without_native_kernels_the_numbers_stay(folder_of: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    native = load_path(folder_of("qwen3"))
    parts = mixed_parts(native)
    passed, gradients = trained(native, parts)
    monkeypatch.setattr("engine.decoder.kernels.compiled_for", lambda _: None)
    plain = load_path(folder_of("qwen3"))
    without, again = trained(plain, parts)
    assert numbers(without) == pytest.approx(numbers(passed), rel=1e-5)
    for one, other in zip(gradients, again, strict=True):
        assert all(relative_error(one[key], other[key]) < 2e-5 for key in one if other[key].any())


@pytest.mark.parametrize("name", ["llama-wide", "qwen3-wide"])
def test_bf16_is_close_to_fp32(folder_of: Folders, name: str) -> None:
    full, half = load_path(folder_of(name)), load_path(folder_of(name), precision=Precision.BF16)
    targets = Targets(rank=8)
    part = Part(random_adapter(full, targets, seed=1), random_rows((70, 33, 64, 5), seed=2), scale=0.01)
    passed, (expected,) = trained(full, [part])
    rounded, (gradients,) = trained(half, [part])
    assert rounded.sums[0].loss == pytest.approx(passed.sums[0].loss, rel=1e-2)
    everything = [torch.cat([some[key].flatten() for key in expected]) for some in (gradients, expected)]
    assert relative_error(*everything) < 0.06


def test_bf16_runs_in_one_pass_get_what_each_gets_alone(folder_of: Folders) -> None:
    path = load_path(folder_of("llama-wide"), precision=Precision.BF16)
    parts = mixed_parts(path)
    _, gradients = trained(path, parts)
    for number, part in enumerate(parts):
        _, (alone,) = trained(path, [part])
        everything = [torch.cat([some[key].flatten() for key in alone]) for some in (gradients[number], alone)]
        assert relative_error(*everything) < 0.01


def test_dropout_depends_on_the_parts_seed_alone_and_keeps_the_mean(llama: DecoderPath) -> None:
    rows = random_rows(RAGGED, seed=2)
    plain = random_adapter(llama, Targets(rank=4), seed=1)
    dropping = random_adapter(llama, Targets(rank=4), seed=1, dropout=0.3)
    stranger = random_adapter(llama, Targets(rank=8), seed=9, dropout=0.5)
    _, (once,) = trained(llama, [Part(dropping, rows, seed=5)])
    _, (again, _) = trained(llama, [Part(dropping, rows, seed=5), Part(stranger, rows, seed=6)])
    _, (other,) = trained(llama, [Part(dropping, rows, seed=7)])
    assert largest_difference(again, once) <= 1e-5
    assert largest_difference(other, once) > 1e-3
    measured = llama.losses([Part(dropping, rows, seed=5)])
    assert numbers(measured) == pytest.approx(numbers(llama.losses([Part(plain, rows)])))


def test_a_dropped_gradient_is_that_of_the_dropped_loss(llama: DecoderPath) -> None:
    # The masks stand still with the seed, so that the loss is a function whose slope can be measured.
    adapter = random_adapter(llama, Targets(rank=2), seed=1, dropout=0.4)
    part = Part(adapter, random_rows((9, 14), seed=2), seed=3)
    _, (gradients,) = trained(llama, [part])
    direction = {name: gradient / gradient.norm() for name, gradient in gradients.items()}
    step = 1e-4
    losses = []
    for sign in (1, -2):
        for name, value in adapter.values.items():
            value.add_(direction[name], alpha=sign * step)
        losses.append(llama.gradients([part]).sums[0].loss)
    slope = (losses[0] - losses[1]) / (2 * step)
    assert slope == pytest.approx(sum(float(gradient.norm()) for gradient in gradients.values()), rel=1e-2)


def test_a_loss_that_is_no_number_is_said(llama: DecoderPath) -> None:
    adapter = random_adapter(llama, Targets(rank=4), seed=1)
    next(iter(adapter.values.values())).fill_(torch.nan)
    fine = random_adapter(llama, Targets(rank=4), seed=1)
    broken, whole = llama.gradients(
        [Part(adapter, random_rows(RAGGED, seed=2)), Part(fine, random_rows((9,), seed=2))]
    ).sums
    assert math.isnan(broken.loss)
    assert whole.loss == pytest.approx(llama.losses([Part(fine, random_rows((9,), seed=2))]).sums[0].loss, rel=1e-6)


def test_rows_beyond_the_sliding_window_are_refused(folder_of: Folders) -> None:
    path = load_path(folder_of("mistral"))
    adapter = random_adapter(path, Targets(rank=4), seed=1)
    path.gradients([Part(adapter, random_rows((128,), seed=2))])
    with pytest.raises(RowExceedsWindow):
        path.gradients([Part(adapter, random_rows((129,), seed=2))])


def test_methods_of_the_general_path_are_declined(llama: DecoderPath) -> None:
    assert llama.handles(LoraMethod(dropout=0.1))
    assert not llama.handles(LoraMethod(use_dora=True))
    assert not llama.handles(LoraMethod(bias=LoraBias.ALL))


def test_linears_and_weights_are_those_of_the_model(folder_of: Folders) -> None:
    for name in ("llama", "qwen2"):
        path = load_path(folder_of(name))
        expected = torch_linears(folder_of(name))
        assert list(path.linears) == list(expected)
        for linear, weight in expected.items():
            assert torch.equal(path.weight(linear), weight)
            assert path.linears[linear][:2] == tuple(weight.shape)


def torch_linears(folder: Path) -> dict[str, torch.Tensor]:
    network = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return {
        name: module.weight.detach()
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


def test_needed_operations_are_counted_from_the_weights(llama: DecoderPath) -> None:
    # Per layer: q and o 48 x 96, k and v 48 x 32, three of 48 x 80; the head 97 x 48.
    linear = 3 * (2 * 48 * 96 + 2 * 48 * 32 + 3 * 48 * 80)
    assert llama.flops(10, 4) == 4 * (linear * 10 + 97 * 48 * 4)


def test_memory_is_estimated_from_above_but_not_wildly(folder_of: Folders) -> None:
    for checkpointing in (False, True):
        path = load_path(folder_of("llama-wide"), checkpointing=checkpointing)
        lengths = [40, 50, 60, 70, 80] * 8
        path.gradients([Part(random_adapter(path, Targets(rank=8), seed=1), random_rows(lengths, seed=2))])
        held, estimate = path.held_bytes, path.activation_bytes(sum(lengths), max(lengths))
        assert held <= estimate <= 4 * held + 2**26


def test_a_damaged_model_folder_is_a_bad_base_model(folder_of: Folders, tmp_path: Path) -> None:
    whole = folder_of("llama")
    (tmp_path / "config.json").write_bytes((whole / "config.json").read_bytes())
    with pytest.raises(BadBaseModel):
        load_path(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(BadBaseModel):
        load_path(tmp_path)
