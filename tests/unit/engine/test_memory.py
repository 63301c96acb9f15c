"""What will not fit is refused before the first step, with advice."""

import pytest
import torch

from domain.plans import Compute, FailureKind
from domain.runs import LoraMethod
from engine import memory
from engine.adapter import Adapter
from engine.failures import OutOfMemory
from engine.memory import GIB, check_fits, free_bytes
from tests.unit.engine.fake_path import FakePath

CPU = torch.device("cpu")
BYTES_A_TOKEN = 1_000_000


def estimate(*, free: int, batch_tokens: int = 4000, longest: int = 100, activation_checkpointing: bool = False) -> int:
    adapter = Adapter(LoraMethod(), {"w": torch.zeros(1_000)})
    compute = Compute(token_budget=2000, activation_checkpointing=activation_checkpointing)
    path = FakePath(bytes_a_token=BYTES_A_TOKEN)
    return check_fits(path, adapter, compute, batch_tokens=batch_tokens, longest_row_tokens=longest, free=free)


def test_the_estimate_is_a_passs_activations_and_the_optimisers_moments() -> None:
    # Two fp32 moments of 1,000 parameters, and no more than the budget's 2,000 tokens.
    assert estimate(free=10 * GIB) == 8 * 1_000 + 2_000 * BYTES_A_TOKEN


def test_a_row_longer_than_the_budget_decides() -> None:
    assert estimate(free=10 * GIB, longest=3_000) == 8 * 1_000 + 3_000 * BYTES_A_TOKEN


def test_what_does_not_fit_is_refused_with_the_numbers_and_advice() -> None:
    with pytest.raises(OutOfMemory) as refused:
        estimate(free=GIB)
    assert refused.value.kind is FailureKind.OUT_OF_MEMORY
    assert "needs about 1.9 GiB" in refused.value.message
    assert "1.0 GiB are free" in refused.value.message
    assert "token budget or `batch_size` helps, or activation checkpointing" in refused.value.message


def test_the_advice_fits_the_case() -> None:
    with pytest.raises(OutOfMemory, match="smaller `max_seq_len` helps, or activation checkpointing"):
        estimate(free=GIB, longest=3_000)
    with pytest.raises(OutOfMemory, match=r"`batch_size` helps\.$"):
        estimate(free=GIB, activation_checkpointing=True)


def test_some_memory_is_left_to_others() -> None:
    needed = estimate(free=10 * GIB)
    with pytest.raises(OutOfMemory):
        estimate(free=needed)
    assert estimate(free=int(needed * 1.06)) == needed


def test_free_memory_is_what_the_container_leaves(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = free_bytes(CPU)
    assert machine > GIB // 8
    folder = tmp_path_factory.mktemp("cgroup")
    limit, used = folder / "memory.max", folder / "memory.current"
    monkeypatch.setattr(memory, "CGROUP_LIMITS", ((limit, used),))
    limit.write_text("67108864\n")
    used.write_text("7108864\n")
    assert free_bytes(CPU) == 60_000_000
    limit.write_text("max\n")
    assert free_bytes(CPU) > GIB // 8
