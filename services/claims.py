"""Whose turn it is, and the taking of it: a job, or several small ones, each under a lease of its own.

Times are the database's: a worker's clock decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, text, true, update
from sqlalchemy.orm import Session

from domain import access
from domain.audit import AuditEvent
from domain.digests import Manifest
from domain.failpoints import FailPoint, failpoint
from domain.jobs import JobState, check_transition
from domain.outgoing import OutgoingKind
from domain.runs import RunSpec
from domain.usage import UNCHARGED, Rate
from models_db.base_models import BaseModel
from models_db.departments import Department
from models_db.jobs import Job, JobCheckpoint, Lease
from models_db.sessions import enter_department, take_lock
from models_db.workers import Worker
from services import audit, outbox, parents, usage, workers
from services.base_models import manifest_of
from services.jobs import tell
from services.parents import ParentFiles


@dataclass(frozen=True)
class ResumePoint:
    """The newest complete checkpoint of a job."""

    checkpoint: UUID
    epoch: int
    step: int
    manifest: Manifest
    # What the run had trained on by then; None where it was not told.
    trained_tokens: int | None


@dataclass(frozen=True)
class Claim:
    """What a worker holds: the job, the lease, the epoch that every write must name, and what to fetch.

    worker: its id in the registry, or its name where it is in none.
    """

    job: UUID
    adapter: str
    worker: str
    department: UUID
    lease: UUID
    epoch: int
    spec: RunSpec
    base_model: Manifest
    resume: ResumePoint | None
    parent: ParentFiles | None = None


@dataclass(frozen=True)
class Batching:
    """How many small jobs of a department one process trains together. max_tokens: of a small one, over its epochs."""

    max_jobs: int
    max_tokens: int

    def takes(self, job: Job) -> bool:
        """Whether a queued job is small, and was never tried: one that breaks its process must not break others' twice.

        A job with a checkpoint was tried, and goes on as it began.
        """
        tokens: int | None = (job.estimate or {}).get("trained_tokens")
        return job.epoch == 0 and tokens is not None and tokens <= self.max_tokens


ALONE = Batching(max_jobs=1, max_tokens=0)
# Waiting jobs that are looked at for each that may be taken.
LOOK_PER_JOB = 4


def claim_next(
    session: Session,
    *,
    worker: str,
    lease_s: float,
    half_life_s: float,
    rate: Rate = UNCHARGED,
    worker_id: UUID | None = None,
    batching: Batching = ALONE,
) -> Sequence[Claim]:
    """Take the first job of the fair order, in a platform session, which from then on is that job's department's.

    A small one with others of its kind, each under a lease of its own. Nothing where nobody waits whom this worker may
    take. half_life_s: in which a department's use counts for half.
    """
    # Two workers that decide at once would both see the departments as they were before either.
    take_lock(session, "claims")
    for job, department in _candidates(session, half_life_s, worker_id):
        enter_department(session, department)
        batch = _batch_of(session, job, batching, worker_id)
        shared = replace(rate, shared_by=len(batch))
        claims = [
            claim(session, each, worker=worker, lease_s=lease_s, rate=shared, worker_id=worker_id) for each in batch
        ]
        if held := [each for each in claims if each is not None]:
            return held
    return []


def _batch_of(session: Session, first: UUID, batching: Batching, worker_id: UUID | None) -> Sequence[UUID]:
    """The job, and after it the small ones on the same base model that one process can train together with it.

    All are locked: each is charged for its part of the worker. None where the first cannot be taken.
    """
    job = _waiting_job(session, first, worker_id)
    if job is None:
        return []
    if not batching.takes(job) or batching.max_jobs == 1:
        return [first]
    department = session.get_one(Department, job.department_id)
    running = select(func.count()).select_from(Job).where(Job.state == JobState.RUNNING)
    room = batching.max_jobs
    if department.max_running_jobs is not None:
        room = min(room, department.max_running_jobs - (session.scalar(running) or 0))
    waiting = session.scalars(
        select(Job)
        .where(Job.state == JobState.QUEUED, Job.base_model_id == job.base_model_id, Job.id != first)
        .where(_fits(session.get(Worker, worker_id) if worker_id else None))
        .order_by(Job.priority.desc(), Job.id)
        .limit(LOOK_PER_JOB * batching.max_jobs)
        .with_for_update(skip_locked=True)
    )
    mates = [each.id for each in waiting if batching.takes(each)]
    return [first, *mates[: max(0, room - 1)]]


def _candidates(
    session: Session, half_life_s: float, worker_id: UUID | None, limit: int = 20
) -> Sequence[tuple[UUID, UUID]]:
    """(job, department) of queued jobs, in the order of `domain.fair_share`; a registered worker's that fit it."""
    rows = session.execute(
        text("SELECT job_id, department_id FROM claimable_jobs(:limit, :half_life_s, :worker_id)"),
        {"limit": limit, "half_life_s": half_life_s, "worker_id": worker_id},
    )
    return [(row.job_id, row.department_id) for row in rows]


