"""The right to run a job: renewed, ended, and lost. Every side effect of a worker goes through `hold`.

Times are the database's: a worker's clock decides nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import exists, func, select, text, update
from sqlalchemy.orm import Session

from domain import access
from domain.audit import AuditEvent, Outcome
from domain.digests import Manifest
from domain.failpoints import FailPoint, failpoint
from domain.jobs import MAX_ATTEMPTS, MAX_STALLS, JobState
from domain.plans import RunReport
from domain.refusals import LeaseLost
from models_db.jobs import Job, JobCheckpoint, Lease
from models_db.workers import Worker
from services import audit, usage
from services.claims import Claim, ResumePoint, later, newest_checkpoint, tokens_at
from services.jobs import close, pause, queue, tell
from services.retention import ErasedCheckpoint, keep_newest

# The error and the lease's end where the kernel killed ranks because the machine's memory was used up.
OOM_KILLED = "oom_killed"


@dataclass(frozen=True)
class JobError:
    """Why a job failed, for its department."""

    code: str
    message: str
    param: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """The client's `error` object."""
        return {"code": self.code, "message": self.message, "param": self.param}


class Asked(NamedTuple):
    """What somebody wants of a running job."""

    to_cancel: bool
    to_give_back: bool


def renew(session: Session, held: Claim, *, lease_s: float) -> Asked:
    """Extend a living lease; what was asked of the job. Raises LeaseLost: kill the ranks, touch nothing."""
    alive = session.execute(
        update(Lease)
        .where(Lease.id == held.lease, Lease.ended_at.is_(None), Lease.expires_at > func.clock_timestamp())
        .values(expires_at=later(session, lease_s))
        .returning(Lease.id)
    ).one_or_none()
    if alive is None:
        raise LeaseLost("The lease has ended.")
    requested = session.execute(
        select(Job.cancel_requested_at, Job.pause_requested_at, Job.preempt_requested_at, Worker.release_asked_at)
        .join(Lease, Lease.id == Job.lease_id)
        .outerjoin(Worker, Worker.id == Lease.worker_id)
        .where(Job.id == held.job, Job.epoch == held.epoch, Job.lease_id == held.lease, Job.state == JobState.RUNNING)
    ).one_or_none()
    if requested is None:
        raise LeaseLost("The job is no longer this worker's.")
    failpoint(FailPoint.RENEW_IN_TX)
    to_cancel, *to_give_back = (asked_at is not None for asked_at in requested)
    return Asked(to_cancel=to_cancel, to_give_back=any(to_give_back))


def hold(session: Session, held: Claim) -> Job:
    """Lock the job for a side effect of this claim. Raises LeaseLost when it is not this worker's any more."""
    found = session.scalars(
        select(Job)
        .join(Lease, Lease.id == Job.lease_id)
        .where(
            Job.id == held.job,
            Job.epoch == held.epoch,
            Job.lease_id == held.lease,
            Job.state == JobState.RUNNING,
            Lease.ended_at.is_(None),
            Lease.expires_at > func.clock_timestamp(),
        )
        .with_for_update()
    ).one_or_none()
    if found is None:
        raise LeaseLost("The lease has ended, or the job is no longer this worker's.")
    return found


def record_progress(
    session: Session, held: Claim, progress: Mapping[str, Any], events: Sequence[Mapping[str, Any]]
) -> None:
    """Keep the newest progress on the job, and each of `events` (metrics) as a line of its story."""
    job = hold(session, held)
    job.progress = dict(progress) | {"epoch": held.epoch}
    for event in events:
        tell(session, job, _metrics_line(event), data=event)


def _metrics_line(event: Mapping[str, Any]) -> str:
    loss = event.get("train_loss", event.get("valid_loss"))
    shown = "" if loss is None else f": {'training' if 'train_loss' in event else 'validation'} loss={loss:.4f}"
    return f"Step {event.get('step')}/{event.get('total_steps')}{shown}"


