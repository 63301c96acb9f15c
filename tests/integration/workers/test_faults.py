"""Workers that are killed, stopped or cut short, and what is left of their jobs."""

import os
import signal
from collections.abc import Iterator
from itertools import count, repeat
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from domain.digests import Manifest
from domain.jobs import JobState
from services import claims, leases
from storage.errors import StorageUnavailable
from workers.sweeper import sweep

LEASE_S = 3


def state_of(department: Any, job: UUID) -> JobState:
    return JobState(department.job(job).state)


def swept_back(department: Any, job: UUID) -> bool:
    sweep(department.runtime)
    return state_of(department, job) == JobState.QUEUED


def test_a_killed_workers_job_goes_on_from_its_checkpoint(
    department: Any, start: Any, wait_for: Any, engines: Any
) -> None:
    job = department.submit_queued(steps=300, checkpoint_every=20)
    worker = start()
    wait_for(lambda: department.checkpoints(job), within_s=60, what="a checkpoint")

    worker.kill()
    wait_for(lambda: not engines(), within_s=5, what="ranks die with their worker")
    wait_for(lambda: swept_back(department, job), within_s=LEASE_S + 5, what="the sweeper takes the job back")
    reached = max(checkpoint.step for checkpoint in department.checkpoints(job))
    # This one would compute otherwise, with which the checkpoint does not agree: it takes over how the run began.
    assert department.worker(token_budget=64).run_next()

    assert state_of(department, job) == JobState.SUCCEEDED
    assert department.audited("checkpoint.rejected") == []
    (version,) = department.versions(job)
    assert version.report["steps"] == 300
    assert [claim.details["resume_step"] for claim in department.audited("job.claimed")] == [None, reached]
    assert len(department.audited("lease.lost")) == 1


@pytest.mark.parametrize("fenced", [True, False])
def test_a_worker_that_wakes_after_its_lease_writes_nothing(
    department: Any, start: Any, wait_for: Any, fake: Any, *, fenced: bool
) -> None:
    job = department.submit_queued(steps=12, checkpoint_every=4)
    asleep = start("slow", *(() if fenced else ("unfenced",)))
    wait_for(lambda: department.checkpoints(job), within_s=30, what="a checkpoint")
    asleep.send_signal(signal.SIGSTOP)
    wait_for(lambda: swept_back(department, job), within_s=LEASE_S + 5, what="the sweeper takes the job back")
    with department.runtime.department(department.id) as session:
        other = claims.claim(session, job, worker="other", lease_s=60)
    before = len(department.events(job)), len(department.checkpoints(job))

    asleep.send_signal(signal.SIGCONT)
    wait_for(lambda: asleep.poll() is not None, within_s=20, what="the woken worker finds no more work")

    after = len(department.events(job)), len(department.checkpoints(job))
    if not fenced:
        # The control: it is the fence that refuses, not luck.
        assert len(department.versions(job)) == 1
        assert after != before
        return
    assert after == before
    assert (department.job(job).epoch, state_of(department, job)) == (2, JobState.RUNNING)
    assert department.versions(job) == []
    with department.runtime.department(department.id) as session:
        leases.release(session, other)
    assert department.worker(fake()).run_next()
    assert len(department.versions(job)) == 1


def test_cancelling_a_running_job_ends_its_ranks(department: Any, start: Any, wait_for: Any, engines: Any) -> None:
    job = department.submit_queued(steps=5000, checkpoint_every=1000)
    start("slow")
    wait_for(lambda: (department.job(job).progress or {}).get("loss"), within_s=30, what="training has begun")
    assert engines()

    department.cancel(job)

    wait_for(lambda: state_of(department, job) == JobState.CANCELLED, within_s=10, what="the job is cancelled")
    assert not engines()
    assert department.versions(job) == []
    assert len(department.audited("job.cancelled")) == 1


