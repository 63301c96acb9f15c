"""A slow rank is named to those who wait for it."""

import pytest

from engine.pace import TICKS, Pace


def remarks(busy_s: list[float], ticks: int = TICKS) -> list[str]:
    pace = Pace(len(busy_s))
    return [remark for _ in range(ticks) if (remark := pace.hear(busy_s))]


def test_a_rank_that_takes_much_longer_than_its_peers_is_named() -> None:
    assert remarks([1.0, 2.5, 1.1]) == ["Rank 1 of 3 is slow: 2.50 s a step, the others 1.05 s."]


@pytest.mark.parametrize("busy_s", [[1.0, 1.2], [1.0, 1.0, 1.4], [3.0]])
def test_ranks_of_about_the_same_pace_are_not(busy_s: list[float]) -> None:
    assert remarks(busy_s, 5 * TICKS) == []


def test_one_slow_step_is_no_news() -> None:
    pace = Pace(2)
    heard = [pace.hear([1.0, 9.0 if tick == 3 else 1.0]) for tick in range(TICKS)]
    assert set(heard) == {None}


def test_a_rank_tells_its_own_time_in_its_own_place() -> None:
    pace = Pace(3)
    pace.count(0.7)
    assert pace.own(1) == [0.0, 0.7, 0.0]
