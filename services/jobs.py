"""Jobs as their department sees them: submit, look, pause, resume, cancel."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from domain import ids
from domain.access import Permission, Principal, Reach, require, require_all
from domain.audit import AuditEvent
from domain.digests import Digest
from domain.failpoints import FailPoint, failpoint
from domain.ids import IdKind
from domain.job_requests import FileFacts, JobRequest, check_total_steps, resolve
from domain.jobs import TERMINAL, JobState, check_transition
from domain.outgoing import OutgoingKind
from domain.refusals import Conflict, Denied, IdempotencyKeyReused, Invalid, NotFound, Refusal, UnknownFile
from domain.runs import RunSpec
from domain.verdicts import Verdict
from models_db.base_models import BaseModel
from models_db.files import File
from models_db.jobs import Job, JobCheckpoint, JobEvent
from models_db.sessions import take_lock
from services import audit, base_models, outbox, parents, policies
from services.cursors import known_cursor
from services.doorbell import nudge
from services.limits import LimitDefaults, against_submit
from services.parents import Parent

_ENDED = {
    JobState.SUCCEEDED: OutgoingKind.JOB_SUCCEEDED,
    JobState.FAILED: OutgoingKind.JOB_FAILED,
    JobState.CANCELLED: OutgoingKind.JOB_CANCELLED,
}

# A client that got no answer asks again within this time (the OpenAI client's longest backoff is 8 s, twice).
RETRY_WINDOW_S = 60


@dataclass(frozen=True)
class JobLimits:
    """What a department may ask for that has no limit of its own, and what one job may be."""

    max_unfinished_jobs: int
    max_total_steps: int
    # Of the budget.
    currency: str = "usd"


@dataclass(frozen=True)
class Admission:
    """What a request comes to before it is entered: its row, where its names stand for something, and all refusals."""

    job: Job | None
    refusals: tuple[Refusal, ...]
    # Of the policy that it was judged by; None where there is none, or nothing to judge.
    policy: Digest | None = None

    @property
    def accepted(self) -> Job:
        """The row. Raises the first refusal where there is one."""
        if self.refusals or self.job is None:
            raise self.refusals[0]
        return self.job


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
    same API key and within a minute. Raises IdempotencyKeyReused where the name stands for another request.
    """
    require(principal, Permission.JOB_SUBMIT)
    # Quota and repetition are decided on what is there: two submits of one department must not decide at once.
    take_lock(session, f"submits of {principal.department}")
    if idempotency_key is not None:
        earlier = _made_under(session, principal, _sha256_of(request), idempotency_key)
    else:
        earlier = _just_made(session, principal, _sha256_of(request)) if is_retry else None
    if earlier is not None:
        return earlier
    admission = admit(session, principal, request, limits=limits, seed=seed)
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


def admit(session: Session, principal: Principal, request: JobRequest, *, limits: JobLimits, seed: int) -> Admission:
    """Try a request against everything that could refuse it, and enter nothing. What is asked first is refused first.

    A submit goes by it, and an estimate tells all of it.
    """
    defaults = LimitDefaults(limits.max_unfinished_jobs, limits.currency)
    refusals: list[Refusal] = [*against_submit(session, defaults)]
    named, job = _named(session, request, refusals), None
    with _noted(refusals):
        job = _job_of(principal, request, named, seed=seed) if named else None
    with _noted(refusals):
        if job is not None:
            check_total_steps(job.spec["total_steps"], limits.max_total_steps)
    verdict = _judged(session, job, named) if job and named else None
    with _noted(refusals):
        if verdict is not None:
            verdict.require_passed()
    return Admission(job, tuple(refusals), verdict.policy.digest if verdict else None)


@contextmanager
def _noted(refusals: list[Refusal]) -> Iterator[None]:
    """A block whose refusal is noted, not raised."""
    try:
        yield
    except Refusal as refusal:
        refusals.append(refusal)


@dataclass(frozen=True)
class _Named:
    """What a request's names stand for."""

    base_model: BaseModel
    parent: Parent | None
    training: File
    validation: File | None
    evaluation: File | None


