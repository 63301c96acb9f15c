"""Whose turn it is among departments, and among the jobs of one."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, create_engine, text

from domain.fair_share import Hold, Spell, Standing, Waiting, order
from domain.jobs import JobState
from models_db.jobs import Job
from services import claims, departments, leases, workers
from tests.integration.workers.registry import GIB, Registry
from workers.sweeper import sweep

HALF_LIFE_S = 3600.0


def claim_next(department: Any, **options: Any) -> UUID | None:
    with department.runtime.platform() as session:
        held = claims.claim_next(session, worker="w", lease_s=60, half_life_s=HALF_LIFE_S, **options)
    return held[0].job if held else None


@pytest.fixture
def admin(department: Any) -> Iterator[Connection]:
    """A superuser's connection, whose transaction is rolled back; references between rows are not checked in it."""
    engine = create_engine(department.admin_url)
    with engine.connect() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        yield connection
        connection.rollback()
    engine.dispose()


@pytest.fixture
def neighbour(department: Any) -> Callable[[str], Any]:
    """Another department of the same installation."""

    def made(name: str) -> Any:
        with department.runtime.platform() as session:
            created = departments.create(session, replace(department.principal, department=None), name).id
        return replace(department, principal=replace(department.principal, department=created))

    return made


SEEDS = range(20)
# Of the departments, how many have never had a device.
NEW = 0.4


def test_the_database_orders_jobs_as_the_formula_does(department: Any, admin: Connection) -> None:
    template = department.submit_queued()
    asked = text("SELECT job_id FROM claimable_jobs(1000, :half_life_s)")
    places = text("SELECT job_id, place FROM queue_positions(:jobs, :half_life_s)")
    for seed in SEEDS:
        chance = random.Random(seed)
        standings = [_standing(chance) for _ in range(chance.randint(2, 6))]
        with _only(admin, standings, template):
            found = admin.execute(asked, {"half_life_s": HALF_LIFE_S}).scalars().all()
            waiting = [each.job for standing in standings for each in standing.waiting]
            told = admin.execute(places, {"jobs": waiting, "half_life_s": HALF_LIFE_S}).all()
        assert found == order(standings, HALF_LIFE_S), seed
        # Those whose departments run as many jobs as they may have no place.
        assert dict(told) == {job: place for place, job in enumerate(found, 1)}, seed
        assert len(found) == sum(len(standing.waiting) for standing in standings if standing.may_run)


def test_the_place_foretold_to_a_job_is_the_one_it_gets(department: Any, admin: Connection) -> None:
    template = department.submit_queued()
    enter = text("SELECT set_config('app.department', :department, true)")
    told = text("SELECT cardinality(ahead_s) FROM queue_ahead(:priority, :half_life_s)")
    for seed in SEEDS:
        chance = random.Random(seed)
        # What waits for a limit of its own department comes at a time that no order tells.
        standings = [replace(_standing(chance), max_running_jobs=None) for _ in range(chance.randint(2, 6))]
        newest = Waiting(UUID(int=2**128 - 1), chance.randint(-2, 2))
        asking = chance.choice(standings)
        with _only(admin, standings, template):
            admin.execute(enter, {"department": asking.department.hex})
            place = admin.execute(told, {"priority": newest.priority, "half_life_s": HALF_LIFE_S}).scalar_one()
        asking.waiting.append(newest)
        assert order(standings, HALF_LIFE_S).index(newest.job) == place, seed


@contextmanager
def _only(admin: Connection, standings: list[Standing], template: UUID) -> Iterator[None]:
    """These departments, whose jobs are the only ones that wait, until the block ends."""
    with admin.begin_nested() as savepoint:
        admin.execute(text("UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE state = 'queued'"))
        for standing in standings:
            _enter(admin, standing, template)
        yield
        savepoint.rollback()


def _standing(chance: random.Random) -> Standing:
    waiting = [Waiting(UUID(int=chance.getrandbits(128)), chance.randint(-2, 2)) for _ in range(chance.randint(1, 5))]
    if chance.random() < NEW:
        # Equal to each other: of them the oldest job comes first.
        return Standing(uuid4(), waiting=waiting)
    return Standing(
        department=uuid4(),
        weight=chance.choice([0.5, 1.0, 2.0, 3.0]),
        spells=[
            Spell(chance.uniform(1, 5000), chance.uniform(0, 9 * HALF_LIFE_S)) for _ in range(chance.randint(0, 4))
        ],
        holds=[
            Hold(chance.uniform(0, 500), chance.randint(1, 4), chance.randint(1, 3))
            for _ in range(chance.randint(0, 3))
        ],
        waiting=waiting,
        max_running_jobs=chance.choice([None, 1, 2]),
        served_ago_s=chance.choice([None, chance.uniform(0, 5000)]),
    )


