"""Jobs as their department sees them: submit, look, pause, resume, cancel."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, Reach, require, require_all
from domain.audit import AuditEvent
from domain.failpoints import FailPoint, failpoint
from domain.job_requests import JobRequest
from domain.jobs import TERMINAL, JobState, check_transition
from domain.outgoing import OutgoingKind
from domain.refusals import Conflict, Denied, IdempotencyKeyReused, NotFound
from models_db.jobs import Job, JobCheckpoint, JobEvent
from models_db.sessions import take_lock
from services import admissions, audit, departments, outbox
from services.admissions import JobLimits
from services.cursors import known_cursor
from services.doorbell import nudge

_ENDED = {
    JobState.SUCCEEDED: OutgoingKind.JOB_SUCCEEDED,
    JobState.FAILED: OutgoingKind.JOB_FAILED,
    JobState.CANCELLED: OutgoingKind.JOB_CANCELLED,
}

# A client that got no answer asks again within this time (the OpenAI client's longest backoff is 8 s, twice).
RETRY_WINDOW_S = 60


def submit(
    session: Session,
    principal: Principal,
    request: JobRequest,
    *,
    limits: JobLimits,
    seed: int,
    is_retry: bool,
    idempotency_key: str | None = None,
) -> Job:
    """Enter a job: row, first event and audit in the caller's transaction; the nudge follows its commit.

    seed is used where the request gives none. A repetition answers with the job already made: where the caller has
    named the submit, one of the same name, at any time; else one that the client calls a repetition (is_retry), by the
    same person with the same API key and within a minute. Raises IdempotencyKeyReused where the name stands for
    another request.
    """
    require(principal, Permission.JOB_SUBMIT)
    # Quota and repetition are decided on what is there: two submits of one department must not decide at once.
    take_lock(session, f"submits of {principal.department}")
    if idempotency_key is not None:
        earlier = _made_under(session, principal, admissions.sha256_of(request), idempotency_key)
    else:
        earlier = _just_made(session, principal, admissions.sha256_of(request)) if is_retry else None
    if earlier is not None:
        return earlier
    departments.require_open(session, principal.department)
    admission = admissions.admit(session, principal, request, limits=limits, seed=seed)
    job = admission.accepted
    job.idempotency_key = idempotency_key
    session.add(job)
    session.flush()
    tell(session, job, "Created fine-tuning job.")
    nudge(session, job)
    files = [file for file in (job.training_file_id, job.validation_file_id, job.evaluation_file_id) if file]
    audit.record(
        session,
        principal,
        AuditEvent.JOB_SUBMITTED,
        resource=("job", job.id),
        refs=[*files, job.base_model_id, *([job.parent_version_id] if job.parent_version_id else [])],
        details={
            "base_model_digest": job.spec["base_model_digest"],
            "training_digest": job.spec["data"]["train"],
            "policy": admission.policy,
        },
    )
    failpoint(FailPoint.SUBMIT_IN_TX)
    return job


def _made_under(session: Session, principal: Principal, request_sha256: str, key: str) -> Job | None:
    found = session.scalars(
        select(Job).where(Job.submitted_by == principal.id, Job.idempotency_key == key)
    ).one_or_none()
    if found is not None and found.request_sha256 != request_sha256:
        raise IdempotencyKeyReused("This key was used for another request.", param="Idempotency-Key")
    return found


def _just_made(session: Session, principal: Principal, request_sha256: str) -> Job | None:
    return session.scalars(
        select(Job)
        .where(
            Job.request_sha256 == request_sha256,
            Job.submitted_by == principal.id,
            # Everybody's who comes with a provider's token is NULL.
            Job.submitted_key == principal.key_id,
            Job.created_at > func.now() - func.make_interval(0, 0, 0, 0, 0, 0, RETRY_WINDOW_S),
        )
        .order_by(Job.id.desc())
        .limit(1)
    ).one_or_none()


def get(session: Session, principal: Principal, job: UUID) -> Job:
    """One job. Raises NotFound."""
    require(principal, Permission.JOB_READ)
    return _job(session, job)


def _job(session: Session, job: UUID, *, lock: bool = False) -> Job:
    found = session.get(Job, job, with_for_update=lock)
    if found is None:
        raise NotFound("No such fine-tuning job.")
    return found


def list_page(
    session: Session, principal: Principal, *, after: UUID | None, limit: int, metadata: Mapping[str, str]
) -> tuple[Sequence[Job], bool]:
    """A page of the department's jobs, newest first, and whether there are more. metadata: pairs that all must hold."""
    require(principal, Permission.JOB_READ)
    statement = select(Job)
    if after is not None:
        statement = statement.where(Job.id < known_cursor(session, Job, after))
    if metadata:
        if principal.reach(Permission.JOB_READ) is Reach.METADATA:
            raise Denied("This key does not see what a department wrote to its jobs.")
        statement = statement.where(Job.job_metadata.contains(dict(metadata)))
    found = session.scalars(statement.order_by(Job.id.desc()).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def list_events(
    session: Session, principal: Principal, job: UUID, *, after: UUID | None, limit: int
) -> tuple[Sequence[JobEvent], bool]:
    """A page of a job's events, newest first."""
    get(session, principal, job)
    statement = select(JobEvent).where(JobEvent.job_id == job)
    if after is not None:
        known_cursor(session, JobEvent, after)
        number = select(JobEvent.number).where(JobEvent.id == after).scalar_subquery()
        statement = statement.where(JobEvent.number < number)
    found = session.scalars(statement.order_by(JobEvent.number.desc()).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def list_checkpoints(
    session: Session, principal: Principal, job: UUID, *, after: UUID | None, limit: int
) -> tuple[Sequence[JobCheckpoint], bool]:
    """A page of a job's checkpoints, newest first."""
    get(session, principal, job)
    statement = select(JobCheckpoint).where(JobCheckpoint.job_id == job, JobCheckpoint.rejected_at.is_(None))
    if after is not None:
        statement = statement.where(JobCheckpoint.id < known_cursor(session, JobCheckpoint, after))
    found = session.scalars(statement.order_by(JobCheckpoint.id.desc()).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def request_cancel(session: Session, principal: Principal, job: UUID) -> Job:
    """Cancel a waiting job at once; ask the worker of a running one to stop. Raises AlreadyFinished.

    A finish and a cancel lock the same row: the job never both succeeds and is cancelled.
    """
    found = _job_to_steer(session, principal, job)
    if found.state in TERMINAL:
        check_transition(JobState(found.state), JobState.CANCELLED)
    if found.cancel_requested_at is None or found.state != JobState.RUNNING:
        found.cancel_requested_at = session.scalar(select(func.now()))
        audit.record(session, principal, AuditEvent.JOB_CANCEL_REQUESTED, resource=("job", job))
        if found.state == JobState.RUNNING:
            tell(session, found, "Cancellation requested; the worker stops at its next heartbeat.")
        else:
            _cancelled(session, principal, found)
    return found


def _cancelled(session: Session, actor: Principal, job: Job) -> None:
    close(session, job, JobState.CANCELLED)
    tell(session, job, "The job was cancelled.")
    audit.record(session, actor, AuditEvent.JOB_CANCELLED, resource=("job", job.id))


def cancel_paused(session: Session, actor: Principal, job: UUID) -> None:
    """Cancel a job that would be waited for until somebody resumes it; nothing where it is paused no more."""
    paused = select(Job).where(Job.id == job, Job.state == JobState.PAUSED)
    locked = paused.with_for_update(skip_locked=True).execution_options(populate_existing=True)
    found = session.scalars(locked).one_or_none()
    if found is None:
        return
    found.cancel_requested_at = session.scalar(select(func.now()))
    audit.record(session, actor, AuditEvent.JOB_CANCEL_REQUESTED, resource=("job", job))
    _cancelled(session, actor, found)


def _job_to_steer(session: Session, principal: Principal, job: UUID) -> Job:
    """The job, locked, for somebody who may end or hold it."""
    require(principal, Permission.JOB_CANCEL)
    found = _job(session, job, lock=True)
    if found.submitted_by != principal.id:
        require_all(principal, Permission.JOB_CANCEL)
    return found


def request_pause(session: Session, principal: Principal, job: UUID) -> Job:
    """Pause a waiting job at once; ask the worker of a running one for a checkpoint. Raises AlreadyFinished, Conflict.

    A job whose files are still looked at is paused when that is done.
    """
    found = _job_to_steer(session, principal, job)
    if found.state in TERMINAL:
        check_transition(JobState(found.state), JobState.PAUSED)
    if found.cancel_requested_at is not None:
        raise Conflict("The job is being cancelled.")
    if found.pause_requested_at is None:
        found.pause_requested_at = session.scalar(select(func.now()))
        audit.record(session, principal, AuditEvent.JOB_PAUSE_REQUESTED, resource=("job", job))
        if found.state == JobState.QUEUED:
            pause(session, principal, found)
        elif found.state == JobState.RUNNING:
            tell(session, found, "A pause is requested; the worker writes a checkpoint at its next heartbeat.")
        else:
            tell(session, found, "A pause is requested; it begins when the files are validated.")
    return found


def pause(session: Session, principal: Principal, job: Job) -> None:
    """Take a locked job that was asked to pause out of the queue, or from the worker that gives it back."""
    check_transition(JobState(job.state), JobState.PAUSED)
    job.state, job.lease_id = JobState.PAUSED, None
    session.flush()
    tell(session, job, "The job is paused.")
    audit.record(session, principal, AuditEvent.JOB_PAUSED, resource=("job", job.id), details={"epoch": job.epoch})


def resume(session: Session, principal: Principal, job: UUID) -> Job:
    """Queue a paused job again; take back a pause that is not carried out yet. Raises AlreadyFinished.

    It goes on from its newest checkpoint, to the same weights as if it had never been paused.
    """
    found = _job_to_steer(session, principal, job)
    if found.state in TERMINAL:
        check_transition(JobState(found.state), JobState.QUEUED)
    if found.pause_requested_at is not None:
        found.pause_requested_at = None
        if found.state == JobState.PAUSED:
            queue(session, found)
        tell(session, found, "The job is resumed.")
        audit.record(session, principal, AuditEvent.JOB_RESUMED, resource=("job", job))
    return found


def queue(session: Session, job: Job) -> None:
    """Let a locked job wait for a train worker; whoever commits rings for it."""
    check_transition(JobState(job.state), JobState.QUEUED)
    job.state, job.lease_id, job.queued_at = JobState.QUEUED, None, func.now()
    session.flush()
    nudge(session, job)


def close(session: Session, job: Job, state: JobState) -> None:
    """Move a locked job into a terminal state, and tell who wants to hear. Raises AlreadyFinished or Conflict."""
    check_transition(JobState(job.state), state)
    # Asked for first: a query writes what was assigned so far, and half of this is not a state a job may be in.
    now = session.scalar(select(func.now()))
    job.state, job.finished_at, job.lease_id = state, now, None
    session.flush()
    outbox.announce_job(session, _ENDED[state], job)


def tell(
    session: Session,
    job: Job,
    message: str,
    *,
    level: str = "info",
    data: Mapping[str, object] | None = None,
) -> None:
    """Add a line to the job's story; with data it is a line of metrics."""
    session.add(
        JobEvent(
            department_id=job.department_id,
            job_id=job.id,
            level=level,
            type="metrics" if data else "message",
            message=message,
            data=dict(data) if data else None,
        )
    )
