"""What leaves the object store: checkpoints that nobody will go on from, and objects that no row names.

A row is marked before its objects go: they are then no row's, and if whoever marked it dies, a later sweep collects
them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from domain import access
from domain.audit import AuditEvent
from domain.digests import Manifest
from domain.jobs import TERMINAL, JobState
from domain.retention import KEPT_CHECKPOINTS, expires_at, notice
from models_db.jobs import Job, JobCheckpoint
from models_db.retention import StorageSweep
from services import audit, blobs
from services.blobs import Announced
from services.jobs import tell
from storage.keys import Key
from storage.listing import StoredObject

# Jobs looked after in one transaction.
_AT_ONCE = 100


@dataclass(frozen=True)
class ErasedCheckpoint:
    """A checkpoint that is marked as erased; its objects may go."""

    department: UUID
    job: UUID
    epoch: int
    step: int
    manifest: Manifest

    @property
    def keys(self) -> Iterator[Key]:
        """Where its files lie."""
        for file in self.manifest.files:
            yield Key.checkpoint(self.department, self.job, epoch=self.epoch, step=self.step, name=file.path)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def keep_newest(session: Session, job: Job) -> list[ErasedCheckpoint]:
    """Mark all but the newest good checkpoints of a job. The caller holds the job's lease, and its row's lock.

    Nobody reads what is marked: the only claim that may is the caller's, which has written newer ones.
    """
    stored = session.scalars(
        select(JobCheckpoint)
        .where(JobCheckpoint.job_id == job.id, JobCheckpoint.erased_at.is_(None))
        .order_by(JobCheckpoint.step.desc(), JobCheckpoint.epoch.desc())
    ).all()
    kept = [checkpoint for checkpoint in stored if checkpoint.rejected_at is None][:KEPT_CHECKPOINTS]
    return _mark(session, [checkpoint for checkpoint in stored if checkpoint not in kept])


def warn(session: Session, ttl: timedelta) -> int:
    """Tell each finished job once that its checkpoints will be erased. How many jobs."""
    due = Job.checkpoints_warned_at.is_(None), Job.finished_at <= func.now() - (ttl - notice(ttl))
    found = _finished(session, *due)
    now = session.execute(select(func.now())).scalar_one()
    for job in found:
        job.checkpoints_warned_at = now
        if job.finished_at is not None:
            end = expires_at(job.finished_at, now, ttl)
            tell(session, job, f"The job's checkpoints will be erased on {end:%Y-%m-%d at %H:%M} UTC.", level="warn")
    return len(found)


def expire(session: Session, ttl: timedelta) -> list[ErasedCheckpoint]:
    """Mark the checkpoints of finished jobs whose time is over; no job that can still be claimed is one of them."""
    due = Job.checkpoints_warned_at <= func.now() - notice(ttl), Job.finished_at <= func.now() - ttl
    return [erased for job in _finished(session, *due) for erased in _expire(session, job)]


def _finished(session: Session, *due: ColumnElement[bool]) -> Sequence[Job]:
    """Finished jobs with checkpoints, locked. Another sweeper's are left to it."""
    stored = select(JobCheckpoint.id).where(JobCheckpoint.job_id == Job.id, JobCheckpoint.erased_at.is_(None))
    statement = select(Job).where(Job.state.in_(TERMINAL), stored.exists(), *due).order_by(Job.finished_at)
    return session.scalars(statement.limit(_AT_ONCE).with_for_update(skip_locked=True)).all()


def _expire(session: Session, job: Job) -> list[ErasedCheckpoint]:
    stored = select(JobCheckpoint).where(JobCheckpoint.job_id == job.id, JobCheckpoint.erased_at.is_(None))
    erased = _mark(session, session.scalars(stored.order_by(JobCheckpoint.step)).all())
    tell(session, job, "The job's checkpoints were erased.")
    audit.record(
        session,
        access.system(job.department_id),
        AuditEvent.CHECKPOINTS_EXPIRED,
        resource=("job", job.id),
        details={
            "checkpoints": len(erased),
            "bytes": sum(checkpoint.manifest.total_bytes for checkpoint in erased),
            "steps": [checkpoint.step for checkpoint in erased],
        },
    )
    return erased


def give_up(session: Session, job: Job) -> list[ErasedCheckpoint]:
    """Mark every checkpoint of an ended job. The answer is all that it ever had, each time: objects may be left."""
    stored = select(JobCheckpoint).where(JobCheckpoint.job_id == job.id)
    checkpoints = session.scalars(stored.order_by(JobCheckpoint.step)).all()
    _mark(session, [checkpoint for checkpoint in checkpoints if checkpoint.erased_at is None])
    return [_erased(checkpoint) for checkpoint in checkpoints]


