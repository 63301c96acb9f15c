"""What the sweeper takes out of the object store, and what it leaves there."""

import threading
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from domain.digests import Manifest, ManifestFile, digest_of
from domain.jobs import JobState
from services import claims, leases, retention, usage
from storage.errors import StorageUnavailable
from storage.keys import Key
from storage.listing import StoredPage
from workers.aside import Aside
from workers.retention import StorageSweep

AT_ONCE = pytest.mark.parametrize("settings", [{"orphan_after_s": 0}], indirect=True)
# An hour's life: no checkpoint of a test is as old.
SHORT_LIFE = pytest.mark.parametrize(
    "settings", [{"orphan_after_s": 0, "checkpoint_ttl_days": 1e-9}], indirect=True, ids=["short life"]
)


def sweep_storage(department: Any) -> None:
    """Sweep as if the department's turn had come."""
    execute(department, "UPDATE storage_sweeps SET due_at = now() - interval '1 second'")
    StorageSweep(department.runtime).portion()


def execute(department: Any, statement: str, **values: object) -> None:
    with department.runtime.department(department.id) as session:
        session.execute(text(statement), values)


def stored(department: Any) -> set[Key]:
    """Every object of the department."""
    page = department.runtime.objects.list_page(department.id)
    assert page.last is None
    return {found.key for found in page.objects}


def checkpoint_keys(department: Any, job: UUID) -> set[Key]:
    """The objects of a job's checkpoints that are not erased, as the rows have them."""
    return {
        Key.checkpoint(department.id, job, epoch=point.epoch, step=point.step, name=file["path"])
        for point in department.checkpoints(job)
        if point.erased_at is None
        for file in point.manifest["files"]
    }


def put(department: Any, key: Key, content: bytes) -> Key:
    department.runtime.objects.put(key, BytesIO(content), digest_of(content), len(content))
    return key


def put_blob(department: Any, content: bytes) -> Key:
    return put(department, Key.blob(department.id, digest_of(content)), content)


def put_checkpoint(department: Any, held: claims.Claim, step: int) -> Manifest:
    """A checkpoint's objects, which no row names yet."""
    content = b"state of step %d" % step
    put(department, Key.checkpoint(department.id, held.job, epoch=held.epoch, step=step, name="state"), content)
    return Manifest.of([ManifestFile(path="state", bytes=len(content), digest=digest_of(content))])


def record(department: Any, held: claims.Claim, step: int) -> None:
    """A checkpoint, stored and entered; what it outlives is left to the sweeper."""
    manifest = put_checkpoint(department, held, step)
    with department.runtime.department(department.id) as session:
        leases.record_checkpoint(session, held, step=step, manifest=manifest, metrics={})


def claim(department: Any, job: UUID) -> claims.Claim:
    with department.runtime.department(department.id) as session:
        held = claims.claim(session, job, worker="of a test", lease_s=600)
    assert held
    return held


def finished_with_checkpoints(department: Any) -> UUID:
    """A job that failed after three checkpoints, the first of which is erased."""
    job = department.submit_queued()
    held = claim(department, job)
    for step in (1, 2, 3):
        record(department, held, step)
    with department.runtime.department(department.id) as session:
        leases.fail(session, held, leases.JobError("worker_crash", "It crashed."))
    return UUID(str(job))


def counted(department: Any) -> int:
    """What the department's checkpoints are charged as."""
    with department.runtime.department(department.id) as session:
        return usage.stored(session).checkpoint_bytes


def warnings(department: Any, job: UUID) -> list[str]:
    return [event.message for event in department.events(job) if "will be erased" in event.message]


# --- checkpoints ------------------------------------------------------------------------------------------------------


# Long enough for a machine that does other things as well.
@pytest.mark.parametrize("settings", [{"lease_s": 30}], indirect=True, ids=["long lease"])
def test_while_a_job_runs_its_newest_two_checkpoints_stay(department: Any, fake: Any) -> None:
    job = department.submit_queued(steps=40, checkpoint_every=4)
    assert department.worker(fake("slow")).run_next()

    points = department.checkpoints(job)
    assert len(points) > 3
    assert [point.step for point in points if point.erased_at is None] == [point.step for point in points[-2:]]
    assert {key for key in stored(department) if key.checkpoint_place} == checkpoint_keys(department, job)
    told = [step for event in department.audited("job.checkpointed") for step in event.details["erased_steps"]]
    assert told == [point.step for point in points[:-2]]


