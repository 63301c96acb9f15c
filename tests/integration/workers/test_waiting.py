"""Why a job waits, as its department is told."""

from typing import Any
from uuid import UUID

from domain.waiting import Waiting, WaitingCode
from models_db.departments import Department
from models_db.jobs import Job
from services import claims, jobs, leases, waiting, workers
from tests.integration.workers.registry import GIB, OPERATOR, Registry


def reason(department: Any, job: UUID) -> Waiting | None:
    with department.runtime.department(department.id) as session:
        found = waiting.reasons(session, [session.get_one(Job, job)], lease_s=3, half_life_s=3600)
    return found.get(job)


def code(department: Any, job: UUID) -> WaitingCode | None:
    found = reason(department, job)
    return found and found.code


def test_a_job_tells_why_it_waits_from_its_submit_to_its_start(department: Any, registry: Registry) -> None:
    assert code(department, department.submit()) == WaitingCode.VALIDATING_FILES
    ahead, job = department.submit_queued(), department.submit_queued()
    with department.runtime.department(department.id) as session:
        session.get_one(Job, job).memory_bytes = 2 * GIB
    assert code(department, job) == WaitingCode.NO_WORKER
    worker = registry.register()
    found = reason(department, job)
    assert found
    assert (found.code, found.needed_bytes, found.largest_bytes) == (WaitingCode.NOT_ENOUGH_MEMORY, 2 * GIB, GIB)
    with registry.runtime.platform() as session:
        workers.drain(session, OPERATOR, worker, now=False)
    assert code(department, job) == WaitingCode.WORKERS_DRAINING
    larger = registry.register(memory_bytes=2 * GIB)
    found = reason(department, job)
    assert found
    assert (found.code, found.position) == (WaitingCode.STARTING, 2)
    with department.runtime.department(department.id) as session:
        assert claims.claim(session, ahead, worker="w", lease_s=60, worker_id=larger)
    assert reason(department, ahead) is None
    found = reason(department, job)
    assert found
    assert (found.code, found.position) == (WaitingCode.WORKERS_BUSY, 1)
    with department.runtime.department(department.id) as session:
        jobs.request_pause(session, department.principal, job)
    assert code(department, job) == WaitingCode.PAUSED


def test_a_worker_that_is_silent_for_two_leases_is_no_hope(department: Any, registry: Registry, wait_for: Any) -> None:
    registry.register()
    job = department.submit_queued()
    assert code(department, job) == WaitingCode.STARTING
    wait_for(lambda: code(department, job) == WaitingCode.NO_WORKER, within_s=10, what="the worker counts no more")


def test_a_place_counts_the_jobs_before_it(department: Any) -> None:
    queued = [department.submit_queued() for _ in range(3)]
    found = [reason(department, job) for job in queued]
    assert [each and each.position for each in found] == [1, 2, 3]


def test_a_department_at_its_limit_runs_no_more_and_says_so(department: Any, registry: Registry) -> None:
    first, second = department.submit_queued(), department.submit_queued()
    worker, other = registry.register(), registry.register()
    with department.runtime.department(department.id) as session:
        session.get_one(Department, department.id).max_running_jobs = 1
    assert code(department, second) == WaitingCode.STARTING
    taken = []
    for each in (worker, other):
        with registry.runtime.platform() as session:
            taken += claims.claim_next(session, worker="w", lease_s=60, half_life_s=3600, worker_id=each)
    assert [held.job for held in taken] == [first]
    found = reason(department, second)
    assert found
    assert (found.code, found.position) == (WaitingCode.DEPARTMENT_LIMIT, None)
    with department.runtime.department(department.id) as session:
        leases.release(session, taken[0])
    assert code(department, second) == WaitingCode.STARTING