def record_checkpoint(
    session: Session, held: Claim, *, step: int, manifest: Manifest, metrics: Mapping[str, Any]
) -> list[ErasedCheckpoint]:
    """Enter a checkpoint whose objects are all in storage. The job has made progress: its stalls are forgotten.

    Older ones than the one before it are marked as erased; the caller removes their objects after the commit.
    """
    job = hold(session, held)
    entered = (JobCheckpoint.job_id == job.id, JobCheckpoint.epoch == held.epoch, JobCheckpoint.step == step)
    if session.scalar(select(exists().where(*entered))):
        # The answer to its commit was lost.
        return []
    checkpoint = JobCheckpoint(
        department_id=job.department_id,
        job_id=job.id,
        epoch=held.epoch,
        step=step,
        manifest=manifest.model_dump(mode="json"),
        metrics=dict(metrics),
    )
    session.add(checkpoint)
    job.stalls = 0
    session.flush()
    erased = keep_newest(session, job)
    audit.record(
        session,
        access.system(job.department_id),
        AuditEvent.JOB_CHECKPOINTED,
        resource=("job", job.id),
        details={
            "epoch": held.epoch,
            "step": step,
            "digest": manifest.digest,
            "erased_steps": [checkpoint.step for checkpoint in erased],
        },
    )
    failpoint(FailPoint.CHECKPOINT_IN_TX)
    return erased


def reject_checkpoint(session: Session, held: Claim, resume: ResumePoint) -> ResumePoint | None:
    """A checkpoint's bytes are gone or do not match their digests: never use it again. The one before it, if any."""
    job = hold(session, held)
    session.execute(update(JobCheckpoint).where(JobCheckpoint.id == resume.checkpoint).values(rejected_at=func.now()))
    tell(session, job, f"The checkpoint of step {resume.step} was damaged; an earlier one is used.", level="warn")
    audit.record(
        session,
        access.system(job.department_id),
        AuditEvent.CHECKPOINT_REJECTED,
        resource=("job", job.id),
        outcome=Outcome.FAILURE,
        details={"step": resume.step, "digest": resume.manifest.digest},
    )
    earlier = newest_checkpoint(session, job.id)
    session.execute(update(Lease).where(Lease.id == held.lease).values(resumed_tokens=tokens_at(job, earlier)))
    return earlier


def release(session: Session, held: Claim) -> None:
    """Give the job back unfinished: another worker continues from its newest checkpoint. It counts as no attempt."""
    job = hold(session, held)
    job.stalls = max(0, job.stalls - 1)
    _requeue(session, job, held.lease, "released")
    audit.record(
        session,
        access.system(job.department_id),
        AuditEvent.JOB_RELEASED,
        resource=("job", job.id),
        details={"epoch": held.epoch},
    )


def _requeue(session: Session, job: Job, lease: UUID, reason: str) -> None:
    if job.cancel_requested_at is not None:
        _cancel(session, job, lease)
        return
    end(session, job, lease, reason)
    job.preempt_requested_at = None
    if job.pause_requested_at is not None:
        pause(session, access.system(job.department_id), job)
        return
    queue(session, job)
    tell(session, job, "The job waits for a worker again.")


def end(session: Session, job: Job, lease: UUID, reason: str, *, report: RunReport | None = None) -> None:
    """End a lease of its locked job and record what it took; renewing it fails from now on. Every end comes by here.

    report: of the run, where it finished.
    """
    # A lost worker has let go of its devices by the end of its lease, however late that is noticed. And a clock that is
    # set back must not keep a lease from ending: then it took no time.
    ended_at = func.greatest(Lease.acquired_at, func.least(func.clock_timestamp(), Lease.expires_at))
    ended = session.execute(
        update(Lease)
        .where(Lease.id == lease, Lease.ended_at.is_(None))
        .values(ended_at=ended_at, end_reason=reason)
        .returning(Lease.ended_at)
    ).one_or_none()
    if ended is not None:
        taken = session.get_one(Lease, lease)
        usage.charge(session, job, taken, ended_at=ended.ended_at, reason=reason, report=report)


def retry_or_fail(session: Session, held: Claim, error: JobError) -> None:
    """The attempt broke without saying why. Try again, unless that was the last of them."""
    job = hold(session, held)
    if job.cancel_requested_at is None and _is_last(session, job):
        _fail(session, job, held.lease, error)
        return
    _retry(session, job, held, error, reason="failed")


def retry_once(session: Session, held: Claim, error: JobError) -> None:
    """The attempt ended for what may have been others' doing. Try again, unless the job ended an attempt so before."""
    job = hold(session, held)
    ended_so_before = usage.ended_before(session, job.id, reason=error.code)
    if job.cancel_requested_at is None and (ended_so_before or _is_last(session, job)):
        _fail(session, job, held.lease, error)
        return
    _retry(session, job, held, error, reason=error.code)


def _is_last(session: Session, job: Job) -> bool:
    """Whether the attempt that is about to end badly is the MAX_STALLS-th without progress, or the MAX_ATTEMPTS-th."""
    return job.stalls >= MAX_STALLS or usage.failed_attempts(session, job.id) + 1 >= MAX_ATTEMPTS


