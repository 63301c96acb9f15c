"""The step before the queue: what a job's files come to under its base model's tokenizer."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from domain import access
from domain.audit import AuditEvent, Outcome
from domain.failpoints import FailPoint, failpoint
from domain.jobs import JobState
from domain.plans import InspectReport
from domain.runs import RunSpec
from domain.workers import least_memory_bytes
from models_db.base_models import BaseModel
from models_db.jobs import Job
from services import audit, estimates, inspections
from services.base_models import facts_of, manifest_of
from services.inspections import Counting
from services.jobs import close, pause, queue, tell
from services.leases import JobError


@dataclass(frozen=True)
class ValidationWork:
    """What a validator needs: the job's specification, and its rows to be counted where they have never been."""

    spec: RunSpec
    counting: Counting
    report: InspectReport | None


def department_of(session: Session, job: UUID) -> UUID | None:
    """Which department a message's job belongs to, from a platform session; None for no such job."""
    return session.execute(text("SELECT job_department(:job)"), {"job": job}).scalar_one_or_none()


def load(session: Session, job: UUID) -> ValidationWork | None:
    """The work, or None where someone has done it. Validating twice is harmless: the first result counts."""
    found = session.get(Job, job)
    if found is None or found.state != JobState.VALIDATING_FILES:
        return None
    spec = RunSpec.model_validate(found.spec, strict=False)
    base_model = manifest_of(session.get_one(BaseModel, found.base_model_id))
    counting = Counting(job, found.department_id, spec.data, base_model)
    return ValidationWork(spec, counting, inspections.find(session, counting.key))


def accept(session: Session, job: UUID, report: InspectReport, *, currency: str = "usd") -> None:
    """The files can be trained on: the job queues, or pauses where that was asked for.

    Nothing happens when it no longer waits for this. currency: of the estimate that it keeps.
    """
    found = _waiting(session, job)
    if found is None:
        return
    found.inspection = inspections.dumped(report)
    found.memory_bytes = _least_memory_bytes(session, found, report)
    found.estimate = estimates.of_job(session, found, report, currency=currency).model_dump(mode="json")
    for file in report.files:
        if file.too_long_rows:
            tell(
                session, found, f"{file.too_long_rows} rows of {file.file} are too long and are left out.", level="warn"
            )
    _record(session, found, AuditEvent.JOB_VALIDATED, reason=None)
    if found.pause_requested_at is not None:
        tell(session, found, "Files validated.")
        pause(session, access.system(found.department_id), found)
    else:
        queue(session, found)
        tell(session, found, "Files validated; the job is queued.")
    failpoint(FailPoint.VALIDATE_IN_TX)


def _least_memory_bytes(session: Session, job: Job, report: InspectReport) -> int | None:
    base_model = session.get_one(BaseModel, job.base_model_id)
    longest_row_tokens = max((file.longest_row_tokens for file in report.files), default=0)
    spec = RunSpec.model_validate(job.spec, strict=False)
    return least_memory_bytes(spec, facts_of(base_model), longest_row_tokens)


def refuse(session: Session, job: UUID, error: JobError) -> None:
    """The files cannot be trained on: the job fails with the first reason."""
    found = _waiting(session, job)
    if found is None:
        return
    found.error = dict(error.as_dict())
    close(session, found, JobState.FAILED)
    tell(session, found, error.message, level="error")
    _record(session, found, AuditEvent.JOB_FAILED, reason=error.code)


def _waiting(session: Session, job: UUID) -> Job | None:
    found = session.get(Job, job, with_for_update=True)
    return found if found is not None and found.state == JobState.VALIDATING_FILES else None


def _record(session: Session, job: Job, event: AuditEvent, *, reason: str | None) -> None:
    audit.record(
        session,
        access.system(job.department_id),
        event,
        resource=("job", job.id),
        outcome=Outcome.FAILURE if reason else Outcome.SUCCESS,
        reason=reason,
    )
