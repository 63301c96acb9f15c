"""Held-out rows under transformers' own forward."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from domain.runs import TooLong
from engine.base_model import BaseModel
from engine.chat import ChatTokenizer
from engine.distributed import Ranks
from engine.measuring import measure_rows, pad, padded_groups
from engine.rows import load_rows
from engine.tokenise import TokenisedRow
from tests.tiny_engine import tiny_rows, write_rows

IGNORE = -100


def row_of(length: int, line: int = 1) -> TokenisedRow:
    ids = tuple(range(1, length + 1))
    return TokenisedRow(line=line, ids=ids, supervised=(False,) * (length - 2) + (True, True))


@pytest.fixture
def rows(chat: ChatTokenizer, tmp_path: Path) -> list[TokenisedRow]:
    write_rows(tmp_path / "rows.jsonl", tiny_rows(6))
    return load_rows(tmp_path / "rows.jsonl", chat, 256, TooLong.REFUSE)[0]


def reference_loss(base: BaseModel, rows: list[TokenisedRow]) -> float:
    """transformers' logits at every place of each row alone, and torch's own masking of labels."""
    total = 0.0
    for row in rows:
        with torch.no_grad():
            logits = base.network(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
        wanted = zip(row.ids, row.supervised, strict=True)
        labels = torch.tensor([token if learned else IGNORE for token, learned in wanted])
        total += float(functional.cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORE, reduction="sum"))
    return total / sum(row.supervised_tokens for row in rows)


@pytest.mark.parametrize("longest", [1, 10_000])
@pytest.mark.parametrize("budget", [9, 999])
def test_the_loss_is_that_of_full_logits_row_by_row(
    base: BaseModel, rows: list[TokenisedRow], one_rank: Ranks, *, longest: int, budget: int
) -> None:
    base.attend_to(longest)
    measure = measure_rows(base.network, base, rows, ranks=one_rank, token_budget=budget)
    assert measure.loss == pytest.approx(reference_loss(base, rows), rel=1e-5)


def test_groups_keep_to_the_budget_with_padding_and_a_long_row_goes_alone() -> None:
    rows = [row_of(length, line) for line, length in enumerate([100, 30, 29, 28, 3], start=1)]
    split = padded_groups(rows, 64)
    assert [[len(row.ids) for row in portion] for portion in split] == [[100], [30, 29], [28, 3]]


def test_padding_selects_the_place_before_each_supervised_token() -> None:
    batch = pad([row_of(5), row_of(3)], torch.device("cpu"))
    assert batch.ids_BT.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 0, 0]]
    assert batch.selected_R.tolist() == [2, 3, 5, 6]
    assert batch.targets_R.tolist() == [4, 5, 2, 3]
