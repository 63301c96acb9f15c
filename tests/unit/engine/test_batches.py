from collections import Counter

import pytest

from engine.batches import deal, portions, rows_of_step
from engine.tokenise import TokenisedRow


def row_of(length: int, line: int = 1) -> TokenisedRow:
    ids = tuple(range(1, length + 1))
    return TokenisedRow(line=line, ids=ids, supervised=(False,) * (length - 2) + (True, True))


def test_an_epoch_is_every_row_once_and_the_next_is_in_another_order() -> None:
    epochs = [[rows_of_step(step, 10, batch_size=4, seed=1) for step in range(first, first + 3)] for first in (0, 3)]
    assert [[len(batch) for batch in epoch] for epoch in epochs] == [[4, 4, 2], [4, 4, 2]]
    flat = [[row for batch in epoch for row in batch] for epoch in epochs]
    assert sorted(flat[0]) == sorted(flat[1]) == list(range(10))
    assert flat[0] != flat[1]


def test_the_order_follows_the_seed() -> None:
    first, again, other = (rows_of_step(0, 50, batch_size=50, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_every_row_is_dealt_to_one_rank_and_no_rank_waits_long(world_size: int) -> None:
    lengths = [90, 10, 50, 50, 30, 70, 20]
    shares = deal(lengths, world_size)
    assert Counter(place for share in shares for place in share) == Counter(range(len(lengths)))
    loads = [sum(lengths[place] for place in share) for share in shares]
    # Graham 1969: longest first is at most 4/3 of the best, which is at least the mean and the longest row.
    assert max(loads) <= 4 / 3 * max(90, sum(lengths) / world_size) + 90 * (world_size == 1)


def test_with_fewer_rows_than_ranks_some_rank_gets_none() -> None:
    assert deal([5], 2) == [[0], []]


def lengths(split: list[list[TokenisedRow]]) -> list[list[int]]:
    return [sorted(len(row.ids) for row in portion) for portion in split]


def test_portions_keep_to_the_budget_and_are_equally_full() -> None:
    rows = [row_of(length, line) for line, length in enumerate([40, 30, 29, 21], start=1)]
    assert lengths(portions(rows, 64)) == [[21, 40], [29, 30]]
    assert lengths(portions(rows, 120)) == [[21, 29, 30, 40]]


def test_a_row_beyond_the_budget_goes_alone() -> None:
    rows = [row_of(length, line) for line, length in enumerate([100, 30, 29, 3], start=1)]
    split = lengths(portions(rows, 64))
    assert [100] in split
    assert all(sum(portion) <= 64 for portion in split if portion != [100])


def test_no_rows_are_no_portion() -> None:
    assert portions([], 64) == []
