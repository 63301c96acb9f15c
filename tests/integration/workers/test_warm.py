"""Jobs of a worker that keeps an engine process warm, and measures what its machine can do."""

import logging
import signal
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from domain.jobs import JobState

PREWARM = pytest.mark.parametrize("settings", [{"prewarm": True}], indirect=True)


@pytest.fixture
def started(caplog: pytest.LogCaptureFixture) -> Any:
    """Which engine processes have been started, in order."""
    caplog.set_level(logging.INFO, "runtime.processes")
    return lambda: [
        record.args[0].removeprefix("engine ") for record in caplog.records if record.msg.startswith("started ")
    ]


@pytest.fixture
def warm_worker(department: Any, fake: Any) -> Iterator[Any]:
    """A worker in this process, of the real engine where nothing is said of how the other behaves."""
    made: list[Any] = []

    def worker(*behaviour: str, **settings: float) -> Any:
        made.append(department.worker(fake(*behaviour) if behaviour else None, prewarm=True, **settings))
        return made[-1]

    yield worker
    for each in made:
        each.warm.close()


def state_of(department: Any, job: UUID) -> JobState:
    return JobState(department.job(job).state)


def test_the_next_job_is_done_by_the_process_that_waited(
    department: Any, warm_worker: Any, started: Any, engines: Any
) -> None:
    # The real engine. Its process held the base model of the first job, and nothing of its rows.
    jobs = [department.submit_queued() for _ in range(2)]
    worker = warm_worker()
    assert [worker.run_next(), worker.run_next()] == [True, True]
    assert [state_of(department, job) for job in jobs] == [JobState.SUCCEEDED] * 2
    assert started() == ["calibrate", "train", "warm", "warm"]
    first, second = (department.versions(job)[0].report for job in jobs)
    assert second["token_budget"] == first["token_budget"]
    assert len(engines()) == 1
    worker.warm.close()
    assert engines() == []


@pytest.mark.parametrize("broken", ["abort_warm", "abort_ordered", "mute_ordered"])
def test_a_broken_warm_process_costs_no_job_an_attempt(
    broken: str, department: Any, warm_worker: Any, started: Any
) -> None:
    jobs = [department.submit_queued() for _ in range(2)]
    worker = warm_worker(broken, hang_after_s=5)
    assert [worker.run_next(), worker.run_next()] == [True, True]
    assert [(state_of(department, job), department.job(job).epoch) for job in jobs] == [(JobState.SUCCEEDED, 1)] * 2
    # The second job's is a cold one.
    assert started() == ["calibrate", "train", "warm", "train", "warm"]


def test_a_job_that_fails_in_a_warm_process_has_failed(department: Any, warm_worker: Any, started: Any) -> None:
    jobs = [department.submit_queued() for _ in range(2)]
    worker = warm_worker("non_finite")
    assert [worker.run_next(), worker.run_next()] == [True, True]
    assert [department.job(job).error["code"] for job in jobs] == ["non_finite_loss"] * 2
    assert started() == ["calibrate", "train", "warm", "warm"]


def test_a_job_that_kills_a_warm_process_fails_after_three_attempts(
    department: Any, warm_worker: Any, started: Any
) -> None:
    department.submit_queued(steps=1)
    poison = department.submit_queued()
    worker = warm_worker("abort_late")
    assert [worker.run_next() for _ in range(4)] == [True] * 4
    assert (state_of(department, poison), department.job(poison).error["code"]) == (JobState.FAILED, "worker_crash")
    # What it had begun in a warm process is not begun again in a cold one under the same attempt.
    assert started() == ["calibrate", "train", "warm", "warm", "warm", "warm"]


def test_without_prewarm_nothing_waits(department: Any, fake: Any, started: Any, engines: Any) -> None:
    job = department.submit_queued()
    assert department.worker(fake()).run_next()
    assert state_of(department, job) == JobState.SUCCEEDED
    assert started() == ["calibrate", "train"]
    assert engines() == []


@PREWARM
def test_a_warm_process_at_work_dies_with_its_worker(department: Any, start: Any, wait_for: Any, engines: Any) -> None:
    first, second = department.submit_queued(steps=1), department.submit_queued(steps=1000)
    worker = start("slow")
    wait_for(lambda: (department.job(second).progress or {}).get("loss"), within_s=60, what="the second job trains")
    assert state_of(department, first) == JobState.SUCCEEDED
    (process,) = engines()
    assert "warm" in process.cmdline()
    worker.kill()
    wait_for(lambda: not engines(), within_s=5, what="the process dies with its worker")


@PREWARM
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_has_a_process_from_its_start_and_takes_it_along(
    how: signal.Signals, start: Any, wait_for: Any, engines: Any
) -> None:
    worker = start("celery", "train")
    wait_for(engines, within_s=60, what="a process waits before there is a job")
    worker.send_signal(how)
    assert worker.wait(timeout=20) == (0 if how is signal.SIGTERM else -signal.SIGKILL)
    wait_for(lambda: not engines(), within_s=5, what="it goes with its worker")


def test_what_was_measured_is_frozen_into_every_job(department: Any, fake: Any, started: Any) -> None:
    jobs = [department.submit_queued() for _ in range(2)]
    worker = department.worker(fake())
    assert [worker.run_next(), worker.run_next()] == [True, True]
    # As the pretended engine reports.
    assert [department.versions(job)[0].report["token_budget"] for job in jobs] == [384] * 2
    assert started() == ["calibrate", "train", "train"]


def test_a_job_runs_though_nothing_could_be_measured(department: Any, fake: Any) -> None:
    job = department.submit_queued()
    assert department.worker(fake("abort_measuring")).run_next()
    assert (state_of(department, job), department.job(job).epoch) == (JobState.SUCCEEDED, 1)
    assert department.versions(job)[0].report["token_budget"] == 1024