def _mark(session: Session, checkpoints: Sequence[JobCheckpoint]) -> list[ErasedCheckpoint]:
    marked = JobCheckpoint.id.in_([checkpoint.id for checkpoint in checkpoints])
    session.execute(update(JobCheckpoint).where(marked).values(erased_at=func.now()))
    return [_erased(checkpoint) for checkpoint in checkpoints]


def _erased(checkpoint: JobCheckpoint) -> ErasedCheckpoint:
    return ErasedCheckpoint(
        department=checkpoint.department_id,
        job=checkpoint.job_id,
        epoch=checkpoint.epoch,
        step=checkpoint.step,
        manifest=Manifest.model_validate(checkpoint.manifest, strict=False),
    )


# --- objects that no row names ----------------------------------------------------------------------------------------


def orphans(session: Session, objects: Sequence[StoredObject]) -> list[StoredObject]:
    """Those of the objects that no row names: blobs at this moment, files of checkpoints for ever."""
    digests = {digest for stored in objects if (digest := stored.key.blob_digest)}
    unnamed = blobs.unnamed(session, digests)
    return [stored for stored in objects if stored.key.blob_digest in unnamed] + _of_dead_checkpoints(session, objects)


def _of_dead_checkpoints(session: Session, objects: Sequence[StoredObject]) -> list[StoredObject]:
    """Files of checkpoints that are erased, or were never entered and cannot be.

    Only a lease of the checkpoint's own epoch enters it, and epochs grow: what no lease can enter now, none ever will.
    """
    placed = [(stored, place) for stored in objects if (place := stored.key.checkpoint_place)]
    jobs = {place.job for _stored, place in placed}
    # Asked first: what a lease enters and then ends between the two questions is found by the second.
    running = select(Job.id, Job.epoch).where(Job.id.in_(jobs), Job.state == JobState.RUNNING)
    leased = {tuple(row) for row in session.execute(running)}
    stored_rows = select(JobCheckpoint.job_id, JobCheckpoint.epoch, JobCheckpoint.step).where(
        JobCheckpoint.job_id.in_(jobs), JobCheckpoint.erased_at.is_(None)
    )
    kept = {tuple(row) for row in session.execute(stored_rows)}
    return [stored for stored, place in placed if place not in kept and (place.job, place.epoch) not in leased]


def announce_orphans(session: Session, department: UUID, found: Sequence[StoredObject]) -> Announced:
    """Announce the erasing of the orphans; blobs that are a row's by now are not of them any more.

    Told to the audit trail beforehand: nothing is erased without its event.
    """
    announced = blobs.announce(session, department, {digest for stored in found if (digest := stored.key.blob_digest)})
    doomed = [stored for stored in found if stored.key.blob_digest in {None, *announced.digests}]
    if doomed:
        audit.record(
            session,
            access.system(department),
            AuditEvent.ORPHANS_ERASED,
            details={
                "blobs": len(announced.digests),
                "checkpoint_files": len(doomed) - len(announced.digests),
                "bytes": sum(stored.size_bytes for stored in doomed),
            },
        )
    return announced


# --- whose turn it is -------------------------------------------------------------------------------------------------


def next_due(session: Session) -> UUID | None:
    """The department whose objects wait longest to be looked at, from a platform session."""
    return session.execute(text("SELECT department_id FROM storage_sweeps_due(1)")).scalar_one_or_none()


def begin_sweep(session: Session, department: UUID, *, every_s: float) -> str | None:
    """Take a department's turn: the key after which to look on. None where another sweeper has taken it."""
    later = func.now() + timedelta(seconds=every_s)
    adding = insert(StorageSweep).values(department_id=department, due_at=later)
    return session.execute(
        adding.on_conflict_do_update(
            index_elements=[StorageSweep.department_id],
            set_={"due_at": adding.excluded.due_at},
            where=StorageSweep.due_at <= func.now(),
        ).returning(StorageSweep.swept_to)
    ).scalar_one_or_none()


def end_sweep(session: Session, department: UUID, *, swept_to: str | None) -> None:
    """Remember how far it came: it is its turn again at once, or, from the beginning, when the time is there."""
    values = {"swept_to": ""} if swept_to is None else {"swept_to": swept_to, "due_at": func.now()}
    session.execute(update(StorageSweep).where(StorageSweep.department_id == department).values(values))
