"""What breaks, and what the department sees of it: workers killed, stopped, asked to go; jobs that cannot succeed."""

import os
import signal
import threading
from typing import Any
from uuid import UUID

import pytest

from domain.jobs import MAX_STALLS, JobState
from storage.keys import Key
from workers.sweeper import sweep

LEASE_S = 3


def state_of(department: Any, job: UUID) -> JobState:
    return JobState(department.job(job).state)


def swept_back(department: Any, job: UUID) -> bool:
    sweep(department.runtime)
    return state_of(department, job) == JobState.QUEUED


def test_a_killed_workers_job_goes_on_from_its_checkpoint(department: Any, start: Any, tools: Any) -> None:
    job = department.submit_queued(steps=600, checkpoint_every=20)
    worker = start(tools.worker_process)
    tools.wait_for(lambda: department.checkpoints(job), within_s=60, what="a checkpoint")

    worker.kill()
    tools.wait_for(lambda: not tools.engines(), within_s=5, what="ranks die with their worker")
    tools.wait_for(lambda: swept_back(department, job), within_s=LEASE_S + 5, what="the sweeper takes the job back")
    reached = max(checkpoint.step for checkpoint in department.checkpoints(job))
    assert department.worker().run_next()

    assert state_of(department, job) == JobState.SUCCEEDED
    assert len(department.versions(job)) == 1
    claims = department.audited("job.claimed")
    assert [claim.details["resume_step"] for claim in claims] == [None, reached]
    assert len(department.audited("lease.lost")) == 1


@pytest.mark.parametrize("fenced", [True, False])
def test_a_worker_that_wakes_after_its_lease_writes_nothing(
    department: Any, start: Any, tools: Any, *, fenced: bool
) -> None:
    job = department.submit_queued(steps=12, checkpoint_every=4)
    asleep = start(tools.worker_process, "slow", *([] if fenced else ["unfenced"]))
    tools.wait_for(lambda: department.checkpoints(job), within_s=30, what="a checkpoint")
    asleep.send_signal(signal.SIGSTOP)
    tools.wait_for(lambda: swept_back(department, job), within_s=LEASE_S + 5, what="the sweeper takes the job back")
    other = department.worker(tools.fake("slow"))
    paused = threading.Event()
    other.stop.set() if paused.is_set() else None
    # The other worker holds the job, at its second epoch, when the first wakes.
    wake = threading.Timer(0.8, lambda: asleep.send_signal(signal.SIGCONT))
    wake.start()
    assert other.run_next()
    tools.wait_for(lambda: asleep.poll() is not None, within_s=15, what="the woken worker finds no more work")

    epochs = {checkpoint.epoch for checkpoint in department.checkpoints(job) if checkpoint.step > 4}
    assert (1 in epochs) is not fenced
