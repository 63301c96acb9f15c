"""Two who want different ends of one job, many times over."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.digests import Manifest
from domain.jobs import JobState
from domain.plans import Device, PathChoice, Precision, RunReport
from domain.refusals import AlreadyFinished
from services import adapters, blobs, claims, leases
from services.attestations import Attested
from services.claims import Claim

RACES = 500


def test_a_job_is_cancelled_or_makes_a_version_and_never_both(department: Any) -> None:
    rng, ends = random.Random(1), Counter[JobState]()
    for _ in range(RACES):
        job = department.submit_queued()
        with department.runtime.department(department.id) as session:
            stored_since = blobs.clock(session)
            held = claims.claim(session, job, worker="w", lease_s=60)
        race(finish(department, held, stored_since), cancel(department, job), first_s=rng.uniform(-0.004, 0.004))
        if (state := JobState(department.job(job).state)) == JobState.RUNNING:
            # Asked for while nobody had finished it: its worker hears of it and gives the job up.
            with department.runtime.department(department.id) as session:
                leases.cancel(session, held)
            state = JobState(department.job(job).state)
        ends[state] += 1
        assert len(department.versions(job)) == (state == JobState.SUCCEEDED)
    assert ends.total() == RACES
    # It was a race: either won often.
    assert min(ends[JobState.SUCCEEDED], ends[JobState.CANCELLED]) > RACES / 20, ends
    numbers = sorted(record.details["number"] for record in department.audited("adapter.version.registered"))
    assert numbers == list(range(1, ends[JobState.SUCCEEDED] + 1))
    assert len(department.audited("job.cancelled")) == ends[JobState.CANCELLED]
    assert len(department.audited("job.succeeded")) == ends[JobState.SUCCEEDED]


def race(one: Callable[[], None], other: Callable[[], None], *, first_s: float) -> None:
    """Do both at once; `one` begins so much earlier, or later."""
    start, lead = threading.Barrier(2), threading.Event()

    def after(wait_s: float, act: Callable[[], None]) -> None:
        start.wait()
        lead.wait(max(0.0, wait_s))
        act()

    threads = [
        threading.Thread(target=after, args=(-first_s, one)), threading.Thread(target=after, args=(first_s, other)),
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def finish(department: Any, held: Claim, stored_since: datetime) -> Callable[[], None]:
    def act() -> None:
        with department.runtime.department(department.id) as session:
            adapters.register(
                session, held, organisation="acme", manifest=Manifest.of([]), report=report_of(held.job),
                attested=Attested(department.runtime.signing_key.public, ()), evaluation=None,
                stored_since=stored_since,
            )  # fmt: skip

    return act


def cancel(department: Any, job: UUID) -> Callable[[], None]:
    def act() -> None:
        with suppress(AlreadyFinished):
            department.cancel(job)

    return act


def report_of(job: UUID) -> RunReport:
    return RunReport(
        run=job.hex, steps=2, trained_tokens=1, supervised_tokens=1, train_s=1, tokens_per_s=1, final_train_loss=1,
        validation_loss=None, validation_token_accuracy=None, trainable_parameters=1, total_parameters=1,
        peak_memory_bytes=1, estimated_memory_bytes=1, precision=Precision.FP32, device=Device.CPU,
        path=PathChoice.FAST, token_budget=64, world_size=1, skipped_rows=0, versions={},
    )  # fmt: skip
