"""Small jobs of one department that one process trains together: each ends as it would alone."""

from typing import Any
from uuid import UUID

import pytest
import torch
from safetensors.torch import load

from domain.jobs import JobState
from models_db.jobs import Job
from services import claims
from workers.sweeper import sweep

SMALL = {"batch_jobs": 3, "batch_max_tokens": 10_000}


def state_of(department: Any, job: UUID) -> JobState:
    return JobState(department.job(job).state)


def worker_of(department: Any, launcher: Any = None, **settings: Any) -> Any:
    """A worker that takes several small jobs at once."""
    return department.worker(launcher, **(SMALL | settings))


def swept_back(department: Any, jobs: list[UUID]) -> bool:
    sweep(department.runtime)
    return all(state_of(department, job) == JobState.QUEUED for job in jobs)


def claims_at_once(department: Any) -> list[int]:
    """How many jobs each claim took, in the order of the claims."""
    return [record.details["batch_jobs"] for record in department.audited("job.claimed")]


def test_small_jobs_of_a_department_train_in_one_process(department: Any, fake: Any) -> None:
    jobs = [department.submit_small(steps=steps) for steps in (4, 6, 8, 4)]
    worker = worker_of(department, fake())
    assert [worker.run_next() for _ in range(3)] == [True, True, False]
    assert [state_of(department, job) for job in jobs] == [JobState.SUCCEEDED] * 4
    # 1 + 2 + ... of each its own steps: none was mixed up with another.
    assert [department.adapter_file(job, "state.json") for job in jobs] == [b"10", b"21", b"36", b"10"]
    assert claims_at_once(department) == [3, 3, 3, 1]
    assert len({record.refs[0] for record in department.audited("job.claimed")}) == 4


def test_jobs_that_are_not_small_train_alone(department: Any, fake: Any) -> None:
    for _ in range(2):
        department.submit_small(steps=4)
    worker = worker_of(department, fake(), batch_max_tokens=1)
    assert [worker.run_next() for _ in range(3)] == [True, True, False]
    assert claims_at_once(department) == [1, 1]


def test_one_that_somebody_steers_while_others_are_claimed_is_not_counted_among_them(department: Any) -> None:
    steered, *others = (department.submit_small() for _ in range(3))
    batching = claims.Batching(max_jobs=3, max_tokens=10_000)
    with department.runtime.department(department.id) as session:
        session.get_one(Job, steered, with_for_update=True)
        with department.runtime.platform() as claiming:
            held = claims.claim_next(claiming, worker="w", lease_s=60, half_life_s=3600, batching=batching)
    assert [each.job for each in held] == others
    assert claims_at_once(department) == [2, 2]


def test_the_missing_rows_of_one_end_it_alone(department: Any, fake: Any) -> None:
    first, broken, last = (department.submit_small() for _ in range(3))
    department.erase_rows(broken)
    assert worker_of(department, fake()).run_next()
    assert [state_of(department, job) for job in (first, broken, last)] == [
        JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED
    ]  # fmt: skip
    assert department.job(broken).error["code"] == "artifact_missing"


@pytest.mark.parametrize(("steer", "ended"), [("cancel", JobState.CANCELLED), ("pause", JobState.PAUSED)])
def test_one_that_is_steered_leaves_the_others_running(
    department: Any, start: Any, wait_for: Any, *, steer: str, ended: JobState
) -> None:
    first, steered = department.submit_small(steps=60), department.submit_small(steps=60)
    worker = start("slow", "together")
    wait_for(lambda: (department.job(steered).progress or {}).get("step"), within_s=30, what="both train")
    getattr(department, steer)(steered)
    wait_for(lambda: worker.poll() is not None, within_s=60, what="the worker finds no more work")
    assert [state_of(department, job) for job in (first, steered)] == [JobState.SUCCEEDED, ended]
    assert department.adapter_file(first, "state.json") == b"1830"
    assert department.job(first).epoch == 1


def test_after_a_crash_together_each_is_tried_alone(department: Any, fake: Any) -> None:
    jobs = [department.submit_small() for _ in range(3)]
    worker = worker_of(department, fake("abort_together"))
    assert [worker.run_next() for _ in range(5)] == [True] * 4 + [False]
    assert [state_of(department, job) for job in jobs] == [JobState.SUCCEEDED] * 3
    assert claims_at_once(department) == [3, 3, 3, 1, 1, 1]


def test_a_worker_that_dies_loses_none_of_them(department: Any, start: Any, wait_for: Any, fake: Any) -> None:
    jobs = [department.submit_small(steps=30, checkpoint_every=5) for _ in range(3)]
    worker = start("slow", "together")
    wait_for(lambda: all(department.checkpoints(job) for job in jobs), within_s=60, what="all have a checkpoint")
    worker.kill()
    wait_for(lambda: swept_back(department, jobs), within_s=10, what="the sweeper takes them back")
    # Each goes on from its own checkpoint, alone.
    other = worker_of(department, fake())
    assert [other.run_next() for _ in range(4)] == [True, True, True, False]
    assert [department.adapter_file(job, "state.json") for job in jobs] == [b"465"] * 3
    assert all(len(department.versions(job)) == 1 for job in jobs)


def test_adapters_trained_together_are_those_trained_alone(department: Any) -> None:
    rows = [department.upload(department.rows(12, salt=salt)) for salt in (91, 92)]
    pairs = [
        [department.submit_small(steps=8, training_file=file, suffix=suffix) for file in rows]
        for suffix in ("together", "alone")
    ]
    assert worker_of(department, batch_jobs=2).run_next()
    worker = department.worker()
    assert [worker.run_next() for _ in range(3)] == [True, True, False]
    assert claims_at_once(department) == [2, 2, 1, 1]
    for together, alone in zip(*pairs, strict=True):
        weights = [load(department.adapter_file(job, "adapter_model.safetensors")) for job in (together, alone)]
        for name in weights[0]:
            # fp32: sums in another order, over eight steps of AdamW.
            torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-5)
