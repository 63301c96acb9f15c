"""The simulation of waiting: small cases that can be followed by hand."""

import random
from uuid import UUID

import pytest

from benchmarks.fairness import Asked, all_at_once, by_age, by_share, jain, shares_at, simulate


def asked(number: int, department: int, at_s: float, takes_s: float = 100.0) -> Asked:
    return Asked(UUID(int=number), department, at_s, takes_s)


def test_jains_index_is_one_for_equals_and_one_nth_for_a_monopoly() -> None:
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1)
    assert jain([5.0, 0.0, 0.0, 0.0]) == pytest.approx(1 / 4)
    # Four squared, over twice ten.
    assert jain([1.0, 3.0]) == pytest.approx(0.8)


@pytest.mark.parametrize(("choose", "began_s"), [(by_share, 200.0), (by_age, 1000.0)])
def test_the_first_job_of_another_waits_for_what_runs_or_for_all(choose: object, began_s: float) -> None:
    many = [asked(number, 0, 0.0) for number in range(10)]
    ran = simulate([*many, asked(10, 1, 150.0)], [1.0, 1.0], choose, workers=1)
    (first,) = [each for each in ran if each.asked.department == 1]
    assert first.began_s == began_s
    assert len(ran) == 11


def test_shares_count_what_ran_until_then_for_the_weight() -> None:
    ran = simulate([asked(0, 0, 0.0), asked(1, 1, 0.0, 40.0)], [2.0, 1.0], by_age, workers=2)
    assert shares_at(ran, [2.0, 1.0], 50.0) == [25.0, 40.0]


def test_fair_shares_are_nearly_equal_where_first_come_first_served_is_a_queue() -> None:
    weights = [2.0, 1.0, 1.0, 1.0]
    backlog = all_at_once(4, 400, random.Random(3))
    half_s = sum(each.takes_s for each in backlog) / 8 / 2
    index = {
        choose: jain(shares_at(simulate(backlog, weights, choose), weights, half_s)) for choose in (by_share, by_age)
    }
    # Half of the work, department after department: two of four have had all of theirs, and two none.
    assert index[by_age] == pytest.approx(jain([50.0, 100.0, 0.0, 0.0]), abs=0.05)
    assert index[by_share] > 0.99
