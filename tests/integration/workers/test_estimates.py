"""Estimates whose rows the real engine counts, and what jobs and estimates learn from each other."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.estimates import EstimateState, Unknown
from domain.job_requests import JobRequest
from domain.jobs import JobState
from domain.limits import LimitChange
from services import claims, estimates, limits
from services.estimates import Answer, EstimateLimits
from storage.errors import StorageUnavailable
from tests.integration.workers.conftest import LIMITS
from tests.integration.workers.registry import Registry
from workers.sweeper import sweep
from workers.validation import count, validate

ESTIMATES = EstimateLimits(
    job=LIMITS, max_training_tokens=10**9, max_pending=4, kept_s=60, half_life_s=3600, lease_s=60
)  # fmt: skip


def ask(department: Any, file: str, **lora: Any) -> Answer:
    body = {"model": "tiny", "training_file": file, "lora": {"max_seq_len": 128, **lora}}
    with department.runtime.department(department.id) as session:
        return estimates.ask(session, department.principal, JobRequest.model_validate(body), limits=ESTIMATES)


def look(department: Any, estimate: UUID | None) -> Answer:
    assert estimate
    with department.runtime.department(department.id) as session:
        return estimates.get(session, department.principal, estimate, limits=ESTIMATES)


def test_a_job_has_no_need_to_count_what_its_estimate_had_counted(department: Any, fake: Any) -> None:
    file = department.upload(department.rows(16))
    asked = ask(department, file)
    assert asked.state is EstimateState.PENDING
    assert asked.id
    count(department.runtime, asked.id)
    found = look(department, asked.id)
    assert (found.state, found.allowed) == (EstimateState.READY, True)
    job = department.submit(training_file=file)
    # The engine would die of it.
    validate(department.runtime, job, fake("abort"))
    kept = department.job(job)
    assert kept.state == JobState.QUEUED
    (counted,) = kept.inspection["files"]
    assert found.estimate
    # 16 rows in batches of 8, three times.
    assert (found.estimate.steps, found.estimate.trained_tokens) == (6, 3 * counted["tokens"])
    assert found.estimate.supervised_tokens == 3 * counted["supervised_tokens"]
    # The job took 4 steps of 2 rows: half an epoch.
    assert kept.estimate["trained_tokens"] == round(counted["tokens"] / 2)


def test_an_estimate_has_no_need_to_count_what_a_job_had_counted(department: Any) -> None:
    file = department.upload(department.rows(16))
    validate(department.runtime, department.submit(training_file=file))
    found = ask(department, file, rank=4)
    assert (found.id, found.state, found.allowed) == (None, EstimateState.READY, True)
    # Other lengths ask for another count.
    assert ask(department, file, max_seq_len=64).state is EstimateState.PENDING


def test_a_row_that_is_too_long_is_told_by_its_line(department: Any) -> None:
    rows = department.rows(3)
    rows[1]["messages"][0]["content"] = "long " * 400
    asked = ask(department, department.upload(rows))
    assert asked.id
    count(department.runtime, asked.id)
    found = look(department, asked.id)
    assert (found.state, found.allowed) == (EstimateState.READY, False)
    assert [(reason.code, reason.param) for reason in found.reasons] == [("row_too_long", "training_file:2")]


def test_rows_that_cannot_be_counted_end_the_estimate(department: Any, fake: Any) -> None:
    asked = ask(department, department.upload(department.rows(4)))
    assert asked.id
    count(department.runtime, asked.id, fake("abort"))
    found = look(department, asked.id)
    assert (found.state, found.allowed) == (EstimateState.FAILED, False)
    assert [reason.code for reason in found.reasons] == ["inspection_failed"]
    # What was not counted is no reason to refuse the next one.
    assert ask(department, department.upload(department.rows(4))).state is EstimateState.PENDING


def test_an_estimate_waits_while_storage_is_away_and_is_rung_for_again(
    department: Any, fake: Any, wait_for: Any
) -> None:
    asked = ask(department, department.upload(department.rows(5)))
    assert asked.id
    assert department.queue_length("validate") == 1
    runtime = department.runtime
    with pytest.raises(StorageUnavailable):
        count(replace(runtime, objects=Away()), asked.id)
    department.flush_broker()
    eager = replace(runtime, settings=runtime.settings.model_copy(update={"nudge_after_s": 0}))

    def rung() -> bool:
        sweep(eager)
        return bool(department.queue_length("validate") == 1)

    wait_for(rung, within_s=5, what="the estimate is rung for again")
    count(runtime, asked.id, fake())
    assert look(department, asked.id).state is EstimateState.READY
    # A second delivery finds nothing to do, and nor does a message about no estimate.
    count(runtime, asked.id, fake("abort"))
    assert look(department, asked.id).state is EstimateState.READY
    count(runtime, uuid4())


def test_the_validate_worker_hears_of_it_through_the_queue(department: Any, start: Any, wait_for: Any) -> None:
    asked = ask(department, department.upload(department.rows(6)))
    start("celery", "validate")
    wait_for(lambda: look(department, asked.id).state is EstimateState.READY, within_s=60, what="the rows are counted")


class Away:
    def fetch(self, *_: object) -> None:
        raise StorageUnavailable("away")


def test_the_second_job_is_foretold_by_what_the_first_measured(department: Any) -> None:
    file, other = (department.upload(department.rows(16, salt=salt)) for salt in (1, 2))
    first = department.submit(training_file=file, steps=6)
    validate(department.runtime, first)
    assert department.job(first).estimate["seconds"] is None
    assert department.worker().run_next()
    came = department.job(first)
    assert came.state == JobState.SUCCEEDED
    # Whatever is exact, is so: rows of an equal length in equal batches, and the adapter's file.
    for figure in ("trained_tokens", "adapter_bytes"):
        assert came.estimate[figure] == pytest.approx(came.actual[figure], rel=0.02), figure
    assert came.estimate["adapter_bytes"] == came.actual["adapter_bytes"]
    assert came.actual["seconds"] > came.actual["overhead_s"] > 0
    second = department.submit(training_file=other, steps=6)
    validate(department.runtime, second)
    thought = department.job(second).estimate
    assert (thought["device"], thought["ranks"], thought["measured_runs"]) == ("cpu", 1, 1)
    trained_s = thought["trained_tokens"] / came.actual["tokens_per_s"]
    assert thought["seconds"] == pytest.approx(came.actual["overhead_s"] + trained_s)
    assert thought["peak_memory_bytes"] == came.actual["peak_memory_bytes"]
    # The second waits now: whoever comes after it is told how long, once there is a worker that takes jobs.
    alone = ask(department, file).estimate
    assert alone
    assert (alone.queue_position, alone.expected_start) == (2, None)
    assert Unknown.NO_WORKER in {gap.code for gap in alone.gaps}
    Registry(department.runtime).register()
    found = ask(department, file).estimate
    assert found
    assert found.queue_position == 2
    assert found.expected_start
    assert (found.expected_start - found.made_at).total_seconds() == pytest.approx(thought["seconds"])
    # Slower methods say that only others were measured.
    dora = ask(department, file, use_dora=True).estimate
    assert dora
    assert Unknown.OTHER_METHOD in {gap.code for gap in dora.gaps}


def test_speeds_of_jobs_that_shared_a_process_are_the_second_choice(department: Any, fake: Any) -> None:
    batch = [department.submit_small(steps=4) for _ in range(2)]
    assert department.worker(fake(), batch_jobs=2, batch_max_tokens=10_000).run_next()
    assert [department.job(job).actual["alone"] for job in batch] == [False, False]
    file = department.upload(department.rows(16))
    beside = ask(department, file).estimate
    assert beside
    assert beside.measured_runs == 2
    assert Unknown.BESIDE_OTHERS in {gap.code for gap in beside.gaps}
    department.submit_small(steps=4)
    assert department.worker(fake()).run_next()
    alone = ask(department, file).estimate
    assert alone
    assert alone.measured_runs == 1
    assert Unknown.BESIDE_OTHERS not in {gap.code for gap in alone.gaps}


def test_a_department_that_runs_as_many_as_it_may_is_told_so(department: Any) -> None:
    Registry(department.runtime).register()
    file = department.upload(department.rows(16))
    running = department.submit_queued()
    with department.runtime.department(department.id) as session:
        assert claims.claim(session, running, worker="w", lease_s=60)
    busy = ask(department, file).estimate
    assert busy
    # Nobody knows yet how long the one that runs will take.
    assert {gap.code for gap in busy.gaps if gap.figure == "expected_start"} == {Unknown.QUEUE_UNKNOWN}
    change = LimitChange.model_validate({"max_running_jobs": 1})
    with department.runtime.department(department.id) as session:
        limits.change(session, department.principal, department.id, change)
    held_back = ask(department, file).estimate
    assert held_back
    assert {gap.code for gap in held_back.gaps if gap.figure == "expected_start"} == {Unknown.DEPARTMENT_LIMIT}
