"""Erasing a file with all that learned from it: a dry run, a second person, and work that goes on after a crash.

Whoever keeps the data asks, and sees what descends from it; an admin who is somebody else agrees to exactly that. From
that commit on nothing of it is handed out. Objects go afterwards: what is to go can be told from the rows at any time,
so whoever dies in between is followed by a sweeper that does the same again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from domain import access
from domain.access import Permission, Principal, require
from domain.audit import AuditEvent
from domain.digests import Digest
from domain.erasures import (
    DescendedJob,
    DescendedVersion,
    ErasurePlan,
    ErasureState,
    Holder,
    RunningJobs,
    Served,
)
from domain.ids import IdKind, public_id
from domain.jobs import TERMINAL, JobState
from domain.refusals import DigestChanged, ErasureClosed, ErasureUnderWay, NotFound, SeparationOfDuties
from models_db.adapters import AdapterVersion
from models_db.file_erasures import FileErasure
from models_db.files import File
from services import audit, descent, jobs, retention, versions
from services.cursors import known_cursor
from services.deployments import LOADED
from services.descent import Descendant
from services.doorbell import nudge_erasure
from services.lineage import holder_id
from services.retention import ErasedCheckpoint

_OPEN = (ErasureState.REQUESTED, ErasureState.ERASING)
REASON = "a file that it learned from is erased"


@dataclass(frozen=True)
class Erasure:
    """A request, and what descends from the file: as of now, or as it was agreed to."""

    request: FileErasure
    plan: ErasurePlan


def request(session: Session, principal: Principal, file: UUID, *, reason: str, running_jobs: RunningJobs) -> Erasure:
    """Ask for a file to be erased, and see what descends from it. Nothing else happens yet.

    Raises NotFound, ErasureUnderWay, and SeparationOfDuties where no person stands behind the key.
    """
    require(principal, Permission.FILE_ERASE)
    found = session.get(File, file, with_for_update=True)
    if found is None:
        raise NotFound("No such file.")
    under_way = select(FileErasure.id).where(FileErasure.file_id == file, FileErasure.state.in_(_OPEN))
    if session.scalars(under_way).first() is not None:
        raise ErasureUnderWay("The erasing of this file has been asked for already.")
    made = FileErasure(
        department_id=found.department_id,
        file_id=file,
        state=ErasureState.REQUESTED,
        running_jobs=running_jobs,
        reason=reason,
        requested_by=principal.id,
        requested_human=_person(principal),
    )
    session.add(made)
    session.flush()
    asked = Erasure(made, plan_of(session, found))
    _record(session, principal, AuditEvent.FILE_ERASURE_REQUESTED, asked)
    return asked


def _person(principal: Principal) -> UUID:
    if principal.human is None:
        raise SeparationOfDuties("People decide what is erased: nobody is known to stand behind this key.")
    return principal.human


def plan_of(session: Session, file: File) -> ErasurePlan:
    """All that descends from a file at this moment."""
    descended = descent.descents(session, file.id)
    placed = descent.placed(session, descended)
    names = {each.version.id: _name(each) for each in placed}
    return ErasurePlan(
        file=public_id(IdKind.FILE, file.id),
        digest_of_file=file.digest,
        versions=tuple(_version(each, names) for each in placed),
        jobs=tuple(
            DescendedJob(id=public_id(IdKind.JOB, each.job.id), state=each.job.state, checkpoints=each.checkpoints)
            for each in descent.jobs_of(session, file.id, descent.learned(descended))
        ),
        evaluations=tuple(public_id(IdKind.EVALUATION, each.id) for each in descent.evaluations_on(session, file.id)),
        holders=tuple(
            Holder(holder=holder_id(held), version=_name(each), times=held.times, last_at=int(held.last_at.timestamp()))
            for each in placed
            for held in each.holders
        ),
        deployments=tuple(
            Served(server=served.server, version=_name(each))
            for each in placed
            for served in each.deployments
            if served.state == LOADED
        ),
        same_bytes=tuple(public_id(IdKind.FILE, twin) for twin in descent.twins(session, file.id, file.digest)),
    )


def _name(each: Descendant) -> str:
    return f"{each.adapter}@{each.version.number}"


def _version(each: Descendant, names: dict[UUID, str]) -> DescendedVersion:
    return DescendedVersion(
        id=public_id(IdKind.ADAPTER_VERSION, each.version.id),
        adapter=each.adapter,
        number=each.version.number,
        state=each.version.state,
        relation=each.descent.relation,
        through=names.get(each.descent.through) if each.descent.through else None,
    )


def get(session: Session, principal: Principal, erasure: UUID) -> Erasure:
    """One request, with what descends from its file now, or did when it was confirmed. Raises NotFound."""
    require(principal, Permission.LINEAGE_READ)
    return _with_plan(session, _erasure(session, erasure))


def _with_plan(session: Session, found: FileErasure) -> Erasure:
    if found.plan is not None:
        return Erasure(found, ErasurePlan.model_validate(found.plan, strict=False))
    return Erasure(found, plan_of(session, session.get_one(File, found.file_id)))


def list_page(
    session: Session, principal: Principal, *, after: UUID | None, limit: int
) -> tuple[Sequence[Erasure], bool]:
    """A page of the department's requests, newest first, and whether there are more."""
    require(principal, Permission.LINEAGE_READ)
    statement = select(FileErasure)
    if after is not None:
        statement = statement.where(FileErasure.id < known_cursor(session, FileErasure, after))
    found = session.scalars(statement.order_by(FileErasure.id.desc()).limit(limit + 1)).all()
    return [_with_plan(session, each) for each in found[:limit]], len(found) > limit


