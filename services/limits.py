"""What a department may use: set by the operator, checked where more is asked for, warned of before it is spent."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.orm import Session

from domain import access
from domain.access import Permission, Principal, require
from domain.audit import AuditEvent
from domain.digests import Digest
from domain.jobs import TERMINAL, JobState
from domain.limits import WARN_AT, Allowance, LimitChange, Limits, MonthsUse
from domain.refusals import OverQuota, QuotaSpent
from models_db.departments import Department
from models_db.files import File
from models_db.jobs import Job, JobEvent
from models_db.sessions import take_lock
from services import audit, departments, usage


@dataclass(frozen=True)
class LimitDefaults:
    """What the installation has for every department that has none of its own, and the currency of budgets."""

    max_unfinished_jobs: int
    currency: str


def change(session: Session, principal: Principal, department: UUID, wanted: LimitChange) -> None:
    """Set some of a department's limits, in its own session. Raises NotFound.

    What is used beyond a new limit already stays: nothing is stopped or deleted.
    """
    require(principal, Permission.QUOTA_SET)
    departments.get(session, principal, department)
    found = _own(session, lock=True)
    chosen = wanted.chosen()
    before = {name: getattr(found, name) for name in chosen}
    for name, value in chosen.items():
        setattr(found, name, value)
    if "monthly_budget" in chosen:
        # Another budget is warned of anew.
        found.budget_warned_at = None
    session.flush()
    audit.record(
        session,
        principal,
        AuditEvent.QUOTA_CHANGED,
        resource=("department", department),
        details={"before": before, "after": chosen},
    )


def get(session: Session, principal: Principal, department: UUID, defaults: LimitDefaults) -> Allowance:
    """A department's limits and what it has of each, in its own session. Raises NotFound."""
    require(principal, Permission.QUOTA_READ)
    found = departments.get(session, principal, department)
    running = select(func.count()).select_from(Job).where(Job.state == JobState.RUNNING)
    return Allowance(
        limits=_in_force(found, defaults),
        running_jobs=session.scalar(running) or 0,
        unfinished_jobs=_unfinished(session),
        month=usage.this_month(session),
        stored_bytes=usage.stored(session).total_bytes,
        budget_warned_at=found.budget_warned_at,
    )


def _own(session: Session, *, lock: bool = False) -> Department:
    """The session's department: it sees no other."""
    statement = select(Department)
    return session.scalars(statement.with_for_update() if lock else statement).one()


def _in_force(department: Department, defaults: LimitDefaults) -> Limits:
    own = department.max_unfinished_jobs
    return Limits(
        max_running_jobs=department.max_running_jobs,
        max_unfinished_jobs=defaults.max_unfinished_jobs if own is None else own,
        max_gpu_hours=department.max_gpu_hours,
        max_storage_bytes=department.max_storage_bytes,
        monthly_budget=department.monthly_budget,
        weight=department.weight,
        preempts=department.preempts,
    )


def _unfinished(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Job).where(Job.state.not_in(TERMINAL))) or 0


# --- what may be asked for --------------------------------------------------------------------------------------------


def against_submit(session: Session, defaults: LimitDefaults) -> Iterator[OverQuota]:
    """Every limit that stands against one more job of the session's department now.

    Whoever acts on the answer holds the lock of the department's submits.
    """
    limits = _in_force(_own(session), defaults)
    unfinished = _unfinished(session)
    if unfinished >= limits.max_unfinished_jobs:
        yield OverQuota(
            f"The department has {unfinished} unfinished jobs; its limit is {limits.max_unfinished_jobs}."
            " Wait for one to finish, or cancel one."
        )
    if limits.max_gpu_hours is None and limits.monthly_budget is None:
        return
    month = usage.this_month(session)
    if limits.max_gpu_hours is not None and month.gpu_hours >= limits.max_gpu_hours:
        yield QuotaSpent(
            f"The department has used {month.gpu_hours:.2f} GPU-hours this month; its limit is"
            f" {limits.max_gpu_hours:f}. {_when_anew(month)}"
        )
    if limits.monthly_budget is not None and month.amount >= limits.monthly_budget:
        yield QuotaSpent(
            f"The department has spent {month.amount:.2f} {defaults.currency} this month; its budget is"
            f" {limits.monthly_budget:f}. {_when_anew(month)}"
        )


def _when_anew(month: MonthsUse) -> str:
    return f"The next month begins on {month.ends_at:%Y-%m-%d}, UTC; until then the operator can raise the limit."


def check_storage(session: Session, digest: Digest, more_bytes: int) -> None:
    """Is there room for an upload? Raises QuotaSpent. No other upload takes the room until the transaction ends.

    Checkpoints and versions of jobs take room too, and are never refused it: work that is done is kept.
    """
    department = _own(session)
    if department.max_storage_bytes is None:
        return
    take_lock(session, f"storage of {department.id}")
    same_bytes = select(File.id).where(File.digest == digest, File.deleted_at.is_(None)).limit(1)
    if session.scalars(same_bytes).first() is None:
        check_room(session, more_bytes, param="file")


def check_room(session: Session, more_bytes: int, *, param: str) -> None:
    """The same for what is stored however much of it is there already."""
    department = _own(session)
    limit = department.max_storage_bytes
    if limit is None:
        return
    take_lock(session, f"storage of {department.id}")
    have = usage.stored(session).total_bytes
    if have + more_bytes > limit:
        raise QuotaSpent(
            f"The department stores {have} bytes, and this has {more_bytes}; its limit is {limit}."
            " Delete files, or have the operator raise the limit.",
            param=param,
        )


# --- the budget's end -------------------------------------------------------------------------------------------------


def to_warn(session: Session) -> Sequence[UUID]:
    """Departments with a budget that were not warned this month, from a platform session."""
    return session.scalars(text("SELECT * FROM departments_to_warn()")).all()


def warn(session: Session, *, currency: str) -> None:
    """Tell the session's department once a month that most of its budget is spent: in the trail and to running jobs."""
    department = _own(session)
    month, budget = usage.this_month(session), department.monthly_budget
    if budget is None or month.amount < WARN_AT * budget or not _note_warning(session, month):
        return
    message = (
        f"The department has spent {month.amount:.2f} {currency} of this month's budget of {budget:f}."
        " When it is spent, no further job is accepted; those that were accepted still run."
    )
    for job in session.scalars(select(Job.id).where(Job.state == JobState.RUNNING)):
        session.add(JobEvent(department_id=department.id, job_id=job, level="warn", type="message", message=message))
    session.flush()
    audit.record(
        session,
        access.system(department.id),
        AuditEvent.BUDGET_WARNED,
        resource=("department", department.id),
        details={"amount": f"{month.amount:.6f}", "budget": f"{budget:f}", "currency": currency},
    )


def _note_warning(session: Session, month: MonthsUse) -> bool:
    """Whether this is the month's first: of two sweeps at once, one's."""
    not_yet = or_(Department.budget_warned_at.is_(None), Department.budget_warned_at < month.began_at)
    noted = session.scalars(
        update(Department).where(not_yet).values(budget_warned_at=func.now()).returning(Department.id)
    )
    return noted.one_or_none() is not None