def test_a_cancelled_job_whose_worker_dies_is_not_run_again(department: Any, start: Any, wait_for: Any) -> None:
    job = department.submit_queued(steps=500, checkpoint_every=100)
    worker = start("slow")
    wait_for(lambda: state_of(department, job) == JobState.RUNNING, within_s=20, what="the job runs")
    worker.kill()
    department.cancel(job)
    wait_for(
        lambda: swept_back(department, job) or state_of(department, job) == JobState.CANCELLED,
        within_s=LEASE_S + 5,
        what="the sweeper closes the job",
    )
    assert state_of(department, job) == JobState.CANCELLED


def test_a_job_that_kills_its_ranks_fails_after_three_attempts_and_others_run(department: Any, fake: Any) -> None:
    poison = department.submit_queued()
    worker = department.worker(fake("abort"))
    assert [worker.run_next() for _ in range(4)] == [True, True, True, False]
    good = department.submit_queued()
    assert department.worker(fake()).run_next()

    assert (state_of(department, poison), department.job(poison).error["code"]) == (JobState.FAILED, "worker_crash")
    assert "SIGABRT" in department.job(poison).error["message"]
    assert department.job(poison).epoch == 3
    assert state_of(department, good) == JobState.SUCCEEDED


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of 512 MiB; the test is skipped where none can be made."""
    mounted = Path("/sys/fs/cgroup")
    is_second = (mounted / "cgroup.controllers").exists()
    folder = (mounted if is_second else mounted / "memory") / f"tsugiki-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here ({error.strerror})")
    try:
        (folder / ("memory.max" if is_second else "memory.limit_in_bytes")).write_text(str(512 << 20))
    except OSError as error:
        folder.rmdir()
        pytest.skip(f"no control group counts memory here ({error.strerror})")
    yield folder
    folder.rmdir()


@pytest.mark.parametrize("is_limited", [True, False])
def test_ranks_that_the_kernel_kills_in_a_full_control_group_are_tried_again_once(
    *, department: Any, start: Any, small_group: Path, is_limited: bool
) -> None:
    job = department.submit_queued()
    # The control: outside the group the same engine has the memory that it wants.
    worker = start("hungry", *([f"group={small_group}"] if is_limited else []))
    assert worker.wait(120) == 0
    ended = department.job(job)
    if is_limited:
        assert (ended.state, ended.error["code"], ended.epoch) == (JobState.FAILED, "oom_killed", 2)
    else:
        assert (ended.state, ended.epoch) == (JobState.SUCCEEDED, 1)


@pytest.mark.parametrize("behaviour", ["kill", "lost_rank"])
@pytest.mark.parametrize("counted", [True, False])
def test_ranks_killed_for_the_machines_memory_are_tried_again_once(
    department: Any, fake: Any, monkeypatch: pytest.MonkeyPatch, *, counted: bool, behaviour: str
) -> None:
    # The kernel's count, as one finds it who looks before and after a process.
    kills = count() if counted else repeat(0)
    monkeypatch.setattr("workers.supervisor.oom_kills", lambda: next(kills))
    job = department.submit_queued()
    worker = department.worker(fake(behaviour))
    assert worker.run_next()
    assert state_of(department, job) == JobState.QUEUED
    assert worker.run_next()
    if not counted:
        # The control: whoever else killed it, it is tried as often as any other.
        assert (state_of(department, job), department.job(job).epoch) == (JobState.QUEUED, 2)
        return
    failed = department.job(job)
    assert (failed.state, failed.error["code"], failed.epoch) == (JobState.FAILED, "oom_killed", 2)
    assert "memory was used up" in failed.error["message"]
    lucky = department.submit_queued()
    assert worker.run_next()
    assert department.worker(fake()).run_next()
    assert (state_of(department, lucky), department.job(lucky).epoch) == (JobState.SUCCEEDED, 2)


def test_attempts_that_make_progress_are_not_counted(department: Any, fake: Any) -> None:
    job = department.submit_queued(steps=10, checkpoint_every=2)
    worker = department.worker(fake("abort_after_checkpoint"))
    # A checkpoint an attempt, at steps 2, 4, 6 and 8; the fifth has none left to die after.
    assert [worker.run_next() for _ in range(6)] == [True] * 5 + [False]
    assert state_of(department, job) == JobState.SUCCEEDED


@pytest.mark.parametrize("lost", [True, False], ids=["expire", "retry_or_fail"])
def test_twenty_attempts_that_end_badly_are_enough_and_what_is_given_back_is_none(
    department: Any, *, lost: bool
) -> None:
    job = department.submit_queued()
    manifest = Manifest(files=())

    def attempt(step: int, *, given_back: bool = False) -> None:
        with department.runtime.department(department.id) as session:
            held = claims.claim(session, job, worker="w", lease_s=60)
            assert held is not None
            leases.record_checkpoint(session, held, step=step, manifest=manifest, metrics={})
            if given_back:
                leases.release(session, held)
            elif lost:
                session.execute(text("UPDATE leases SET expires_at = now() WHERE id = :id"), {"id": held.lease})
            else:
                leases.retry_or_fail(session, held, leases.JobError("worker_crash", "It crashed."))
        if lost:
            with department.runtime.department(department.id) as session:
                leases.expire(session, job)

    for step in range(19):
        attempt(step)
        if step < 3:
            attempt(step, given_back=True)
    assert (state_of(department, job), department.job(job).stalls) == (JobState.QUEUED, 0)
    attempt(19)
    failed = department.job(job)
    assert (failed.state, failed.error["code"]) == (JobState.FAILED, "poison_job" if lost else "worker_crash")


def test_a_failure_that_would_repeat_itself_is_not_tried_again(department: Any, fake: Any) -> None:
    job = department.submit_queued()
    assert department.worker(fake("non_finite")).run_next()
    failed = department.job(job)
    assert (failed.state, failed.error["code"], failed.epoch) == (JobState.FAILED, "non_finite_loss", 1)
    assert failed.error["message"] == "The loss is no number. (step 1)"


def test_ranks_that_tell_nothing_are_killed(department: Any, fake: Any, engines: Any) -> None:
    job = department.submit_queued()
    worker = department.worker(fake("mute"), hang_after_s=0.5)
    assert worker.run_next()
    assert not engines()
    assert state_of(department, job) == JobState.QUEUED
    assert any("hung" in event.message for event in department.events(job))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(department: Any, fake: Any) -> None:
    job = department.submit_queued(steps=6, checkpoint_every=2)
    worker = department.worker(fake("abort_after_checkpoint"))
    assert worker.run_next()
    assert worker.run_next()
    first, second = department.checkpoints(job)
    assert (first.step, second.step) == (2, 4)
    department.erase_checkpoint_file(second, "state.json")

    assert department.worker(fake()).run_next()

    assert state_of(department, job) == JobState.SUCCEEDED
    (rejected,) = department.audited("checkpoint.rejected")
    assert rejected.details["step"] == 4
    # 1 + 2 + … + 6: the steps after the first checkpoint were all done again, and none twice.
    assert department.adapter_file(job, "state.json") == b"21"


def test_a_checkpoint_that_the_engine_refuses_is_used_no_more(department: Any, fake: Any) -> None:
    job = department.submit_queued(steps=6, checkpoint_every=2)
    for behaviour in ("abort_after_checkpoint", "bad_checkpoint", "slow"):
        assert department.worker(fake(behaviour)).run_next()
    assert state_of(department, job) == JobState.SUCCEEDED
    assert [claim.details["resume_step"] for claim in department.audited("job.claimed")] == [None, 2, None]


@pytest.mark.parametrize("former", [True, False])
def test_a_checkpoint_of_a_former_format_is_used_no_more(department: Any, fake: Any, *, former: bool) -> None:
    job = department.submit_queued(steps=6, checkpoint_every=2)
    assert department.worker(fake("abort_after_checkpoint", *(["former"] if former else []))).run_next()
    assert department.worker(fake()).run_next()

    # The same attempt begins anew: none is lost by it.
    assert (state_of(department, job), department.job(job).epoch) == (JobState.SUCCEEDED, 2)
    assert department.adapter_file(job, "state.json") == b"21"
    assert [record.details["step"] for record in department.audited("checkpoint.rejected")] == ([2] if former else [])
    assert any("checkpoint of step 2" in event.message for event in department.events(job)) == former


def test_a_store_that_fails_at_times_costs_no_attempt(department: Any, fake: Any) -> None:
    job = department.submit_queued(steps=6, checkpoint_every=2)
    store = FailsEverySecondTime(department.runtime.objects)
    assert department.worker(fake("slow"), objects=store).run_next()
    assert store.failures >= 3
    assert (state_of(department, job), department.job(job).epoch) == (JobState.SUCCEEDED, 1)
    assert department.adapter_file(job, "state.json") == b"21"


class FailsEverySecondTime:
    def __init__(self, objects: Any) -> None:
        self._objects, self._calls, self.failures = objects, 0, 0

    def __getattr__(self, verb: str) -> Any:
        def call(*arguments: object) -> object:
            self._calls += 1
            if self._calls % 2:
                self.failures += 1
                raise StorageUnavailable("away")
            return getattr(self._objects, verb)(*arguments)

        return call


def test_a_checkpoint_whose_commit_was_not_answered_is_entered_once(
    department: Any, fake: Any, monkeypatch: Any
) -> None:
    job = department.submit_queued(steps=20, checkpoint_every=10)
    lost = LosesFirstAnswer(leases.record_checkpoint, department)
    monkeypatch.setattr("workers.checkpoints.leases.record_checkpoint", lost)
    monkeypatch.setattr("workers.checkpoints.RETRY_AFTER_S", 0.0)
    assert department.worker(fake("slow")).run_next()
    assert lost.repeated
    assert (state_of(department, job), department.job(job).epoch) == (JobState.SUCCEEDED, 1)
    assert [checkpoint.step for checkpoint in department.checkpoints(job)] == [10]
    assert len(department.audited("job.checkpointed")) == 1


class LosesFirstAnswer:
    """Enters a checkpoint in a transaction of its own, and then says that the database is away: once."""

    def __init__(self, record: Any, department: Any) -> None:
        self._record, self._department, self._first = record, department, None
        self.repeated = False

    def __call__(self, session: Any, held: Any, **checkpoint: Any) -> Any:
        if self._first is None:
            self._first = checkpoint["step"]
            with self._department.runtime.department(held.department) as own:
                self._record(own, held, **checkpoint)
            raise OperationalError("COMMIT", None, ConnectionResetError())
        self.repeated |= checkpoint["step"] == self._first
        return self._record(session, held, **checkpoint)


def test_inputs_that_are_gone_fail_the_job(department: Any, fake: Any) -> None:
    job = department.submit_queued()
    department.erase_rows(job)
    assert department.worker(fake()).run_next()
    assert department.job(job).error["code"] == "artifact_missing"


@pytest.mark.parametrize("give_up", ["release", "retry_or_fail"])
def test_a_cancelled_job_does_not_go_back_to_the_queue(department: Any, *, give_up: str) -> None:
    job = department.submit_queued()
    with department.runtime.department(department.id) as session:
        held = claims.claim(session, job, worker="w", lease_s=60)
    department.cancel(job)
    assert state_of(department, job) == JobState.RUNNING
    with department.runtime.department(department.id) as session:
        if give_up == "release":
            leases.release(session, held)
        else:
            leases.retry_or_fail(session, held, leases.JobError("worker_crash", "It crashed."))
    assert state_of(department, job) == JobState.CANCELLED
    assert len(department.audited("job.cancelled")) == 1
