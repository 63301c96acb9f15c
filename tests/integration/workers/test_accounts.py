"""What the sweeper writes down of a department: what it stores, once a day; that its budget ends, once a month."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from domain.digests import Manifest, ManifestFile, digest_of
from domain.limits import LimitChange
from domain.usage import Rate
from models_db.departments import Department as DepartmentRow
from models_db.usage import StorageSample
from services import claims, leases, limits, usage
from services.claims import Claim
from workers.sweeper import sweep

# With two ranks a second costs 1.
ONE_A_SECOND = Rate(ranks=2, price_per_gpu_hour=Decimal(1800))


def in_department(department: Any) -> Any:
    return department.runtime.department(department.id)


def set_budget(department: Any, budget: str) -> None:
    with in_department(department) as session:
        limits.change(session, department.principal, department.id, LimitChange(monthly_budget=Decimal(budget)))


def claim(department: Any, *, held_s: int) -> Claim:
    """A job that has run for so long."""
    job = department.submit_queued()
    with in_department(department) as session:
        held = claims.claim(session, job, worker="w", lease_s=3600, rate=ONE_A_SECOND)
        assert held
        _set_back(session, held, held_s)
        return held


def _set_back(session: Session, held: Claim, seconds: int) -> None:
    statement = text("UPDATE leases SET acquired_at = now() - make_interval(secs => :seconds) WHERE id = :lease")
    session.execute(statement, {"seconds": seconds, "lease": held.lease})


def warnings(department: Any, held: Claim) -> list[str]:
    return [event.message for event in department.events(held.job) if event.level == "warn"]


def test_a_budget_is_warned_of_at_four_fifths_once(department: Any) -> None:
    held = claim(department, held_s=70)
    set_budget(department, "100")
    sweep(department.runtime)
    assert department.audited("budget.warned") == []

    with in_department(department) as session:
        _set_back(session, held, 81)
    sweep(department.runtime)
    sweep(department.runtime)

    (event,) = department.audited("budget.warned")
    assert (event.resource_type, event.resource_id, event.details["budget"]) == ("department", department.id, "100")
    assert 81 <= Decimal(event.details["amount"]) < 90
    (message,) = warnings(department, held)
    assert message.startswith("The department has spent 8")
    assert " usd of this month's budget of 100." in message


def test_what_has_ended_and_what_is_stored_count_with_what_runs(department: Any) -> None:
    set_budget(department, "100")
    with in_department(department) as session:
        leases.release(session, claim(department, held_s=40))
    with in_department(department) as session:
        session.add(
            StorageSample(
                department_id=department.id, day=session.scalar(text("SELECT (now() AT TIME ZONE 'UTC')::date")),
                file_bytes=1, version_bytes=0, checkpoint_bytes=0, price_per_gb_month=0, amount=20,
            )
        )  # fmt: skip
    sweep(department.runtime)
    assert department.audited("budget.warned") == []
    claim(department, held_s=21)
    sweep(department.runtime)
    assert len(department.audited("budget.warned")) == 1


def test_another_month_and_another_budget_are_warned_of_anew(department: Any) -> None:
    claim(department, held_s=90)
    set_budget(department, "100")
    sweep(department.runtime)
    with in_department(department) as session:
        month = usage.this_month(session)
        row = session.scalars(select(DepartmentRow)).one()
        row.budget_warned_at = month.began_at
    sweep(department.runtime)
    assert len(department.audited("budget.warned")) == 1
    with in_department(department) as session:
        row = session.scalars(select(DepartmentRow)).one()
        session.execute(text("UPDATE departments SET budget_warned_at = budget_warned_at - interval '1 us'"))
    sweep(department.runtime)
    assert len(department.audited("budget.warned")) == 2
    set_budget(department, "101")
    sweep(department.runtime)
    assert len(department.audited("budget.warned")) == 3


def test_sweeps_at_once_warn_and_sample_once(department: Any) -> None:
    held = claim(department, held_s=90)
    set_budget(department, "100")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _place: sweep(department.runtime), range(4)))
    assert len(department.audited("budget.warned")) == len(warnings(department, held)) == 1
    assert len(samples(department)) == 1


def samples(department: Any) -> list[StorageSample]:
    with in_department(department) as session:
        return list(session.scalars(select(StorageSample)))


@pytest.mark.parametrize("settings", [{"price_per_gb_month": Decimal(31_000_000)}], indirect=True)
def test_storage_is_sampled_once_a_day_and_priced_by_it(department: Any) -> None:
    held = claim(department, held_s=1)
    manifest = Manifest.of([ManifestFile(path="state.json", bytes=1000, digest=digest_of(b"state"))])
    with in_department(department) as session:
        leases.record_checkpoint(session, held, step=2, manifest=manifest, metrics={})
    sweep(department.runtime)
    # What comes later on the day counts tomorrow.
    department.upload(department.rows(3, salt=1234))
    sweep(department.runtime)

    (sample,) = samples(department)
    with in_department(department) as session:
        days_of_month = session.scalar(
            text("SELECT extract(day FROM date_trunc('month', now(), 'UTC') + interval '1 month - 1 day')::int")
        )
        file_bytes = session.scalar(text("SELECT sum(bytes) FROM files WHERE rows = 16"))
    assert (sample.file_bytes, sample.version_bytes, sample.checkpoint_bytes) == (file_bytes, 0, 1000)
    # 31,000,000 for 10^9 bytes is 0.031 for one.
    expected = (file_bytes + 1000) * Decimal("0.031") / days_of_month
    assert sample.amount == expected.quantize(Decimal("0.000001"))
    assert sample.price_per_gb_month == 31_000_000


def test_accounts_of_one_department_do_not_wait_for_anothers(department: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A department whose figures cannot be read is left for the next sweep; the sweep itself goes on to its end."""
    stored = usage.stored

    def failing(session: Session) -> Any:
        session.execute(text("SELECT 1 / 0"))
        return stored(session)

    set_budget(department, "100")
    claim(department, held_s=90)
    monkeypatch.setattr("services.usage.stored", failing)
    sweep(department.runtime)
    assert samples(department) == []
    assert len(department.audited("budget.warned")) == 1
    monkeypatch.undo()
    sweep(department.runtime)
    assert len(samples(department)) == 1