def _named(session: Session, request: JobRequest, refusals: list[Refusal]) -> _Named | None:
    """What the names stand for; None where one of them stands for nothing, which is noted."""
    before, base_model, parent = len(refusals), None, None
    with _noted(refusals):
        if request.model.startswith(parents.MODEL_PREFIX):
            parent = parents.get_usable(session, request.model)
            base_model = session.get_one(BaseModel, parent.version.base_model_id)
        else:
            base_model = base_models.get_ready(session, request.model)
    files: dict[str, File | None] = {}
    for param in ("training_file", "validation_file", "evaluation_file"):
        with _noted(refusals):
            files[param] = _optional_file(session, getattr(request, param), param)
    training = files.get("training_file")
    if len(refusals) > before or base_model is None or training is None:
        return None
    return _Named(base_model, parent, training, files["validation_file"], files["evaluation_file"])


def _job_of(principal: Principal, request: JobRequest, named: _Named, *, seed: int) -> Job:
    """The row of a request whose names have become digests. Raises what `resolve` refuses."""
    training, validation, evaluation, parent = named.training, named.validation, named.evaluation, named.parent
    spec = resolve(
        request,
        base_model=named.base_model.name,
        base_model_digest=named.base_model.digest,
        facts=base_models.facts_of(named.base_model),
        training=_facts(training),
        validation=_facts(validation) if validation else None,
        evaluation=_facts(evaluation) if evaluation else None,
        seed=seed if request.seed is None else request.seed,
        parent=parent.facts if parent else None,
    )
    return Job(
        department_id=principal.department,
        state=JobState.VALIDATING_FILES,
        base_model_id=named.base_model.id,
        training_file_id=training.id,
        validation_file_id=validation.id if validation else None,
        evaluation_file_id=evaluation.id if evaluation else None,
        parent_version_id=parent.version.id if parent else None,
        adapter_name=parent.adapter if parent and not request.suffix else request.adapter_name,
        suffix=request.suffix,
        spec=spec.model_dump(mode="json"),
        priority=request.priority,
        hyperparameters=request.chosen_hyperparameters.model_dump(mode="json"),
        job_metadata=request.metadata or {},
        request_sha256=_sha256_of(request),
        submitted_by=principal.id,
        submitted_by_type=principal.type,
        submitted_key=principal.key_id,
        submitter_id=principal.human,
    )


def _judged(session: Session, job: Job, named: _Named) -> Verdict:
    learns_from = (named.training, named.validation, named.parent.version if named.parent else None)
    spec = RunSpec.model_validate(job.spec, strict=False)
    return policies.judge_submit(session, spec, [each for each in learns_from if each is not None])


def _sha256_of(request: JobRequest) -> str:
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()


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
            Job.submitted_key == principal.key_id,
            Job.created_at > func.now() - func.make_interval(0, 0, 0, 0, 0, 0, RETRY_WINDOW_S),
        )
        .order_by(Job.id.desc())
        .limit(1)
    ).one_or_none()


def _rows_file(session: Session, file_id: str, param: str) -> File:
    try:
        # Shared: it is not deleted before this job is there to need it.
        file = session.get(File, ids.parse_id(IdKind.FILE, file_id), with_for_update={"read": True})
    except NotFound:
        file = None
    if file is None or file.deleted_at is not None:
        raise UnknownFile("No such file.", param=param)
    if file.rows is None:
        raise Invalid("The file was not uploaded with the purpose `fine-tune`.", param=param)
    return file


def _optional_file(session: Session, file_id: str | None, param: str) -> File | None:
    return None if file_id is None else _rows_file(session, file_id, param)


def _facts(file: File) -> FileFacts:
    return FileFacts(digest=file.digest, rows=file.rows or 0)


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
            close(session, found, JobState.CANCELLED)
            tell(session, found, "The job was cancelled.")
            audit.record(session, principal, AuditEvent.JOB_CANCELLED, resource=("job", job))
    return found


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
