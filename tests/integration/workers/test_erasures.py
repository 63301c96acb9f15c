"""A file is erased while a job runs on it, and by sweepers that are killed in the middle."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.adapters import VersionState
from domain.digests import Digest, Manifest
from domain.erasures import ErasureState, RunningJobs
from domain.ids import IdKind, parse_id
from domain.jobs import JobState
from domain.refusals import ParentUnusable
from models_db.file_erasures import FileErasure
from models_db.files import File
from runtime.erasing import erase_blobs
from runtime.queue import SWEEP_QUEUE, SWEEP_TASK
from services import attestations, blobs, descent, file_erasures, parents
from storage.errors import ObjectMissing
from storage.keys import Key
from storage.objects import ObjectStore
from workers.erasures import Eraser
from workers.retention import StorageSweep

KILLED = -9


def agreed(department: Any, file: UUID, policy: RunningJobs) -> UUID:
    """The file is to be erased: two people have said so."""
    other = replace(department.principal, id=uuid4())
    with department.runtime.department(department.id) as session:
        asked = file_erasures.request(session, department.principal, file, reason="a test", running_jobs=policy)
        erasure = asked.request.id
    with department.runtime.department(department.id) as session:
        file_erasures.confirm(session, other, erasure, digest=asked.plan.digest)
    return erasure


def state_of(department: Any, erasure: UUID) -> ErasureState:
    with department.runtime.department(department.id) as session:
        return ErasureState(session.get_one(FileErasure, erasure).state)


def is_done(department: Any, erasure: UUID) -> bool:
    Eraser(department.runtime).erase_all()
    return state_of(department, erasure) is ErasureState.DONE


def stored(department: Any, digests: list[Digest]) -> list[Digest]:
    found = []
    for digest in digests:
        try:
            department.runtime.objects.size_of(Key.blob(department.id, digest))
        except ObjectMissing:
            continue
        found.append(digest)
    return found


def stored_checkpoints(department: Any) -> list[str]:
    page = department.runtime.objects.list_page(department.id, after="", limit=1000)
    return [each.key.path for each in page.objects if each.key.checkpoint_place]


@pytest.mark.parametrize("policy", RunningJobs)
def test_a_file_erased_during_a_run_stops_it_or_waits_for_it_and_leaves_its_tombstone(
    department: Any, start: Any, wait_for: Any, policy: RunningJobs
) -> None:
    job = department.submit_queued(steps=30, checkpoint_every=5)
    start("slow")
    wait_for(lambda: department.checkpoints(job), within_s=60, what="a checkpoint")

    erasure = agreed(department, department.job(job).training_file_id, policy)
    assert not is_done(department, erasure)
    wait_for(lambda: is_done(department, erasure), within_s=60, what="the erasing is done")

    ended = department.job(job)
    assert ended.state == (JobState.CANCELLED if policy is RunningJobs.STOP else JobState.SUCCEEDED)
    versions = department.versions(job)
    assert len(versions) == (0 if policy is RunningJobs.STOP else 1)
    assert all(version.state == VersionState.REVOKED and version.deleted_at for version in versions)
    files = [file for version in versions for file in Manifest.model_validate(version.manifest, strict=False).files]
    with department.runtime.department(department.id) as session:
        signed = [each for version in versions for each in attestations.of_version(session, version.id)]
    assert len(signed) == 2 * len(versions)
    assert stored(department, [ended.spec["data"]["train"], *(each.digest for each in [*files, *signed])]) == []
    assert stored_checkpoints(department) == []
    assert all(checkpoint.erased_at for checkpoint in department.checkpoints(job))
    with department.runtime.department(department.id) as session:
        assert session.get_one(File, ended.training_file_id).deleted_at
    (told,) = department.audited("file.erased")
    assert (told.resource_id, told.details["versions"]) == (ended.training_file_id, len(versions))


def test_a_version_that_is_made_while_the_sweeper_looks_is_erased_as_well(
    department: Any, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = department.submit_queued(steps=4, checkpoint_every=2)
    erasure = agreed(department, department.job(job).training_file_id, RunningJobs.FINISH)
    jobs_of = descent.jobs_of

    def after_the_job_has_ended(*arguments: Any) -> Any:
        department.worker(fake()).run_next()
        return jobs_of(*arguments)

    monkeypatch.setattr("services.file_erasures.descent.jobs_of", after_the_job_has_ended)
    is_done(department, erasure)
    monkeypatch.undo()
    assert is_done(department, erasure)
    (version,) = department.versions(job)
    assert (version.state, version.deleted_at is None) == (VersionState.REVOKED, False)
    files = Manifest.model_validate(version.manifest, strict=False).files
    assert stored(department, [file.digest for file in files]) == []


@pytest.mark.parametrize("settings", [{"orphan_after_s": 0}], indirect=True, ids=["at once"])
@pytest.mark.parametrize("role", ["training_file", "validation_file", "evaluation_file"])
def test_the_bytes_that_a_job_is_waited_for_with_stay_until_it_has_ended(department: Any, role: str) -> None:
    file = department.upload(department.rows(16, salt=99))
    job = department.submit_queued(**{role: file})
    with department.runtime.department(department.id) as session:
        digest = session.get_one(File, parse_id(IdKind.FILE, file)).digest
    erasure = agreed(department, parse_id(IdKind.FILE, file), RunningJobs.FINISH)

    StorageSweep(department.runtime).portion()
    # As who deletes the file once more does.
    again = erase_blobs(
        department.runtime, department.id, [digest], lambda session: blobs.announce(session, department.id, [digest])
    )
    assert (again, stored(department, [digest])) == (([], []), [digest])
    assert not is_done(department, erasure)

    department.cancel(job)
    assert is_done(department, erasure)
    assert stored(department, [digest]) == []


@pytest.mark.parametrize("paused_first", [True, False])
def test_a_paused_job_is_not_waited_for(department: Any, *, paused_first: bool) -> None:
    job = department.submit_queued()
    if paused_first:
        department.pause(job)
    erasure = agreed(department, department.job(job).training_file_id, RunningJobs.FINISH)
    if not paused_first:
        assert not is_done(department, erasure)
        department.pause(job)
    assert is_done(department, erasure)
    assert department.job(job).state == JobState.CANCELLED
    assert [len(department.audited(f"job.{told}")) for told in ("cancel_requested", "cancelled")] == [1, 1]


@pytest.mark.parametrize("swept", [False, True], ids=["at once", "by the sweeper"])
def test_a_version_that_one_job_makes_is_handed_out_to_nobody_while_another_is_waited_for(
    department: Any, fake: Any, monkeypatch: pytest.MonkeyPatch, *, swept: bool
) -> None:
    file = department.upload(department.rows(16, salt=99))
    first, second = (department.submit_queued(training_file=file) for _ in range(2))
    erasure = agreed(department, parse_id(IdKind.FILE, file), RunningJobs.FINISH)
    if swept:
        # As where the confirmation is committed while the version is entered.
        monkeypatch.setattr(file_erasures, "withdraw_made", lambda *_arguments: None)
    assert department.worker(fake()).run_next()
    if swept:
        assert not is_done(department, erasure)

    (version,) = department.versions(first)
    assert (version.state, version.deleted_at) == (VersionState.REVOKED, None)
    with department.runtime.department(department.id) as session, pytest.raises(ParentUnusable):
        parents.get_usable(session, version.model_name)
    assert department.job(second).state == JobState.QUEUED
    assert department.worker(fake()).run_next()
    assert is_done(department, erasure)
    made = [version for job in (first, second) for version in department.versions(job)]
    assert [(each.state, each.deleted_at is None) for each in made] == [(VersionState.REVOKED, False)] * 2
    assert len(department.audited("adapter.version.revoked")) == 2


def test_a_version_that_learned_of_another_file_stays_while_one_is_erased(department: Any, fake: Any) -> None:
    job, other = department.submit_queued(), department.submit_queued()
    erasure = agreed(department, department.job(other).training_file_id, RunningJobs.FINISH)
    assert department.worker(fake()).run_next()
    assert not is_done(department, erasure)
    assert [version.state for version in department.versions(job)] == [VersionState.CANDIDATE]


@pytest.mark.parametrize("refused", [1, 2, None], ids=["once", "twice", "always"])
def test_an_erasing_that_the_store_refuses_is_not_over(
    department: Any, fake: Any, monkeypatch: pytest.MonkeyPatch, *, refused: int | None
) -> None:
    job = department.submit_queued(steps=4, checkpoint_every=2)
    assert department.worker(fake()).run_next()
    erasure = agreed(department, department.job(job).training_file_id, RunningJobs.STOP)
    rows = department.job(job).spec["data"]["train"]
    send, sign, sent, signed = ObjectStore.erase_presigned, ObjectStore.presign_erase, [], []

    def late(store: ObjectStore, key: Key, url: str) -> bool:
        if key.blob_digest == rows:
            sent.append(key)
            if refused is None or len(sent) <= refused:
                return False
        return send(store, key, url)

    def counted(store: ObjectStore, keys: Any, *, ttl_s: int) -> Any:
        signed.append(len(keys))
        return sign(store, keys, ttl_s=ttl_s)

    monkeypatch.setattr(ObjectStore, "erase_presigned", late)
    monkeypatch.setattr(ObjectStore, "presign_erase", counted)
    monkeypatch.setattr("workers.erasures.PORTION", 2)
    # What came too late is signed anew, as long as anything goes.
    assert is_done(department, erasure) is (refused == 1)
    assert stored(department, [rows]) == ([] if refused == 1 else [rows])
    assert max(signed) == 2
    monkeypatch.undo()
    assert is_done(department, erasure)
    assert stored(department, [rows]) == []
    (told,) = department.audited("file.erased")
    manifest = Manifest.model_validate(department.versions(job)[0].manifest, strict=False)
    # The rows, the adapter's files, their signature and their provenance.
    assert (told.details["objects"], told.details["objects_kept"]) == (1 + len(manifest.files) + 2, 0)


@pytest.mark.parametrize("point", ["erasure.marked", "erasure.objects_gone"])
def test_a_sweeper_that_is_killed_in_the_middle_is_followed_by_another(
    *, department: Any, fake: Any, start: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    job = department.submit_queued(steps=4, checkpoint_every=2)
    assert department.worker(fake()).run_next()
    (version,) = department.versions(job)
    manifest = Manifest.model_validate(version.manifest, strict=False)
    digests = [department.job(job).spec["data"]["train"], *(file.digest for file in manifest.files)]
    # The confirmation rings for it.
    erasure = agreed(department, department.job(job).training_file_id, RunningJobs.STOP)

    monkeypatch.setenv("TSUGIKI_FAILPOINTS", f"{point}=kill")
    killed = start("-m", "workers.main", "sweep")
    wait_for(lambda: killed.poll() is not None, within_s=60, what="the sweeper is killed")
    assert killed.returncode == KILLED
    assert state_of(department, erasure) is ErasureState.ERASING
    assert stored(department, digests) == (digests if point == "erasure.marked" else [])

    monkeypatch.delenv("TSUGIKI_FAILPOINTS")
    start("-m", "workers.main", "sweep")
    department.runtime.queue.send_task(SWEEP_TASK, args=[], queue=SWEEP_QUEUE)
    wait_for(lambda: state_of(department, erasure) is ErasureState.DONE, within_s=60, what="another goes on")
    assert stored(department, digests) == []
    assert stored_checkpoints(department) == []
    assert len(department.audited("file.erased")) == 1
    assert len(department.audited("adapter.version.revoked")) == 1