def withdraw(session: Session, principal: Principal, erasure: UUID) -> Erasure:
    """Ask for it no more. Raises NotFound, and ErasureClosed once somebody has agreed."""
    require(principal, Permission.FILE_ERASE)
    found = _erasure(session, erasure, lock=True)
    _check_requested(found)
    found.state, found.ended_at = ErasureState.WITHDRAWN, session.scalar(select(func.now()))
    session.flush()
    shown = _with_plan(session, found)
    _record(session, principal, AuditEvent.FILE_ERASURE_WITHDRAWN, shown)
    return shown


def confirm(session: Session, principal: Principal, erasure: UUID, *, digest: Digest) -> Erasure:
    """Agree, as somebody else, to the erasing of exactly what was shown.

    The file is gone for everybody, versions that learned from it are revoked, jobs that read it are cancelled or end by
    themselves; objects follow. Raises NotFound, ErasureClosed, SeparationOfDuties, and DigestChanged.
    """
    require(principal, Permission.FILE_ERASE_CONFIRM)
    found = _erasure(session, erasure, lock=True)
    _check_requested(found)
    person = _person(principal)
    if person == found.requested_human:
        raise SeparationOfDuties("Nobody confirms what they asked for themselves.")
    # Locked: a submit that names the file at this moment is before or after, not beside.
    file = session.get_one(File, found.file_id, with_for_update=True)
    plan = plan_of(session, file)
    if plan.digest != digest:
        raise DigestChanged("Something else descends from the file by now: look again.", param="digest")
    now = session.execute(select(func.now())).scalar_one()
    file.deleted_at = file.deleted_at or now
    descended = descent.descents(session, file.id)
    if found.running_jobs == RunningJobs.STOP:
        for each in _unfinished(session, file.id, descent.learned(descended)):
            jobs.request_cancel(session, principal, each)
    for version in _learned(session, file.id):
        if version.deleted_at is None:
            versions.revoke(session, principal, version, reason=REASON)
    found.state, found.plan = ErasureState.ERASING, plan.model_dump(mode="json")
    found.confirmed_by, found.confirmed_human, found.confirmed_at = principal.id, person, now
    session.flush()
    nudge_erasure(session, found.id)
    agreed = Erasure(found, plan)
    _record(session, principal, AuditEvent.FILE_ERASURE_CONFIRMED, agreed)
    return agreed


def _unfinished(session: Session, file: UUID, parents: Sequence[UUID]) -> list[UUID]:
    found = descent.jobs_of(session, file, parents)
    return [each.job.id for each in found if each.job.state not in TERMINAL]


def _learned(session: Session, file: UUID) -> Sequence[AdapterVersion]:
    learned = descent.learned(descent.descents(session, file))
    return session.scalars(
        select(AdapterVersion).where(AdapterVersion.id.in_(learned)).order_by(AdapterVersion.id)
    ).all()


def _erasure(session: Session, erasure: UUID, *, lock: bool = False) -> FileErasure:
    found = session.get(FileErasure, erasure, with_for_update=lock)
    if found is None:
        raise NotFound("No such erasure.")
    return found


