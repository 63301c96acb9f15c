"""Workers in the registry: who is there, who drains, who goes, and which job is whose."""

import signal
import threading
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from domain.jobs import JobState
from domain.plans import CalibrateReport, Device, Precision
from domain.refusals import WorkerRetired
from domain.workers import WorkerState, fits
from models_db.jobs import Job, Lease
from models_db.sessions import connect
from runtime.wiring import Runtime
from services import claims, workers
from services.claims import Claim
from tests.integration.workers.registry import FACTS, GIB, LEASE_S, OPERATOR, Registry
from workers.presence import Presence
from workers.sweeper import sweep


def state_of(department: Any, job: UUID) -> JobState:
    return JobState(department.job(job).state)


def claim(department: Any, job: UUID, worker: UUID) -> Claim | None:
    with department.runtime.department(department.id) as session:
        return claims.claim(session, job, worker="w", lease_s=60, worker_id=worker)


def claim_next(runtime: Runtime, worker: UUID) -> Claim | None:
    with runtime.platform() as session:
        claimed = claims.claim_next(session, worker="w", lease_s=60, half_life_s=3600, worker_id=worker)
        return claimed[0] if claimed else None


def claimants(department: Any, job: UUID) -> list[UUID]:
    """The workers that held the job, one after another."""
    held = select(Lease.worker_id).where(
        Lease.id.in_(record.refs[0] for record in department.audited("job.claimed") if record.resource_id == job)
    )
    with department.runtime.department(department.id) as session:
        return list(session.scalars(held.order_by(Lease.id)))


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_worker_is_in_the_registry_from_its_start_to_its_end(registry: Registry, start: Any, wait_for: Any) -> None:
    process = start("celery", "train")
    wait_for(registry.seen, within_s=60, what="the worker registers")
    worker = registry.only().worker
    assert (worker.state, worker.device, worker.ranks, worker.precision) == ("active", "cpu", 1, "fp32")
    assert worker.name.endswith(f":{process.pid}")
    assert worker.weight_bits == 32
    assert worker.memory_bytes
    assert set(worker.versions) >= {"python", "torch"}
    wait_for(lambda: registry.only().worker.seen_at > worker.seen_at, within_s=10, what="it gives a sign of life")

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=20) == 0
    assert registry.only().worker.state == WorkerState.RETIRED
    assert registry.told() == ["registered", "retired"]


def test_a_killed_worker_is_lost_after_two_leases(registry: Registry, start: Any, wait_for: Any) -> None:
    process = start("celery", "train")
    wait_for(registry.seen, within_s=60, what="the worker registers")
    process.kill()
    process.wait()
    wait_for(lambda: registry.only().lost, within_s=2 * LEASE_S + 5, what="it is lost")
    assert registry.only().worker.state == WorkerState.ACTIVE
    with registry.runtime.platform() as session:
        assert workers.living(session, lease_s=LEASE_S) == []


def test_a_drained_worker_finishes_its_job_and_takes_the_next_when_it_may(
    registry: Registry, department: Any, start: Any, wait_for: Any
) -> None:
    first, second = department.submit_queued(steps=20), department.submit_queued(steps=2)
    start("celery", "train", "slow")
    wait_for(lambda: state_of(department, first) == JobState.RUNNING, within_s=60, what="the first job runs")
    assert registry.only().busy
    worker = registry.only().worker.id
    registry.ask(workers.drain, worker, now=False)

    wait_for(lambda: state_of(department, first) == JobState.SUCCEEDED, within_s=30, what="the first job is finished")
    # It has looked for more work, found that it drains, and handed the ring on.
    wait_for(lambda: department.queue_length("train") == 2, within_s=20, what="the ring is handed on")
    assert state_of(department, second) == JobState.QUEUED
    assert not registry.only().busy

    registry.ask(workers.undrain, worker)
    wait_for(lambda: state_of(department, second) == JobState.SUCCEEDED, within_s=20, what="the second job runs")
    assert registry.told() == ["registered", "drained", "undrained"]


def test_a_worker_drained_now_gives_its_job_back_with_a_checkpoint(
    *, registry: Registry, department: Any, start: Any, wait_for: Any, fake: Any
) -> None:
    job = department.submit_queued(steps=200, checkpoint_every=1000)
    process = start("celery", "train", "slow")
    wait_for(lambda: (department.job(job).progress or {}).get("loss"), within_s=60, what="training has begun")
    registry.ask(workers.drain, registry.only().worker.id, now=True)

    wait_for(lambda: state_of(department, job) == JobState.QUEUED, within_s=20, what="the job is given back")
    left, (checkpoint,) = department.job(job), department.checkpoints(job)
    assert (left.stalls, left.epoch) == (0, 1)
    assert len(department.audited("job.released")) == 1
    assert process.poll() is None
    assert department.worker(fake()).run_next()
    assert state_of(department, job) == JobState.SUCCEEDED
    assert department.audited("job.claimed")[-1].details["resume_step"] == checkpoint.step
    # 1 + 2 + … + 200: no step was lost, and none done twice.
    assert department.adapter_file(job, "state.json") == b"20100"