def _retry(session: Session, job: Job, held: Claim, error: JobError, *, reason: str) -> None:
    tell(session, job, f"The attempt ended: {error.message}", level="warn")
    _requeue(session, job, held.lease, reason)


def fail(session: Session, held: Claim, error: JobError) -> None:
    """The job cannot succeed: close it with its reason."""
    _fail(session, hold(session, held), held.lease, error)


def _fail(session: Session, job: Job, lease: UUID, error: JobError) -> None:
    job.error = dict(error.as_dict())
    close(session, job, JobState.FAILED)
    end(session, job, lease, "failed")
    tell(session, job, error.message, level="error")
    audit.record(
        session,
        access.system(job.department_id),
        AuditEvent.JOB_FAILED,
        resource=("job", job.id),
        outcome=Outcome.FAILURE,
        reason=error.code,
        details={"epoch": job.epoch},
    )


def cancel(session: Session, held: Claim) -> None:
    """The ranks of a job whose cancellation was asked for are gone: close it."""
    _cancel(session, hold(session, held), held.lease)


def _cancel(session: Session, job: Job, lease: UUID) -> None:
    close(session, job, JobState.CANCELLED)
    end(session, job, lease, "cancelled")
    tell(session, job, "The job was cancelled.")
    audit.record(
        session,
        access.system(job.department_id),
        AuditEvent.JOB_CANCELLED,
        resource=("job", job.id),
        details={"epoch": job.epoch},
    )


def to_preempt(session: Session, *, after_s: float, half_life_s: float) -> Sequence[tuple[UUID, UUID]]:
    """(job, department) of running jobs that should make room for a more urgent one, from a platform session.

    after_s: how long the more urgent one has waited at least.
    """
    rows = session.execute(
        text("SELECT job_id, department_id FROM preemptable_jobs(:after_s, :half_life_s)"),
        {"after_s": after_s, "half_life_s": half_life_s},
    )
    return [(row.job_id, row.department_id) for row in rows]


def preempt(session: Session, job: UUID) -> None:
    """Ask the worker of a running job for a checkpoint and its device; the job queues again."""
    found = session.scalars(
        select(Job)
        .where(Job.id == job, Job.state == JobState.RUNNING, Job.preempt_requested_at.is_(None))
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if found is None:
        return
    found.preempt_requested_at = session.scalar(select(func.now()))
    tell(session, found, "A more urgent job of the department takes its place; this one queues again.")
    audit.record(
        session,
        access.system(found.department_id),
        AuditEvent.JOB_PREEMPTED,
        resource=("job", job),
        details={"epoch": found.epoch, "priority": found.priority},
    )


def expired(session: Session) -> Sequence[tuple[UUID, UUID]]:
    """(job, department) of running jobs whose lease ran out, from a platform session."""
    rows = session.execute(text("SELECT job_id, department_id FROM expired_leases()"))
    return [(row.job_id, row.department_id) for row in rows]


def expire(session: Session, job: UUID) -> None:
    """Take a job from a worker that no longer renews: back to the queue, or closed if cancelled or poison."""
    found = session.scalars(
        select(Job)
        .join(Lease, Lease.id == Job.lease_id)
        .where(Job.id == job, Job.state == JobState.RUNNING, Lease.expires_at < func.clock_timestamp())
        .with_for_update(of=Job, skip_locked=True)
    ).one_or_none()
    if found is None or found.lease_id is None:
        return
    lease = found.lease_id
    audit.record(
        session,
        access.system(found.department_id),
        AuditEvent.LEASE_LOST,
        resource=("job", job),
        refs=[lease],
        outcome=Outcome.FAILURE,
        details={"epoch": found.epoch, "stalls": found.stalls},
    )
    if found.cancel_requested_at is None and _is_last(session, found):
        lost = f"{MAX_STALLS} workers in a row were lost on this job without any progress"
        _fail(session, found, lease, JobError("poison_job", f"{lost}, or {MAX_ATTEMPTS} attempts at it altogether."))
    else:
        tell(session, found, "The worker was lost.", level="warn")
        _requeue(session, found, lease, "expired")
    failpoint(FailPoint.EXPIRE_IN_TX)


def to_nudge(session: Session, older_than_s: float) -> Sequence[tuple[UUID, JobState]]:
    """(job, state) of those that wait and were not rung for lately, from a platform session."""
    rows = session.execute(text("SELECT job_id, state FROM jobs_to_nudge(:seconds)"), {"seconds": older_than_s})
    return [(row.job_id, JobState(row.state)) for row in rows]