def claim(
    session: Session,
    job: UUID,
    *,
    worker: str,
    lease_s: float,
    rate: Rate = UNCHARGED,
    worker_id: UUID | None = None,
) -> Claim | None:
    """Take one queued job in its department's session; None where another worker has it or it no longer waits.

    rate: what the lease is charged by; nothing where none is given. worker_id is a registered worker's: one that
    drains, or has too little memory, gets none.
    """
    found = _waiting_job(session, job, worker_id)
    if found is None:
        return None
    resume = newest_checkpoint(session, job)
    lease = _lease_of(session, found, resume, worker=worker, lease_s=lease_s, rate=rate)
    lease.worker_id = worker_id
    session.add(lease)
    session.flush()
    check_transition(JobState(found.state), JobState.RUNNING)
    found.state, found.lease_id = JobState.RUNNING, lease.id
    found.epoch += 1
    found.stalls += 1
    if found.started_at is None:
        found.started_at = lease.acquired_at
        outbox.announce_job(session, OutgoingKind.JOB_STARTED, found)
    session.execute(update(Department).where(Department.id == found.department_id).values(served_at=func.now()))
    tell(session, found, f"The job is running{f', from step {resume.step}' if resume else ''}.")
    audit.record(
        session,
        access.system(found.department_id),
        AuditEvent.JOB_CLAIMED,
        resource=("job", job),
        refs=[lease.id],
        details={
            "epoch": found.epoch,
            "worker": worker,
            "resume_step": resume.step if resume else None,
            "batch_jobs": rate.shared_by,
        },
    )
    failpoint(FailPoint.CLAIM_IN_TX)
    return Claim(
        job=job,
        adapter=found.adapter_name,
        worker=str(worker_id or worker),
        department=found.department_id,
        lease=lease.id,
        epoch=found.epoch,
        spec=RunSpec.model_validate(found.spec, strict=False),
        base_model=manifest_of(session.get_one(BaseModel, found.base_model_id)),
        resume=resume,
        parent=parents.files_of(session, found.parent_version_id) if found.parent_version_id else None,
    )


def _waiting_job(session: Session, job: UUID, worker_id: UUID | None) -> Job | None:
    """The job, locked, if it waits and this worker may take it."""
    registered = workers.admitted(session, worker_id) if worker_id else None
    if worker_id and registered is None:
        return None
    waiting = select(Job).where(Job.id == job, Job.state == JobState.QUEUED, _fits(registered))
    return session.scalars(waiting.with_for_update(skip_locked=True)).one_or_none()


def _fits(worker: Worker | None) -> ColumnElement[bool]:
    """Whether the worker has the memory for a job; one that is not registered takes any."""
    return func.fits(Job.memory_bytes, worker.memory_bytes, worker.weight_bits) if worker else true()


def _lease_of(
    session: Session, job: Job, resume: ResumePoint | None, *, worker: str, lease_s: float, rate: Rate
) -> Lease:
    # A run keeps the ranks it began with, whatever this worker's settings are.
    ranks = usage.ranks_before(session, job.id) if resume else None
    return Lease(
        department_id=job.department_id,
        worker=worker,
        expires_at=later(session, lease_s),
        ranks=ranks or rate.ranks,
        device=rate.device,
        shared_by=rate.shared_by,
        price_per_gpu_hour=rate.price_per_gpu_hour,
        resumed_tokens=tokens_at(job, resume),
    )


def tokens_at(job: Job, resume: ResumePoint | None) -> int:
    """What the job had trained on where it goes on from: an earlier lease's."""
    if resume is None:
        return 0
    if resume.trained_tokens is not None:
        return resume.trained_tokens
    told: int = (job.progress or {}).get("trained_tokens", 0)
    return told


def later(session: Session, seconds: float) -> datetime:
    """So many seconds from now, by the database's clock."""
    time: datetime = session.execute(
        text("SELECT clock_timestamp() + make_interval(secs => :seconds)"), {"seconds": seconds}
    ).scalar_one()
    return time


def newest_checkpoint(session: Session, job: UUID) -> ResumePoint | None:
    """What a job goes on from; None for the beginning."""
    found = session.scalars(
        select(JobCheckpoint)
        .where(JobCheckpoint.job_id == job, JobCheckpoint.rejected_at.is_(None), JobCheckpoint.erased_at.is_(None))
        .order_by(JobCheckpoint.step.desc(), JobCheckpoint.epoch.desc())
        .limit(1)
    ).one_or_none()
    if found is None:
        return None
    manifest = Manifest.model_validate(found.manifest, strict=False)
    return ResumePoint(
        checkpoint=found.id,
        epoch=found.epoch,
        step=found.step,
        manifest=manifest,
        trained_tokens=found.metrics.get("trained_tokens"),
    )