@pytest.mark.parametrize("settings", [{"batch_jobs": 2, "batch_max_tokens": 10_000}], indirect=True)
def test_a_worker_drained_now_gives_every_job_of_its_batch_back(
    registry: Registry, department: Any, start: Any, wait_for: Any
) -> None:
    jobs = [department.submit_small(steps=300, checkpoint_every=1000) for _ in range(2)]
    start("celery", "train", "slow")
    wait_for(
        lambda: all((department.job(job).progress or {}).get("loss") for job in jobs), within_s=60, what="both train"
    )
    registry.ask(workers.drain, registry.only().worker.id, now=True)
    wait_for(
        lambda: all(state_of(department, job) == JobState.QUEUED for job in jobs), within_s=30, what="both are back"
    )
    assert [(department.job(job).stalls, len(department.checkpoints(job))) for job in jobs] == [(0, 1)] * 2
    assert not registry.only().busy


@pytest.mark.parametrize("now", [False, True])
def test_a_retired_worker_ends_by_itself_without_losing_its_job(
    registry: Registry, department: Any, start: Any, wait_for: Any, *, now: bool
) -> None:
    job = department.submit_queued(steps=25, checkpoint_every=1000)
    process = start("celery", "train", "slow")
    wait_for(lambda: (department.job(job).progress or {}).get("loss"), within_s=60, what="training has begun")
    registry.ask(workers.retire, registry.only().worker.id, now=now)

    assert process.wait(timeout=30) == 0
    assert state_of(department, job) == (JobState.QUEUED if now else JobState.SUCCEEDED)
    assert registry.only().worker.state == WorkerState.RETIRED
    assert registry.told() == ["registered", "retire_requested", "retired"]
    with pytest.raises(WorkerRetired):
        registry.ask(workers.undrain, registry.only().worker.id)


def test_an_idle_worker_that_is_retired_ends(registry: Registry, start: Any, wait_for: Any) -> None:
    process = start("celery", "train")
    wait_for(registry.seen, within_s=60, what="the worker registers")
    registry.ask(workers.retire, registry.only().worker.id, now=False)
    assert process.wait(timeout=20) == 0


def test_a_ring_that_a_drained_worker_hears_reaches_another(
    registry: Registry, department: Any, start: Any, wait_for: Any
) -> None:
    # No sweeper runs: a ring that is lost is never made good.
    start("celery", "train")
    start("celery", "train")
    wait_for(lambda: len(registry.seen()) == 2, within_s=60, what="both register")
    drained, other = (seen.worker.id for seen in registry.seen())
    registry.ask(workers.drain, drained, now=False)
    for _ in range(6):
        job = department.submit_queued(steps=1)
        wait_for(lambda job=job: state_of(department, job) == JobState.SUCCEEDED, within_s=20, what="the job runs")
        assert claimants(department, job) == [other]


# --- claims -----------------------------------------------------------------------------------------------------------


def test_a_claim_that_has_begun_is_the_drained_workers_and_none_after(
    registry: Registry, department: Any, wait_for: Any
) -> None:
    worker, (first, second) = registry.register(), [department.submit_queued() for _ in range(2)]
    with department.runtime.department(department.id) as session:
        assert claims.claim(session, first, worker="w", lease_s=60, worker_id=worker)
        drain = threading.Thread(target=registry.ask, args=(workers.drain, worker), kwargs={"now": False})
        drain.start()
        wait_for(registry.somebody_waits_for_a_lock, within_s=4, what="the drain waits for the claim")
    drain.join()
    assert registry.only().busy
    assert claim(department, second, worker) is None
    assert claim_next(department.runtime, worker) is None
    assert state_of(department, second) == JobState.QUEUED


def test_a_drain_that_has_begun_is_waited_for_by_a_claim(registry: Registry, department: Any, wait_for: Any) -> None:
    worker, job, claimed = registry.register(), department.submit_queued(), []
    with registry.runtime.platform() as session:
        workers.drain(session, OPERATOR, worker, now=False)
        claiming = threading.Thread(target=lambda: claimed.append(claim(department, job, worker)))
        claiming.start()
        wait_for(registry.somebody_waits_for_a_lock, within_s=4, what="the claim waits for the drain")
    claiming.join()
    assert claimed == [None]


