"""The paired comparison: its difference, its interval, and the time."""

import math
from collections.abc import Sequence

import pytest

from benchmarks.quality import compared
from benchmarks.results import QualityRun

OURS, PEER = "tsugiki-bf16", "peft-trainer-bf16"


def run(
    trainer: str, right: Sequence[bool], *, seed: int = 1, department: str = "claims", train_s: float = 1.0
) -> QualityRun:
    return QualityRun(department=department, trainer=trainer, seed=seed, train_s=train_s, loss=0.5, right=tuple(right))


def test_the_difference_is_ours_less_the_peers() -> None:
    quality = compared([run(OURS, [True, True, True, False]), run(PEER, [True, False, False, False])])
    assert (quality.ours_accuracy, quality.peer_accuracy, quality.difference) == (0.75, 0.25, 0.5)


def test_the_interval_is_as_wide_as_the_rows_say() -> None:
    # Half of 100 rows differ by 1: the mean's standard error is sqrt(0.25 / 100), and means of 100 are near normal.
    quality = compared([run(OURS, [True] * 100), run(PEER, [True] * 50 + [False] * 50)])
    half = 1.96 * math.sqrt(0.25 / 100)
    assert (quality.low, quality.high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.011)


def test_pairs_that_all_agree_leave_no_doubt() -> None:
    mixed = [True, False] * 50
    quality = compared([run(OURS, mixed), run(PEER, mixed)])
    assert (quality.difference, quality.low, quality.high) == (0.0, 0.0, 0.0)
    # The control: the same accuracies on other rows do not agree.
    crossed = compared([run(OURS, mixed), run(PEER, mixed[::-1])])
    assert crossed.difference == 0.0
    assert crossed.low < -0.1 < 0.1 < crossed.high


def test_the_same_rows_answered_from_more_seeds_are_not_more_rows() -> None:
    ours, peers = [True] * 20, [True] * 10 + [False] * 10
    once = compared([run(OURS, ours), run(PEER, peers)])
    seeds = range(4)
    often = compared(
        [run(trainer, right, seed=seed) for trainer, right in ((OURS, ours), (PEER, peers)) for seed in seeds]
    )
    assert (often.low, often.high) == (once.low, once.high)


def test_departments_are_drawn_from_apart() -> None:
    # One department always better, one always equal: whichever rows are drawn, half of all differ.
    quality = compared(
        [
            run(OURS, [True] * 10),
            run(PEER, [False] * 10),
            run(OURS, [True] * 10, department="home"),
            run(PEER, [True] * 10, department="home"),
        ]
    )
    assert (quality.low, quality.high) == (0.5, 0.5)


def test_time_is_compared_within_pairs() -> None:
    times = {1: (100.0, 20.0), 2: (90.0, 30.0), 3: (80.0, 20.0)}
    runs = [
        run(trainer, [True], seed=seed, train_s=seconds)
        for seed, pair in times.items()
        for trainer, seconds in zip((PEER, OURS), pair, strict=True)
    ]
    # 5, 3 and 4 times as long.
    assert compared(runs).time_ratio == 4.0