def test_a_rejected_checkpoint_is_not_one_of_the_two(department: Any) -> None:
    job = department.submit_queued()
    held = claim(department, job)
    for step in (1, 2):
        record(department, held, step)
    with department.runtime.department(department.id) as session:
        leases.release(session, held)
    held = claim(department, job)
    with department.runtime.department(department.id) as session:
        assert leases.reject_checkpoint(session, held, held.resume).step == 1
    record(department, held, 3)
    assert [(point.step, point.erased_at is None) for point in department.checkpoints(job)] == [
        (1, True), (2, False), (3, True),
    ]  # fmt: skip


@SHORT_LIFE
@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.PAUSED, JobState.RUNNING])
def test_the_checkpoints_of_a_job_that_can_go_on_stay(department: Any, fake: Any, state: JobState) -> None:
    job = department.submit_queued(steps=6, checkpoint_every=2)
    for _ in range(2):
        assert department.worker(fake("abort_after_checkpoint")).run_next()
    if state == JobState.PAUSED:
        department.pause(job)
    held = claim(department, job) if state == JobState.RUNNING else None
    before = checkpoint_keys(department, job)
    assert before
    assert department.job(job).state == state

    sweep_storage(department)
    sweep_storage(department)

    assert {key for key in stored(department) if key.checkpoint_place} == before
    if held is not None:
        with department.runtime.department(department.id) as session:
            leases.release(session, held)
    if state == JobState.PAUSED:
        department.resume(job)
    assert department.worker(fake()).run_next()
    assert department.adapter_file(job, "state.json") == b"21"


def test_a_finished_jobs_checkpoints_go_in_time_after_one_warning(department: Any) -> None:
    job = finished_with_checkpoints(department)
    sweep_storage(department)
    assert warnings(department, job) == []

    execute(department, "UPDATE jobs SET finished_at = finished_at - interval '24 days'")
    for _ in range(2):
        sweep_storage(department)
    (warning,) = warnings(department, job)
    # Six days are left of thirty, and a week's notice is given.
    assert f"{department.job(job).checkpoints_warned_at + timedelta(days=7):%Y-%m-%d at %H:%M} UTC" in warning
    assert len(checkpoint_keys(department, job)) == 2

    execute(
        department,
        "UPDATE jobs SET finished_at = finished_at - interval '7 days',"
        " checkpoints_warned_at = checkpoints_warned_at - interval '7 days'",
    )
    kept = [point for point in department.checkpoints(job) if point.erased_at is None]
    size = sum(file["bytes"] for point in kept for file in point.manifest["files"])
    assert counted(department) == size
    for _ in range(2):
        sweep_storage(department)
    assert all(point.erased_at for point in department.checkpoints(job))
    assert counted(department) == 0
    # Those of step 1 were marked before, and left for the orphans' sweep.
    assert {key.checkpoint_place.step for key in stored(department) if key.checkpoint_place} == {1}
    (expired,) = department.audited("checkpoint.expired")
    assert expired.resource_id == job
    assert expired.details == {"checkpoints": 2, "bytes": size, "steps": [2, 3]}
    assert len(warnings(department, job)) == 1


def test_none_go_without_a_warning_however_late(department: Any) -> None:
    job = finished_with_checkpoints(department)
    execute(department, "UPDATE jobs SET finished_at = finished_at - interval '400 days'")
    for _ in range(2):
        sweep_storage(department)
    assert len(warnings(department, job)) == 1
    assert len(checkpoint_keys(department, job)) == 2
    assert department.audited("checkpoint.expired") == []


@AT_ONCE
def test_marked_checkpoints_whose_objects_were_left_are_collected(department: Any) -> None:
    job = finished_with_checkpoints(department)
    assert len({key for key in stored(department) if key.checkpoint_place}) == 3
    sweep_storage(department)
    assert {key for key in stored(department) if key.checkpoint_place} == checkpoint_keys(department, job)
    (swept,) = department.audited("storage.orphans_erased")
    assert swept.details == {"blobs": 0, "checkpoint_files": 1, "bytes": len(b"state of step 1")}