def _enter(admin: Connection, standing: Standing, template: UUID) -> None:
    department = standing.department
    admin.execute(
        text("""
            INSERT INTO departments (id, name, weight, max_running_jobs, served_at)
            VALUES (:id, :name, :weight, :max_running_jobs, now() - make_interval(secs => CAST(:served_ago_s AS float)))
        """),
        {
            "id": department,
            "name": department.hex,
            "weight": standing.weight,
            "max_running_jobs": standing.max_running_jobs,
            "served_ago_s": standing.served_ago_s,
        },
    )
    ended = [
        {"long_s": spell.device_s, "ended_ago_s": spell.ended_ago_s, "ranks": 1, "shared_by": 1}
        for spell in standing.spells
    ]
    held = [
        {"long_s": hold.held_s, "ended_ago_s": None, "ranks": hold.ranks, "shared_by": hold.shared_by}
        for hold in standing.holds
    ]
    for lease in ended + held:
        admin.execute(
            text("""
                INSERT INTO leases (department_id, worker, ranks, shared_by, acquired_at, expires_at, ended_at)
                SELECT :department, 'w', :ranks, :shared_by,
                    coalesce(ended, now()) - make_interval(secs => :long_s), now(), ended
                FROM (SELECT now() - make_interval(secs => CAST(:ended_ago_s AS float)) AS ended) of
            """),
            lease | {"department": department},
        )
    for waiting in standing.waiting:
        admin.execute(
            text("""
                INSERT INTO jobs SELECT (jsonb_populate_record(j, jsonb_build_object(
                    'id', CAST(:id AS text), 'department_id', CAST(:department AS text),
                    'priority', CAST(:priority AS int), 'state', 'queued', 'finished_at', NULL
                ))).* FROM jobs j WHERE j.id = :template
            """),
            {
                "id": waiting.job, "department": department, "priority": waiting.priority, "template": template,
            },
        )  # fmt: skip


def test_a_department_with_many_jobs_does_not_hold_up_anothers_first(department: Any, neighbour: Any) -> None:
    other = neighbour("other")
    many = [department.submit_queued() for _ in range(12)]
    assert [claim_next(department) for _ in range(3)] == many[:3]
    first = other.submit_queued()
    assert claim_next(department) == first
    assert claim_next(department) == many[3]


def test_a_heavier_department_gets_more_of_the_devices(department: Any, neighbour: Any, admin: Connection) -> None:
    other = neighbour("heavier")
    with admin.begin_nested():
        admin.execute(text("UPDATE departments SET weight = 3 WHERE id = :id"), {"id": other.id})
    admin.commit()
    ours = {department.submit_queued() for _ in range(8)}
    theirs = {other.submit_queued() for _ in range(8)}
    claimed = [claim_next(department) for _ in range(8)]
    # Each counts for a minute while it is held: shares of 2 x 60 s and 6 x 20 s are equal.
    assert (len(ours.intersection(claimed)), len(theirs.intersection(claimed))) == (2, 6)


def test_of_a_departments_jobs_the_most_urgent_is_first_and_then_the_oldest(department: Any) -> None:
    low, first, second, high = (department.submit_queued(priority=priority) for priority in (-1, 0, 0, 5))
    assert [claim_next(department) for _ in range(5)] == [high, first, second, low, None]


