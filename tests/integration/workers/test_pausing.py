"""Jobs that are held and let go on: the device is free meanwhile, and nothing is lost by it."""

from typing import Any
from uuid import UUID

import pytest

from domain.jobs import JobState
from domain.plans import InspectReport
from domain.refusals import AlreadyFinished, Conflict
from services import claims, leases, validation
from workers.sweeper import sweep

LEASE_S = 3
PAUSED = ["job.pause_requested", "job.paused"]


def state_of(department: Any, job: UUID) -> JobState:
    return JobState(department.job(job).state)


def told(department: Any, *actions: str) -> list[str]:
    records = [record for action in actions for record in department.audited(action)]
    return [record.action for record in sorted(records, key=lambda record: record.number)]


def test_a_paused_job_goes_on_to_the_same_weights(department: Any, start: Any, wait_for: Any, engines: Any) -> None:
    rows = department.upload(department.rows(16))
    through, paused = (
        department.submit_queued(steps=800, checkpoint_every=100, training_file=rows, suffix=suffix)
        for suffix in ("through", "paused")
    )
    worker = start()
    wait_for(lambda: state_of(department, through) == JobState.SUCCEEDED, within_s=90, what="the one runs through")
    wait_for(lambda: (department.job(paused).progress or {}).get("loss"), within_s=60, what="the other trains")

    department.pause(paused)

    wait_for(lambda: state_of(department, paused) == JobState.PAUSED, within_s=20, what="the other is paused")
    assert not engines()
    (checkpoint,) = department.checkpoints(paused)[-1:]
    assert 0 < checkpoint.step < 800
    wait_for(lambda: worker.poll() is not None, within_s=20, what="its worker finds no more work")
    department.resume(paused)
    assert department.worker().run_next()
    assert state_of(department, paused) == JobState.SUCCEEDED
    assert department.job(paused).stalls <= 1
    resumed = [claim.details["resume_step"] for claim in department.audited("job.claimed")]
    assert resumed == [None, None, checkpoint.step]
    weights = [department.adapter_file(job, "adapter_model.safetensors") for job in (through, paused)]
    assert weights[0] == weights[1]
    assert told(department, *PAUSED, "job.resumed") == [*PAUSED, "job.resumed"]


def test_a_queued_job_is_paused_at_once_and_claimed_by_nobody(department: Any, fake: Any) -> None:
    job = department.submit_queued()
    department.pause(job)
    department.pause(job)
    assert state_of(department, job) == JobState.PAUSED
    assert not department.worker(fake()).run_next()
    assert told(department, *PAUSED) == PAUSED

    department.resume(job)
    department.resume(job)
    assert department.worker(fake()).run_next()
    assert state_of(department, job) == JobState.SUCCEEDED
    assert len(department.audited("job.resumed")) == 1


def test_a_job_whose_files_are_looked_at_pauses_when_that_is_done(department: Any) -> None:
    job = department.submit()
    department.pause(job)
    assert state_of(department, job) == JobState.VALIDATING_FILES
    with department.runtime.department(department.id) as session:
        validation.accept(session, job, InspectReport(files=(), problems=()))
    assert state_of(department, job) == JobState.PAUSED


@pytest.mark.parametrize("give_up", ["release", "retry_or_fail", "expire"])
def test_a_job_to_pause_is_not_queued_again_however_its_worker_ends(
    department: Any, wait_for: Any, *, give_up: str
) -> None:
    job = department.submit_queued()
    with department.runtime.department(department.id) as session:
        held = claims.claim(session, job, worker="w", lease_s=0.2 if give_up == "expire" else 60)
    department.pause(job)
    assert state_of(department, job) == JobState.RUNNING
    with department.runtime.department(department.id) as session:
        if give_up == "release":
            leases.release(session, held)
        elif give_up == "retry_or_fail":
            leases.retry_or_fail(session, held, leases.JobError("worker_crash", "It crashed."))
    if give_up == "expire":
        wait_for(
            lambda: sweep(department.runtime) or state_of(department, job) != JobState.RUNNING,
            within_s=LEASE_S + 5,
            what="the sweeper takes the job back",
        )
    assert state_of(department, job) == JobState.PAUSED
    assert told(department, *PAUSED) == PAUSED


def test_a_pause_that_is_taken_back_leaves_the_job_in_the_queue(department: Any, fake: Any) -> None:
    job = department.submit_queued()
    with department.runtime.department(department.id) as session:
        held = claims.claim(session, job, worker="w", lease_s=60)
    department.pause(job)
    with department.runtime.department(department.id) as session:
        assert leases.renew(session, held, lease_s=60).to_give_back
    department.resume(job)
    with department.runtime.department(department.id) as session:
        assert not leases.renew(session, held, lease_s=60).to_give_back
        leases.release(session, held)
    assert state_of(department, job) == JobState.QUEUED
    assert department.worker(fake()).run_next()
    assert department.audited("job.paused") == []


def test_cancelling_wins_over_pausing(department: Any) -> None:
    running, paused = department.submit_queued(), department.submit_queued()
    with department.runtime.department(department.id) as session:
        held = claims.claim(session, running, worker="w", lease_s=60)
    department.cancel(running)
    with pytest.raises(Conflict, match="being cancelled"):
        department.pause(running)
    with department.runtime.department(department.id) as session:
        leases.release(session, held)
    department.pause(paused)
    department.cancel(paused)
    assert [state_of(department, job) for job in (running, paused)] == [JobState.CANCELLED, JobState.CANCELLED]
    for steer in (department.pause, department.resume):
        with pytest.raises(AlreadyFinished):
            steer(paused)
