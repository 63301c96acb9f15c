"""What a job would come to, asked before it is submitted and kept by it afterwards, and how far off that was."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require
from domain.audit import AuditEvent
from domain.digests import Manifest
from domain.estimates import Actual, Estimate, EstimateState, Queue, Reason, Speed, check_tokens, is_general
from domain.job_requests import JobRequest
from domain.plans import InspectReport, RunReport
from domain.refusals import JobTooLarge, NotFound, OverQuota
from domain.runs import LoraMethod, RunData, RunSpec
from domain.workers import WorkerState
from models_db.base_models import BaseModel
from models_db.estimates import AskedEstimate, Inspection
from models_db.jobs import Job
from models_db.sessions import take_lock
from models_db.usage import UsageRecord
from services import admissions, audit, inspections, workers
from services.admissions import Admission, JobLimits
from services.base_models import facts_of, manifest_of
from services.doorbell import nudge_estimate
from services.inspections import Counting

# So many of the newest runs say how fast a base model trains.
MEASURED_RUNS = 20
WEIGHTS_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class EstimateLimits:
    """What one department may ask at a time, and what its answers are measured by. Times in seconds."""

    job: JobLimits
    max_training_tokens: int
    max_pending: int
    kept_s: float
    half_life_s: float
    lease_s: float


@dataclass(frozen=True)
class Answer:
    """What is known of a request. id is None where nothing had to be counted, so that nothing was kept."""

    id: UUID | None
    state: EstimateState
    model: str
    created_at: datetime
    expires_at: datetime | None
    estimate: Estimate | None
    reasons: tuple[Reason, ...]

    @property
    def allowed(self) -> bool | None:
        """Whether a submit would be accepted and its rows pass; None while they are not counted."""
        if self.reasons:
            return False
        return True if self.state is EstimateState.READY else None


def ask(session: Session, principal: Principal, request: JobRequest, *, limits: EstimateLimits) -> Answer:
    """What a request would come to. Where its rows were never counted, that is asked for and rung after the commit.

    Raises OverQuota where too many of the department's wait for that.
    """
    require(principal, Permission.JOB_SUBMIT)
    admission = admissions.admit(session, principal, request, limits=limits.job, seed=0)
    asked = None
    if admission.job is not None and inspections.find(session, _key(admission.job)) is None:
        asked = _enter(session, principal, request, job=admission.job, limits=limits)
    return _answer(session, request, admission, asked=asked, limits=limits)


def _key(job: Job) -> str:
    spec = _spec(job)
    return inspections.key_of(spec.data, spec.base_model_digest)


def _spec(job: Job) -> RunSpec:
    return RunSpec.model_validate(job.spec, strict=False)


def _enter(
    session: Session, principal: Principal, request: JobRequest, *, job: Job, limits: EstimateLimits
) -> AskedEstimate:
    # Decided on what is there: two requests of one department must not decide at once.
    take_lock(session, f"estimates of {principal.department}")
    waiting = session.scalar(select(func.count()).select_from(AskedEstimate).where(_waits())) or 0
    if waiting >= limits.max_pending:
        raise OverQuota(
            f"{waiting} estimates of the department wait for their rows to be counted; its limit is"
            f" {limits.max_pending}. Try again when one is ready."
        )
    spec = _spec(job)
    asked = AskedEstimate(
        department_id=principal.department,
        base_model_id=job.base_model_id,
        request=request.model_dump(mode="json"),
        data=spec.data.model_dump(mode="json"),
        inspection_key=_key(job),
        created_by=principal.id,
        expires_at=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, limits.kept_s),
    )
    session.add(asked)
    session.flush()
    session.refresh(asked)
    nudge_estimate(session, asked.id)
    audit.record(
        session,
        principal,
        AuditEvent.ESTIMATE_REQUESTED,
        resource=("estimate", asked.id),
        refs=[job.training_file_id, job.base_model_id],
        details={"base_model_digest": spec.base_model_digest, "training_digest": spec.data.train},
    )
    return asked


def _waits() -> ColumnElement[bool]:
    counted = select(Inspection.key).where(Inspection.key == AskedEstimate.inspection_key).exists()
    return AskedEstimate.error.is_(None) & (AskedEstimate.expires_at > func.now()) & ~counted


def get(session: Session, principal: Principal, estimate: UUID, *, limits: EstimateLimits) -> Answer:
    """An estimate that was asked for, with what is known by now. Raises NotFound, also when its time is over."""
    require(principal, Permission.JOB_SUBMIT)
    asked = _asked(session, estimate)
    if asked is None:
        raise NotFound("No such estimate.")
    request = JobRequest.model_validate(asked.request)
    admission = admissions.admit(session, principal, request, limits=limits.job, seed=0)
    return _answer(session, request, admission, asked=asked, limits=limits)


def _asked(session: Session, estimate: UUID) -> AskedEstimate | None:
    alive = select(AskedEstimate).where(AskedEstimate.id == estimate, AskedEstimate.expires_at > func.now())
    return session.scalars(alive).one_or_none()


def is_pending(session: Session, estimate: UUID) -> bool:
    """Whether its rows are still to be counted."""
    return session.scalars(select(AskedEstimate.id).where(AskedEstimate.id == estimate, _waits())).first() is not None


def _answer(
    session: Session,
    request: JobRequest,
    admission: Admission,
    *,
    asked: AskedEstimate | None,
    limits: EstimateLimits,
) -> Answer:
    now = _now(session)
    reasons = [reason for refusal in admission.refusals for reason in Reason.all_of(refusal)]
    state, estimate, job = EstimateState.READY, None, admission.job
    if job is not None:
        spec, report = _spec(job), inspections.find(session, _key(job))
        estimate = Estimate.of(
            spec,
            report,
            facts_of(session.get_one(BaseModel, job.base_model_id)),
            _speed(session, job.base_model_id, spec.lora),
            queue=_queue(session, request.priority, limits),
            currency=limits.job.currency,
            at=now,
        )
        reasons += _findings(spec, report, limits.max_training_tokens)
        if report is None:
            state = EstimateState.PENDING
            if asked is not None and asked.error is not None:
                state = EstimateState.FAILED
                reasons.append(Reason.model_validate(asked.error))
    return Answer(
        id=asked.id if asked else None,
        state=state,
        model=request.model,
        created_at=asked.created_at if asked else now,
        expires_at=asked.expires_at if asked else None,
        estimate=estimate,
        reasons=tuple(reasons),
    )


def _findings(spec: RunSpec, report: InspectReport | None, max_training_tokens: int) -> list[Reason]:
    """What validation would refuse of counted rows."""
    if report is None:
        return []
    found = [Reason(code=each.code, message=each.message, param=each.place) for each in report.problems]
    try:
        check_tokens(spec, report, max_training_tokens)
    except JobTooLarge as refusal:
        found.append(Reason.of(refusal))
    return found


def _now(session: Session) -> datetime:
    now: datetime = session.execute(select(func.now())).scalar_one()
    return now


def _speed(session: Session, base_model: UUID, method: LoraMethod) -> Speed | None:
    found = session.execute(
        text("SELECT * FROM measured_speeds(:base_model, :general, :runs) LIMIT 1"),
        {"base_model": base_model, "general": is_general(method), "runs": MEASURED_RUNS},
    ).mappings()
    return next((Speed(**measured) for measured in found), None)


def _queue(session: Session, priority: int, limits: EstimateLimits) -> Queue:
    found = session.execute(
        text("SELECT * FROM queue_ahead(:priority, :half_life_s)"),
        {"priority": priority, "half_life_s": limits.half_life_s},
    ).one()
    living = workers.living(session, lease_s=limits.lease_s)
    return Queue(
        running_s=tuple(found.running_s),
        ahead_s=tuple(found.ahead_s),
        workers=sum(seen.worker.state == WorkerState.ACTIVE for seen in living),
        is_held_back=found.is_held_back,
    )


# --- the validate worker's side ---------------------------------------------------------------------------------------


def department_of(session: Session, estimate: UUID) -> UUID | None:
    """Which department a message's estimate belongs to, from a platform session; None for no such estimate."""
    return session.execute(text("SELECT estimate_department(:id)"), {"id": estimate}).scalar_one_or_none()