def test_a_job_goes_to_a_worker_with_the_memory_that_it_needs(registry: Registry, department: Any) -> None:
    large, small = [department.submit_queued() for _ in range(2)]
    for job, needed_bytes in ((large, GIB + 1), (small, GIB)):
        with department.runtime.department(department.id) as session:
            session.get_one(Job, job).memory_bytes = needed_bytes
    worker, larger = registry.register(), registry.register(memory_bytes=GIB + 1)
    # The first of the order is another's; a direct claim of it is refused as well.
    assert claim(department, large, worker) is None
    held = claim_next(department.runtime, worker)
    assert held
    assert held.job == small
    assert claim_next(department.runtime, worker) is None
    held = claim_next(department.runtime, larger)
    assert held
    assert held.job == large


def test_a_job_that_does_not_fit_is_no_mate_of_one_that_does(registry: Registry, department: Any) -> None:
    first, large, small = (department.submit_small() for _ in range(3))
    with department.runtime.department(department.id) as session:
        session.get_one(Job, large).memory_bytes = GIB + 1
    batching, worker = claims.Batching(max_jobs=3, max_tokens=10_000), registry.register()
    with registry.runtime.platform() as session:
        held = claims.claim_next(session, worker="w", lease_s=60, half_life_s=3600, worker_id=worker, batching=batching)
    assert [each.job for each in held] == [first, small]
    # Each is charged for half of the worker.
    assert [record.details["batch_jobs"] for record in department.audited("job.claimed")] == [2, 2]


def test_a_validated_job_knows_what_it_needs(department: Any) -> None:
    needed_bytes = department.job(department.submit_queued()).memory_bytes
    # The tiny model's weights in 16 bits, and a little.
    parameters = sum(file.bytes for file in department.base_model().files if file.path.endswith("safetensors")) / 4
    assert parameters * 1.9 < needed_bytes < parameters * 4


def test_the_database_and_the_rule_agree_on_what_fits(registry: Registry) -> None:
    asked = text("SELECT fits(:needed, :memory, :bits)")
    with registry.runtime.platform() as session:
        for needed in (None, 0, 499, 500, 501, 2000, 4001):
            for memory in (None, 0, 1000):
                for bits in (4, 8, 16, 32):
                    found = session.execute(asked, {"needed": needed, "memory": memory, "bits": bits}).scalar()
                    assert found == fits(needed, memory, bits), (needed, memory, bits)


# --- signs of life ----------------------------------------------------------------------------------------------------


def test_what_a_worker_measures_is_told_with_its_next_sign(registry: Registry) -> None:
    measured = CalibrateReport(
        token_budget=384, peak_flops=5e11, passes=(), precision=Precision.FP32, device=Device.CPU, hardware="pretended"
    )
    worker = registry.register(precision=Precision.AUTO)
    assert registry.only().worker.weight_bits == 16
    with registry.runtime.platform() as session:
        workers.sign_of_life(session, worker, measured)
    found = registry.only().worker
    assert (found.precision, found.weight_bits, found.calibration["token_budget"]) == ("fp32", 32, 384)


def test_a_worker_given_up_after_a_day_registers_as_another(registry: Registry) -> None:
    presence = Presence(registry.runtime, FACTS, measured=lambda: None, end=lambda: None)
    first = presence.registered()
    with registry.runtime.platform() as session:
        session.execute(text("UPDATE workers SET seen_at = now() - interval '25 hours'"))
    for _ in range(2):
        sweep(registry.runtime)
    assert (registry.only().worker.state, registry.told()) == (WorkerState.RETIRED, ["registered", "retired"])
    assert not presence.look().draining
    assert presence.registered() != first
    assert [seen.worker.state for seen in registry.seen()] == [WorkerState.RETIRED, WorkerState.ACTIVE]


def test_a_worker_starts_and_ends_though_the_database_is_away(registry: Registry) -> None:
    away = connect("postgresql+psycopg://tsugiki_app:x@127.0.0.1:1/none")
    runtime = Runtime(
        settings=registry.runtime.settings, database=away, objects=registry.runtime.objects,
        locked=registry.runtime.locked, queue=registry.runtime.queue,
    )  # fmt: skip
    presence = Presence(runtime, FACTS, measured=lambda: None, end=lambda: None)
    presence.start()
    presence.close()
    assert registry.seen() == []