def _check_requested(found: FileErasure) -> None:
    if found.state != ErasureState.REQUESTED:
        raise ErasureClosed(f"This erasure is {found.state}.")


def _record(session: Session, principal: Principal, event: AuditEvent, erasure: Erasure) -> None:
    found, plan = erasure.request, erasure.plan
    audit.record(
        session,
        principal,
        event,
        resource=("file", found.file_id),
        refs=[found.id],
        details={
            "digest": plan.digest,
            "file_digest": plan.digest_of_file,
            "running_jobs": found.running_jobs,
            "versions": len(plan.versions),
            "jobs": len(plan.jobs),
            "holders": len(plan.holders),
            "deployments": len(plan.deployments),
        },
    )


# --- the sweeper's side -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ErasingWork:
    """Whose objects are to go. A blob that another row names stays."""

    blobs: tuple[Digest, ...]
    checkpoints: tuple[ErasedCheckpoint, ...]


def under_way(session: Session) -> Sequence[tuple[UUID, UUID]]:
    """(erasure, department) of those that are confirmed and not done, from a platform session."""
    rows = session.execute(text("SELECT erasure_id, department_id FROM erasures_under_way()"))
    return [(row.erasure_id, row.department_id) for row in rows]


def mark(session: Session, erasure: UUID) -> ErasingWork | None:
    """Leave nothing but tombstones of what is to go, and say which objects that is; the same whenever it is asked.

    None while a job that reads the file has not ended, while somebody else is at it, and when it is done. Versions that
    learned from it are revoked meanwhile, and a job that is paused is cancelled.
    """
    found = session.scalars(
        select(FileErasure)
        .where(FileErasure.id == erasure, FileErasure.state == ErasureState.ERASING)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if found is None:
        return None
    file = session.get_one(File, found.file_id)
    learned = _learned(session, file.id)
    for version in learned:
        # Those that a job made after the confirmation, and nobody has revoked yet: other jobs may take long.
        versions.withdraw(session, access.system(found.department_id), version, reason=REASON)
    readers = descent.jobs_of(session, file.id, [version.id for version in learned])
    for each in readers:
        if each.job.state == JobState.PAUSED:
            # Nobody would have to resume it, ever.
            jobs.cancel_paused(session, access.system(found.department_id), each.job.id)
    if any(each.job.state not in TERMINAL for each in readers):
        return None
    # A job that ended between the two readings has left a version that the first did not see: the next sweep does.
    if {version.id for version in _learned(session, file.id)} != {version.id for version in learned}:
        return None
    for version in learned:
        versions.erase(session, access.system(found.department_id), version, reason=REASON)
    parents = {version.id for version in learned}
    trained = [
        each.job for each in readers if each.job.training_file_id == file.id or each.job.parent_version_id in parents
    ]
    checkpoints = [checkpoint for job in trained for checkpoint in retention.give_up(session, job)]
    digests = {file.digest}.union(*(versions.blobs_of(session, version) for version in learned))
    return ErasingWork(tuple(sorted(digests)), tuple(checkpoints))


def withdraw_made(session: Session, version: AdapterVersion) -> None:
    """Revoke a version that a job has just made, where it learned from a file whose erasing waits for that job."""
    erasing = select(FileErasure.file_id).where(FileErasure.state == ErasureState.ERASING)
    for file in session.scalars(erasing).all():
        if version.id in descent.learned(descent.descents(session, file)):
            versions.withdraw(session, access.system(version.department_id), version, reason=REASON)


def finish(session: Session, erasure: UUID, work: ErasingWork, *, erased: Sequence[Digest]) -> None:
    """Its objects are gone: write down how much that was. Nothing happens where somebody else has done so."""
    found = session.get(FileErasure, erasure, with_for_update=True)
    if found is None or found.state != ErasureState.ERASING:
        return
    learned = _learned(session, found.file_id)
    # A blob that stays is another row's: the same bytes in another file or version.
    result = {
        "objects": len(erased),
        "objects_kept": len(work.blobs) - len(erased),
        "checkpoints": len(work.checkpoints),
        "versions": len(learned),
    }
    found.state, found.result, found.ended_at = ErasureState.DONE, result, session.scalar(select(func.now()))
    session.flush()
    audit.record(
        session,
        access.system(found.department_id),
        AuditEvent.FILE_ERASED,
        resource=("file", found.file_id),
        refs=[found.id, *(version.id for version in learned)],
        details=result,
    )