# --- orphans ----------------------------------------------------------------------------------------------------------


@AT_ONCE
def test_what_no_row_names_is_erased_and_nothing_else(department: Any, fake: Any) -> None:
    job = department.submit_queued()
    assert department.worker(fake()).run_next()
    running = department.submit_queued()
    held = claim(department, running)
    put_checkpoint(department, held, 7)
    nobodys = Key.blob(uuid4(), digest_of(b"another installation's"))
    put(department, nobodys, b"another installation's")
    before = stored(department)

    orphans = {put_blob(department, content) for content in (b"one", b"three")}
    orphans.add(put(department, Key.checkpoint(department.id, job, epoch=1, step=9, name="deep/state"), b"1"))
    orphans.add(put(department, Key.checkpoint(department.id, running, epoch=held.epoch - 1, step=7, name="a"), b"22"))
    orphans.add(put(department, Key.checkpoint(department.id, uuid4(), epoch=1, step=1, name="state"), b"333"))
    sweep_storage(department)

    assert stored(department) == before
    assert department.runtime.objects.size_of(nobodys)
    (swept,) = department.audited("storage.orphans_erased")
    assert swept.details == {"blobs": 2, "checkpoint_files": 3, "bytes": 8 + 6}
    sweep_storage(department)
    assert len(department.audited("storage.orphans_erased")) == 1
    # The one that was being uploaded is still good to enter.
    with department.runtime.department(department.id) as session:
        manifest = put_checkpoint(department, held, 7)
        leases.record_checkpoint(session, held, step=7, manifest=manifest, metrics={})


def test_an_orphan_has_a_day(department: Any) -> None:
    orphan = put_blob(department, b"just stored")
    sweep_storage(department)
    assert orphan in stored(department)


@AT_ONCE
def test_a_large_store_is_swept_in_portions(department: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.retention.PAGE", 2)
    monkeypatch.setattr("workers.retention.PORTION_S", 0.0)
    for number in range(5):
        put_blob(department, b"orphan %d" % number)
    sweep = StorageSweep(department.runtime)
    sweep.portion()
    assert len(stored(department)) == 5
    monkeypatch.setattr("workers.retention.PORTION_S", 60.0)
    sweep.portion()
    assert stored(department) == set()
    assert [event.details["blobs"] for event in department.audited("storage.orphans_erased")] == [2, 2, 1]


def test_a_turn_is_taken_once(department: Any) -> None:
    def begun() -> str | None:
        with department.runtime.department(department.id) as session:
            return retention.begin_sweep(session, department.id, every_s=3600)

    assert [begun(), begun()] == ["", None]
    with department.runtime.platform() as session:
        assert retention.next_due(session) is None
    with department.runtime.department(department.id) as session:
        retention.end_sweep(session, department.id, swept_to="departments/x")
    with department.runtime.platform() as session:
        assert retention.next_due(session) == department.id
    assert [begun(), begun()] == ["departments/x", None]


@AT_ONCE
def test_a_store_that_is_away_or_hangs_holds_up_nobody(department: Any, wait_for: Any) -> None:
    orphan = put_blob(department, b"one")
    go_on = threading.Event()
    asked: list[UUID] = []

    class Hanging:
        def list_page(self, of: UUID, **_options: object) -> StoredPage:
            asked.append(of)
            assert go_on.wait(30)
            raise StorageUnavailable("away")

    sweep = Aside("storage", StorageSweep(replace(department.runtime, objects=Hanging())).portion)
    sweep.begin()
    wait_for(lambda: asked, within_s=10, what="the store is asked")
    execute(department, "UPDATE storage_sweeps SET due_at = now() - interval '1 second'")
    sweep.begin()
    assert [thread.name for thread in threading.enumerate()].count("storage") == 1
    go_on.set()
    wait_for(lambda: "storage" not in [thread.name for thread in threading.enumerate()], within_s=10, what="its end")
    assert orphan in stored(department)

    sweep_storage(department)
    assert stored(department) == set()
