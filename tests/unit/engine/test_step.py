from pathlib import Path

import pytest
import torch
from torch.nn import functional

from domain.runs import LoraMethod, Optimiser, TooLong
from engine.adapters import Adapter, adapter_on
from engine.base_model import BaseModel
from engine.batches import collate
from engine.chat import ChatTokenizer
from engine.distributed import Ranks
from engine.failures import NonFiniteLoss
from engine.loss import loss_sum
from engine.optimiser import build_optimiser
from engine.randomness import seed_everything
from engine.rows import load_rows
from engine.step import Step, measure_loss, optimise
from engine.tokenise import TokenisedRow
from tests.tiny_engine import tiny_rows, write_rows

IGNORE = -100


@pytest.fixture
def rows(chat: ChatTokenizer, tmp_path: Path) -> list[TokenisedRow]:
    write_rows(tmp_path / "rows.jsonl", tiny_rows(6))
    return load_rows(tmp_path / "rows.jsonl", chat, 256, TooLong.REFUSE)[0]


def step_with(adapter: Adapter, base: BaseModel, ranks: Ranks, *, token_budget: int = 1000) -> Step:
    optimiser = build_optimiser(adapter.parameters.values(), Optimiser(learning_rate=1e-2))
    return Step(adapter.network, base, optimiser, ranks, token_budget)


def reference_loss(base: BaseModel, rows: list[TokenisedRow]) -> torch.Tensor:
    """transformers' logits at every place of each row alone, and torch's own masking of labels."""
    total = torch.tensor(0.0)
    for row in rows:
        logits = base.network(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
        wanted = zip(row.ids, row.supervised, strict=True)
        labels = torch.tensor([token if learned else IGNORE for token, learned in wanted])
        total = total + functional.cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORE, reduction="sum")
    return total


@pytest.mark.parametrize("longest", [1, 10_000])
def test_the_loss_is_that_of_full_logits_row_by_row(base: BaseModel, rows: list[TokenisedRow], longest: int) -> None:
    base.attend_to(longest)
    ours = loss_sum(base.network, base, collate(rows, base.device)).loss
    torch.testing.assert_close(ours, reference_loss(base, rows))


def test_micro_batches_add_up_to_the_gradient_of_the_mean(
    base: BaseModel, rows: list[TokenisedRow], one_rank: Ranks
) -> None:
    with adapter_on(base, LoraMethod(lora_rank=4)) as adapter:
        (reference_loss(base, rows) / sum(row.supervised_tokens for row in rows)).backward()
        expected = {name: weight.grad for name, weight in adapter.parameters.items()}
        step = step_with(adapter, base, one_rank, token_budget=40)
        step.optimiser.step = lambda: None
        optimise(step, rows, clip_norm=0)
        for name, weight in adapter.parameters.items():
            torch.testing.assert_close(weight.grad, expected[name], msg=name)


def test_a_loss_that_is_no_number_changes_no_weight(base: BaseModel, rows: list[TokenisedRow], one_rank: Ranks) -> None:
    with adapter_on(base, LoraMethod(lora_rank=4)) as adapter:
        step = step_with(adapter, base, one_rank)
        optimise(step, rows, clip_norm=1)
        before = adapter.weights()
        with torch.no_grad():
            base.network.model.norm.weight[0] = torch.inf
        with pytest.raises(NonFiniteLoss):
            optimise(step, rows, clip_norm=1)
        assert all(torch.equal(before[name], weight) for name, weight in adapter.weights().items())


def test_measuring_uses_no_dropout_and_leaves_the_network_training(
    base: BaseModel, rows: list[TokenisedRow], one_rank: Ranks
) -> None:
    with adapter_on(base, LoraMethod(lora_rank=4, dropout=0.5)) as adapter:
        step = step_with(adapter, base, one_rank)
        adapter.network.train()
        optimise(step, rows, clip_norm=1)
        first, again = (
            measure_loss(adapter.network, base, rows, ranks=one_rank, token_budget=tokens) for tokens in (9, 999)
        )
        assert first.loss == pytest.approx(again.loss, rel=1e-5)
        assert adapter.network.training


def test_dropout_draws_from_the_seed(base: BaseModel, rows: list[TokenisedRow]) -> None:
    with adapter_on(base, LoraMethod(lora_rank=4, dropout=0.5)) as adapter, torch.no_grad():
        for weight in adapter.parameters.values():
            weight.fill_(0.1)
        losses = []
        for seed in (1, 1, 2):
            seed_everything(seed, 0)
            losses.append(float(loss_sum(adapter.network, base, collate(rows, base.device)).loss))
        assert losses[0] == losses[1] != losses[2]
