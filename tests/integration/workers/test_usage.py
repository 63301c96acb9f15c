"""What a lease took, recorded where it ends. Times are set by hand, so that the numbers can be, too."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from domain.digests import Manifest
from domain.jobs import MAX_STALLS, JobState
from domain.refusals import LeaseLost
from domain.usage import Rate
from models_db.usage import UsageRecord
from services import claims, leases
from services.claims import Claim
from services.leases import JobError
from tests.integration.workers.registry import FACTS
from workers.presence import Presence

RATE = Rate(ranks=2, device="a card", price_per_gpu_hour=Decimal("7.2"))
BROKEN = JobError("worker_crash", "It crashed.")


def claim(department: Any, job: UUID, rate: Rate = RATE) -> Claim:
    with department.runtime.department(department.id) as session:
        held = claims.claim(session, job, worker="w", lease_s=60, rate=rate)
        assert held
        return held


def records(department: Any) -> list[UsageRecord]:
    with department.runtime.department(department.id) as session:
        return list(session.scalars(select(UsageRecord).order_by(UsageRecord.id)))


def tell(department: Any, held: Claim, **progress: float) -> None:
    with department.runtime.department(department.id) as session:
        leases.record_progress(session, held, progress, [])


def leave_checkpoint(department: Any, held: Claim, *, step: int, tokens: int) -> None:
    with department.runtime.department(department.id) as session:
        leases.record_checkpoint(
            session, held, step=step, manifest=Manifest(files=()), metrics={"step": step, "trained_tokens": tokens}
        )


def release(department: Any, held: Claim) -> None:
    with department.runtime.department(department.id) as session:
        leases.release(session, held)


def lose(department: Any, held: Claim, *, lasted_s: int) -> None:
    """The worker fell silent: its lease, of this length, ran out an hour ago, and only now the sweeper looks."""
    with department.runtime.department(department.id) as session:
        session.execute(
            text("""
                UPDATE leases SET expires_at = now() - interval '1 h',
                    acquired_at = now() - interval '1 h' - make_interval(secs => :lasted) WHERE id = :lease
            """),
            {"lasted": lasted_s, "lease": held.lease},
        )
    with department.runtime.department(department.id) as session:
        leases.expire(session, held.job)


def test_a_lost_lease_is_charged_to_its_end_and_no_further(department: Any) -> None:
    job = department.submit_queued()
    held = claim(department, job)
    tell(department, held, trained_tokens=300, tokens_per_s=12.5, memory_bytes=2**30)
    lose(department, held, lasted_s=90)

    (record,) = records(department)
    assert (record.job_id, record.lease_id, record.epoch, record.end_reason) == (job, held.lease, 1, "expired")
    assert record.ended_at - record.started_at == timedelta(seconds=90)
    # 90 s of 2 ranks, at 7.20 an hour.
    assert (record.ranks, record.gpu_seconds, record.amount) == (2, Decimal(180), Decimal("0.36"))
    assert (record.trained_tokens, record.tokens_per_s, record.peak_memory_bytes) == (300, 12.5, 2**30)
    assert (record.worker, record.device, record.price_per_gpu_hour) == ("w", "a card", Decimal("7.2"))
    submitted = department.job(job)
    assert (record.submitted_by, record.base_model_id) == (submitted.submitted_by, submitted.base_model_id)


@pytest.mark.parametrize(
    ("reason", "finish", "asked"),
    [
        ("released", leases.release, None),
        ("failed", lambda session, held: leases.fail(session, held, BROKEN), None),
        ("failed", lambda session, held: leases.retry_or_fail(session, held, BROKEN), None),
        ("cancelled", leases.cancel, "cancel"),
        ("cancelled", leases.release, "cancel"),
        ("released", leases.release, "pause"),
    ],
)
def test_every_end_of_a_lease_is_recorded_once(
    department: Any, *, reason: str, finish: Callable[[Session, Claim], None], asked: str | None
) -> None:
    held = claim(department, department.submit_queued())
    if asked:
        getattr(department, asked)(held.job)
    with department.runtime.department(department.id) as session:
        finish(session, held)
    with pytest.raises(LeaseLost), department.runtime.department(department.id) as session:
        finish(session, held)

    (record,) = records(department)
    assert record.end_reason == reason
    # Exactly what the database's clock says: 2 ranks, 7.20 / 3600 a second.
    held_s = Decimal((record.ended_at - record.started_at) // timedelta(microseconds=1)) / 1_000_000
    assert record.gpu_seconds == 2 * held_s > 0
    assert record.amount == (2 * held_s * Decimal("0.002")).quantize(Decimal("0.000001"))


def test_sweepers_that_find_a_lost_lease_at_once_record_it_once(department: Any) -> None:
    held = [claim(department, department.submit_queued()) for _ in range(5)]
    with department.runtime.department(department.id) as session:
        session.execute(text("UPDATE leases SET expires_at = now()"))

    def expire(lost: Claim) -> None:
        with department.runtime.department(department.id) as session:
            leases.expire(session, lost.job)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(expire, held * 4))
    assert sorted(record.lease_id for record in records(department)) == sorted(each.lease for each in held)


def test_a_clock_that_is_set_back_does_not_keep_a_lease_from_ending(department: Any) -> None:
    held = claim(department, department.submit_queued())
    with department.runtime.department(department.id) as session:
        session.execute(text("UPDATE leases SET acquired_at = now() + interval '30 s'"))
    release(department, held)
    (record,) = records(department)
    assert (record.gpu_seconds, record.amount) == (0, 0)


def test_an_end_that_is_rolled_back_is_not_recorded(department: Any) -> None:
    held = claim(department, department.submit_queued())
    with pytest.raises(ZeroDivisionError), department.runtime.department(department.id) as session:
        _release_and_break(session, held)
    assert records(department) == []
    release(department, held)
    assert len(records(department)) == 1


def _release_and_break(session: Session, held: Claim) -> None:
    leases.release(session, held)
    _ = 1 / 0


def test_tokens_are_those_of_each_lease_alone(department: Any) -> None:
    job = department.submit_queued()
    first = claim(department, job)
    leave_checkpoint(department, first, step=2, tokens=200)
    tell(department, first, trained_tokens=300)
    release(department, first)
    # From the checkpoint of 200 to 450, of which the 100 after the checkpoint are trained a second time.
    second = claim(department, job)
    tell(department, second, trained_tokens=450)
    release(department, second)
    # It came to nothing, and what the second had told is none of its own.
    lose(department, claim(department, job), lasted_s=10)

    assert [record.trained_tokens for record in records(department)] == [300, 250, 0]


def test_a_run_that_begins_anew_is_charged_for_all_it_trains(department: Any) -> None:
    job = department.submit_queued()
    first = claim(department, job)
    leave_checkpoint(department, first, step=2, tokens=200)
    release(department, first)
    second = claim(department, job)
    assert second.resume
    with department.runtime.department(department.id) as session:
        assert leases.reject_checkpoint(session, second, second.resume) is None
    tell(department, second, trained_tokens=150)
    release(department, second)

    assert [record.trained_tokens for record in records(department)] == [0, 150]


def test_a_resumed_run_is_charged_for_the_ranks_it_began_with(department: Any) -> None:
    job = department.submit_queued()
    first = claim(department, job)
    leave_checkpoint(department, first, step=2, tokens=200)
    lose(department, first, lasted_s=10)
    lose(department, claim(department, job, Rate(ranks=8)), lasted_s=10)
    assert [record.gpu_seconds for record in records(department)] == [20, 20]


def test_jobs_of_a_batch_share_what_its_ranks_took(department: Any) -> None:
    rate = Rate(ranks=2, shared_by=3, price_per_gpu_hour=Decimal(36))
    for held in [claim(department, department.submit_queued(), rate) for _ in range(3)]:
        lose(department, held, lasted_s=10)
    # 20 GPU-seconds in three parts, each to the microsecond.
    assert [record.gpu_seconds for record in records(department)] == [Decimal("6.666667")] * 3
    assert [record.amount for record in records(department)] == [Decimal("0.066667")] * 3


def test_a_price_that_changes_counts_from_the_next_lease_on(department: Any) -> None:
    job = department.submit_queued()
    lose(department, claim(department, job, Rate(price_per_gpu_hour=Decimal(36))), lasted_s=10)
    lose(department, claim(department, job, Rate(price_per_gpu_hour=Decimal(72))), lasted_s=10)
    assert [record.amount for record in records(department)] == [Decimal("0.1"), Decimal("0.2")]


@pytest.mark.parametrize("settings", [{"price_per_gpu_hour": Decimal(9)}], indirect=True)
def test_a_worker_records_a_job_that_finishes_and_one_that_never_does(department: Any, fake: Any) -> None:
    finished, poison = department.submit_queued(steps=4), department.submit_queued()
    assert department.worker(fake()).run_next()
    worker = department.worker(fake("abort"))
    while worker.run_next():
        pass

    assert (department.job(finished).state, department.job(poison).state) == (JobState.SUCCEEDED, JobState.FAILED)
    told = {record.job_id: record for record in records(department)}
    (version,) = department.versions(finished)
    assert told[finished].trained_tokens == version.report["trained_tokens"] == department.job(finished).trained_tokens
    assert told[finished].peak_memory_bytes == version.report["peak_memory_bytes"]
    assert (told[finished].end_reason, told[finished].device) == ("finished", "cpu")
    assert [record.end_reason for record in records(department)] == ["finished"] + ["failed"] * MAX_STALLS
    assert {record.price_per_gpu_hour for record in records(department)} == {9}


@pytest.mark.parametrize(("name", "recorded"), [("NVIDIA H100", "NVIDIA H100"), (None, "cpu")])
def test_a_registered_workers_device_is_recorded_by_name(
    department: Any, fake: Any, *, name: str | None, recorded: str
) -> None:
    department.submit_queued()
    worker = department.worker(fake("abort"))
    facts = FACTS.model_copy(update={"device_name": name})
    worker.presence = Presence(department.runtime, facts, measured=lambda: None, end=lambda: None)
    assert worker.run_next()
    assert [record.device for record in records(department)] == [recorded]