def test_workers_that_claim_at_once_get_different_jobs(department: Any, neighbour: Any) -> None:
    others = [neighbour(name) for name in ("b", "c")]
    jobs = {each.submit_queued() for each in (department, *others) for _ in range(4)}
    barrier, claimed = threading.Barrier(6), []

    def claim() -> None:
        barrier.wait()
        claimed.extend(claim_next(department) for _ in range(2))

    threads = [threading.Thread(target=claim) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(claimed) == jobs
    assert len(claimed) == len(jobs)


@pytest.mark.parametrize("allowed", [True, False])
def test_an_urgent_job_takes_the_place_of_a_running_one_where_that_is_allowed(
    department: Any, admin: Connection, start: Any, wait_for: Any, *, allowed: bool
) -> None:
    admin.execute(
        text("UPDATE departments SET preempts = :allowed WHERE id = :id"), {"allowed": allowed, "id": department.id}
    )
    admin.commit()
    patient = department.submit_queued(steps=40, checkpoint_every=10)
    runtime = replace(
        department.runtime, settings=department.runtime.settings.model_copy(update={"preempt_after_s": 0})
    )
    worker = start("slow")
    wait_for(lambda: (department.job(patient).progress or {}).get("step"), within_s=30, what="the patient one trains")
    urgent = department.submit_queued(steps=2, priority=1)

    sweep(runtime)
    sweep(runtime)

    wait_for(lambda: worker.poll() is not None, within_s=30, what="the worker finds no more work")
    jobs = [department.job(job) for job in (patient, urgent)]
    assert [job.state for job in jobs] == [JobState.SUCCEEDED, JobState.SUCCEEDED]
    # 1 + 2 + ... + 40: no step was lost by it, and none done twice.
    assert department.adapter_file(patient, "state.json") == b"820"
    assert len(department.audited("job.preempted")) == int(allowed)
    assert (jobs[1].finished_at < jobs[0].finished_at) == allowed
    assert [job.epoch for job in jobs] == ([2, 1] if allowed else [1, 1])


def test_equal_priority_takes_no_ones_place(department: Any, admin: Connection) -> None:
    admin.execute(text("UPDATE departments SET preempts = true WHERE id = :id"), {"id": department.id})
    admin.commit()
    department.submit_queued(priority=3)
    claim_next(department)
    department.submit_queued(priority=3)
    with department.runtime.platform() as session:
        assert leases.to_preempt(session, after_s=0, half_life_s=HALF_LIFE_S) == []
    department.submit_queued(priority=4)
    with department.runtime.platform() as session:
        assert len(leases.to_preempt(session, after_s=0, half_life_s=HALF_LIFE_S)) == 1
        assert leases.to_preempt(session, after_s=3600, half_life_s=HALF_LIFE_S) == []


def test_a_department_at_its_limit_makes_room_for_its_own_urgent_job(
    department: Any, neighbour: Any, admin: Connection
) -> None:
    other = neighbour("next")
    admin.execute(
        text("UPDATE departments SET preempts = true, max_running_jobs = 1 WHERE id = :id"), {"id": department.id}
    )
    admin.commit()
    patient = department.submit_queued()
    assert claim_next(department) == patient
    department.submit_queued(priority=1)
    # Whose turn it is, is another's; but no device that is free is of use to this one.
    other.submit_queued()
    with department.runtime.platform() as session:
        found = leases.to_preempt(session, after_s=0, half_life_s=HALF_LIFE_S)
    assert found == [(patient, department.id)]


# --- preempting among workers of different memory ---------------------------------------------------------------------


@pytest.fixture
def preempting(department: Any, admin: Connection) -> Any:
    """The department, whose urgent jobs may take the place of others."""
    admin.execute(text("UPDATE departments SET preempts = true WHERE id = :id"), {"id": department.id})
    admin.commit()
    return department


def submit_of_size(department: Any, needed_bytes: int, **options: Any) -> UUID:
    job: UUID = department.submit_queued(**options)
    with department.runtime.department(department.id) as session:
        session.get_one(Job, job).memory_bytes = needed_bytes
    return job


def to_preempt(department: Any) -> list[UUID]:
    with department.runtime.platform() as session:
        return [job for job, _department in leases.to_preempt(session, after_s=0, half_life_s=HALF_LIFE_S)]


@pytest.mark.parametrize("at_its_limit", [False, True])
def test_a_job_makes_no_room_where_the_urgent_one_does_not_fit(
    preempting: Any, registry: Registry, admin: Connection, *, at_its_limit: bool
) -> None:
    small, large = registry.register(), registry.register(memory_bytes=2 * GIB)
    on_small = submit_of_size(preempting, GIB)
    assert claim_next(preempting, worker_id=small) == on_small
    if at_its_limit:
        admin.execute(text("UPDATE departments SET max_running_jobs = 1"))
        admin.commit()
    urgent = submit_of_size(preempting, 2 * GIB, priority=1)
    assert to_preempt(preempting) == []

    # The control: the same on a worker that takes it.
    if at_its_limit:
        admin.execute(text("UPDATE departments SET max_running_jobs = 2"))
        admin.commit()
    on_large = preempting.submit_queued(priority=2)
    assert claim_next(preempting, worker_id=large) == on_large
    assert to_preempt(preempting) == []
    admin.execute(text("UPDATE jobs SET priority = 0 WHERE id = :id"), {"id": on_large})
    admin.commit()
    assert to_preempt(preempting) == [on_large]
    registry.ask(workers.drain, large, now=False)
    assert to_preempt(preempting) == []
    registry.ask(workers.undrain, large)
    assert to_preempt(preempting) == [on_large]
    assert preempting.job(urgent).state == JobState.QUEUED


@pytest.mark.parametrize("at_its_limit", [False, True])
def test_a_job_that_no_worker_takes_is_in_nobodys_way(
    preempting: Any, registry: Registry, admin: Connection, neighbour: Any, *, at_its_limit: bool
) -> None:
    worker = registry.register()
    patient = submit_of_size(preempting, GIB)
    assert claim_next(preempting, worker_id=worker) == patient
    if at_its_limit:
        admin.execute(text("UPDATE departments SET max_running_jobs = 1 WHERE id = :id"), {"id": preempting.id})
        admin.commit()
    # Another's would be first of all, and the department's own before its other urgent one.
    submit_of_size(neighbour("other"), 8 * GIB)
    submit_of_size(preempting, 8 * GIB, priority=2)
    assert to_preempt(preempting) == []
    submit_of_size(preempting, GIB, priority=1)
    assert to_preempt(preempting) == [patient]
