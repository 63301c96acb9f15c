"""The clock of a measured process."""

import pytest

from benchmarks.steps import Phase, StepClock, parse_phases


def take(clock: StepClock, steps: int) -> None:
    for _ in range(steps):
        clock.begin()
        clock.end(tokens=3, computed_tokens=5, supervised_tokens=2)


def test_phases_are_threads_and_steps() -> None:
    assert parse_phases("1:4,2:3") == [Phase(threads=1, steps=4), Phase(threads=2, steps=3)]


def test_each_phase_has_its_threads_and_warms_up_once() -> None:
    threads: list[int] = []
    clock = StepClock(parse_phases("1:3,2:2"), threads.append)
    take(clock, clock.total_steps)
    assert threads == [1, 2]
    told = [(step.threads, step.warm_up) for step in clock.report(peak_bytes=7).steps]
    assert told == [(1, True), (1, False), (1, False), (2, True), (2, False)]
    assert clock.report(peak_bytes=7).start_s > 0


def test_a_step_beyond_the_phases_is_refused() -> None:
    clock = StepClock(parse_phases("1:2"), lambda _: None)
    take(clock, 2)
    with pytest.raises(ValueError, match="more steps"):
        take(clock, 1)