def load(session: Session, estimate: UUID) -> Counting | None:
    """The rows to be counted, or None where that is done, or nobody waits for it any more."""
    if not is_pending(session, estimate):
        return None
    asked = session.get_one(AskedEstimate, estimate)
    return Counting(
        subject=estimate,
        department=asked.department_id,
        data=RunData.model_validate(asked.data, strict=False),
        base_model=manifest_of(session.get_one(BaseModel, asked.base_model_id)),
    )


def fail(session: Session, estimate: UUID, reason: Reason) -> None:
    """The rows cannot be counted. Nothing happens when the estimate is no more."""
    asked = _asked(session, estimate)
    if asked is not None:
        asked.error = reason.model_dump(mode="json")


def to_nudge(session: Session, older_than_s: float) -> Sequence[UUID]:
    """Estimates that wait and were not rung for lately, from a platform session."""
    return session.execute(text("SELECT estimates_to_nudge(:seconds)"), {"seconds": older_than_s}).scalars().all()


def forget(session: Session, *, inspections_after_s: float) -> int:
    """Remove estimates whose time is over, and inspections older than that; how many. From a platform session."""
    forgotten: int = session.execute(
        text("SELECT forget_estimates(:seconds)"), {"seconds": inspections_after_s}
    ).scalar_one()
    return forgotten


