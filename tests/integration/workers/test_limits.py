"""Limits where jobs are claimed: how many run at a time, and that what was accepted is run."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

from domain.limits import LimitChange
from services import claims, leases, limits
from services.claims import Claim
from services.limits import LimitDefaults


def change(department: Any, **limit: Any) -> None:
    with department.runtime.department(department.id) as session:
        limits.change(session, department.principal, department.id, LimitChange(**limit))


def claim_next(department: Any) -> Claim | None:
    with department.runtime.platform() as session:
        held = claims.claim_next(session, worker="w", lease_s=60, half_life_s=3600)
    return held[0] if held else None


def release(department: Any, held: Claim) -> None:
    with department.runtime.department(department.id) as session:
        leases.release(session, held)


def test_no_more_jobs_run_than_the_limit_also_when_workers_ask_at_once(department: Any) -> None:
    for _ in range(6):
        department.submit_queued()
    change(department, max_running_jobs=2)
    with ThreadPoolExecutor(6) as threads:
        held = [claim for claim in threads.map(lambda _place: claim_next(department), range(6)) if claim]
    assert len(held) == 2
    assert claim_next(department) is None
    release(department, held[0])
    assert claim_next(department)
    assert claim_next(department) is None
    change(department, max_running_jobs=None)
    assert claim_next(department)


def test_a_job_that_was_accepted_runs_though_the_budget_is_spent(department: Any) -> None:
    department.submit_queued()
    change(department, monthly_budget=Decimal(0), max_gpu_hours=Decimal(0))
    with department.runtime.department(department.id) as session:
        against = list(limits.against_submit(session, LimitDefaults(max_unfinished_jobs=500, currency="usd")))
    assert [refusal.code for refusal in against] == ["insufficient_quota"] * 2
    assert claim_next(department)