# --- what a job keeps -------------------------------------------------------------------------------------------------


def of_job(session: Session, job: Job, report: InspectReport, *, currency: str) -> Estimate:
    """What a job is thought to come to once its rows are counted. Its place in the queue is not of interest then."""
    spec = _spec(job)
    return Estimate.of(
        spec,
        report,
        facts_of(session.get_one(BaseModel, job.base_model_id)),
        _speed(session, job.base_model_id, spec.lora),
        queue=None,
        currency=currency,
        at=_now(session),
    )


def actual_of(session: Session, job: Job, *, report: RunReport, manifest: Manifest) -> Actual:
    """What a job came to that has just succeeded: its leases are ended, and charged."""
    by_epoch = select(UsageRecord).where(UsageRecord.job_id == job.id).order_by(UsageRecord.epoch)
    charged = session.scalars(by_epoch).all()
    seconds, last = sum((each.ended_at - each.started_at).total_seconds() for each in charged), charged[-1]
    return Actual(
        seconds=seconds,
        gpu_seconds=float(sum(each.gpu_seconds for each in charged)),
        trained_tokens=report.trained_tokens,
        peak_memory_bytes=report.peak_memory_bytes,
        adapter_bytes=sum(file.bytes for file in manifest.files if file.path == WEIGHTS_FILE),
        device=last.device or report.device,
        ranks=report.world_size,
        tokens_per_s=report.tokens_per_s,
        overhead_s=max(0.0, seconds - report.train_s) if len(charged) == 1 else None,
        price_per_gpu_hour=last.price_per_gpu_hour,
        general=is_general(_spec(job).lora),
        alone=last.shared_by == 1,
    )


@dataclass(frozen=True)
class Accuracy:
    """How far off the estimates of one figure were, over ended jobs on one base model and device."""

    base_model: str
    device: str
    figure: str
    jobs: int
    median: float
    p90: float


def accuracy(session: Session, principal: Principal) -> Sequence[Accuracy]:
    """The errors of all departments' estimates, in no department's name."""
    require(principal, Permission.JOB_READ)
    names = {found.id: found.name for found in session.scalars(select(BaseModel))}
    rows = session.execute(text("SELECT * FROM estimate_accuracy()"))
    return [
        Accuracy(names[row.base_model_id], row.device, row.figure, row.jobs, median=row.median, p90=row.p90)
        for row in rows
    ]
