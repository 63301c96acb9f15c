"""What departments use: recorded where a lease ends and once a day, summed for those who may see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import exists, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, PrincipalType, require
from domain.limits import MonthsUse
from domain.plans import RunReport
from domain.usage import LineItem, Stored, amount_of, gpu_seconds_of, storage_amount_of
from models_db.jobs import Job, Lease
from models_db.usage import StorageSample, UsageRecord


def charge(
    session: Session, job: Job, lease: Lease, *, ended_at: datetime, reason: str, report: RunReport | None
) -> None:
    """Record what a lease took that ends now, in the transaction that ends it.

    report: of a run that finished; it knows better than what was told on the way.
    """
    told = _told_under(job)
    ranks = report.world_size if report else lease.ranks
    trained_tokens = report.trained_tokens if report else told.get("trained_tokens", lease.resumed_tokens)
    gpu_seconds = gpu_seconds_of(ended_at - lease.acquired_at, ranks=ranks, shared_by=lease.shared_by)
    session.add(
        UsageRecord(
            department_id=job.department_id,
            job_id=job.id,
            lease_id=lease.id,
            epoch=job.epoch,
            end_reason=reason,
            submitted_by=job.submitted_by,
            submitted_by_type=job.submitted_by_type,
            submitted_key=job.submitted_key,
            base_model_id=job.base_model_id,
            worker=lease.worker,
            device=lease.device or (report.device if report else None),
            ranks=ranks,
            shared_by=lease.shared_by,
            started_at=lease.acquired_at,
            ended_at=ended_at,
            gpu_seconds=gpu_seconds,
            # Where a checkpoint's tokens were not told, those told before the lease stand for them: perhaps too many.
            trained_tokens=max(0, trained_tokens - lease.resumed_tokens),
            tokens_per_s=told.get("tokens_per_s"),
            peak_memory_bytes=report.peak_memory_bytes if report else told.get("memory_bytes"),
            price_per_gpu_hour=lease.price_per_gpu_hour,
            amount=amount_of(gpu_seconds, lease.price_per_gpu_hour),
        )
    )
    session.flush()


def _told_under(job: Job) -> dict[str, Any]:
    """The job's progress, as far as it was told under the lease it has now: an earlier one's stands until then."""
    progress = job.progress or {}
    return progress if progress.get("epoch") == job.epoch else {}


def ranks_before(session: Session, job: UUID) -> int | None:
    """How many ranks the job's last lease had; None for its first."""
    return session.scalar(
        select(UsageRecord.ranks).where(UsageRecord.job_id == job).order_by(UsageRecord.epoch.desc()).limit(1)
    )


def ended_before(session: Session, job: UUID, *, reason: str) -> bool:
    """Whether a lease of the job has ended for this reason."""
    return bool(session.scalar(select(exists().where(UsageRecord.job_id == job, UsageRecord.end_reason == reason))))


def failed_attempts(session: Session, job: UUID) -> int:
    """How many leases of an unfinished job ended other than by being given back."""
    ended = select(func.count()).where(UsageRecord.job_id == job, UsageRecord.end_reason != "released")
    return session.scalar(ended) or 0


# --- storage ----------------------------------------------------------------------------------------------------------

# Equal bytes of a department are one object, except in checkpoints, each of which has its own.
_STORED = text("""
    SELECT
        (SELECT coalesce(sum(bytes), 0) FROM (
            SELECT DISTINCT digest, bytes FROM files WHERE deleted_at IS NULL) AS f) AS file_bytes,
        (SELECT coalesce(sum(bytes), 0) FROM (
            SELECT DISTINCT f ->> 'digest', (f ->> 'bytes')::bigint AS bytes
            FROM adapter_versions v, jsonb_array_elements(v.manifest -> 'files') f
            WHERE v.deleted_at IS NULL) AS v) AS version_bytes,
        (SELECT coalesce(sum((f ->> 'bytes')::bigint), 0)
            FROM job_checkpoints c, jsonb_array_elements(c.manifest -> 'files') f
            WHERE c.erased_at IS NULL) AS checkpoint_bytes
""")


def stored(session: Session) -> Stored:
    """What the session's department keeps at this moment."""
    row = session.execute(_STORED).one()
    return Stored(
        file_bytes=int(row.file_bytes),
        version_bytes=int(row.version_bytes),
        checkpoint_bytes=int(row.checkpoint_bytes),
    )


def to_sample(session: Session) -> Sequence[UUID]:
    """Departments whose storage was not sampled today, from a platform session."""
    return session.scalars(text("SELECT * FROM departments_to_sample()")).all()


def sample(session: Session, department: UUID, price_per_gb_month: Decimal) -> None:
    """Note what the department stores today, and what the day costs; the first one to do so today counts."""
    kept, day = stored(session), session.execute(text("SELECT (now() AT TIME ZONE 'UTC')::date")).scalar_one()
    values = {
        "department_id": department,
        "day": day,
        "file_bytes": kept.file_bytes,
        "version_bytes": kept.version_bytes,
        "checkpoint_bytes": kept.checkpoint_bytes,
        "price_per_gb_month": price_per_gb_month,
        "amount": storage_amount_of(kept, price_per_gb_month, day),
    }
    session.execute(insert(StorageSample).values(values).on_conflict_do_nothing())


# --- the month --------------------------------------------------------------------------------------------------------

# A lease counts in the month in which it ends; one that is held will end in this one or later.
_MONTH = text("""
    WITH month AS (
        SELECT date_trunc('month', now(), 'UTC') AS began_at,
            date_trunc('month', now(), 'UTC') + interval '1 month' AS ends_at
    ), held AS (
        SELECT price_per_gpu_hour,
            extract(epoch FROM least(clock_timestamp(), expires_at) - acquired_at) * ranks / shared_by AS gpu_seconds
        FROM leases WHERE ended_at IS NULL
    ), used AS (
        SELECT r.gpu_seconds, r.amount FROM usage_records r, month WHERE r.ended_at >= month.began_at
        UNION ALL SELECT h.gpu_seconds, h.gpu_seconds * h.price_per_gpu_hour / 3600 FROM held h
        UNION ALL SELECT 0, s.amount FROM storage_samples s, month
            WHERE s.day >= (month.began_at AT TIME ZONE 'UTC')::date
    )
    SELECT month.began_at, month.ends_at, coalesce(sum(used.gpu_seconds), 0) AS gpu_seconds,
        coalesce(sum(used.amount), 0) AS amount
    FROM month LEFT JOIN used ON true GROUP BY month.began_at, month.ends_at
""")


def this_month(session: Session) -> MonthsUse:
    """What the session's department has used since the month began, UTC."""
    row = session.execute(_MONTH).one()
    return MonthsUse(gpu_seconds=row.gpu_seconds, amount=row.amount, began_at=row.began_at, ends_at=row.ends_at)


# --- reading ----------------------------------------------------------------------------------------------------------


class Grouping(StrEnum):
    """What sums are told apart by."""

    DAY = "day"
    DEPARTMENT = "department"
    ITEM = "item"
    USER = "user"
    KEY = "key"
    JOB = "job"


@dataclass(frozen=True)
class UsageFilter:
    """Which sums: of the days from `first` to `end`, which is not among them. None does not filter."""

    first: date
    end: date
    by: frozenset[Grouping]
    departments: Sequence[UUID] | None = None
    keys: Sequence[UUID] | None = None
    items: Sequence[str] | None = None
    offset: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class UsageSum:
    """What was used, summed over everything that is None here."""

    day: date | None
    department: UUID | None
    item: LineItem | None
    user: tuple[PrincipalType, UUID] | None
    key: UUID | None
    job: UUID | None
    gpu_seconds: Decimal
    trained_tokens: int
    storage_byte_days: int
    amount: Decimal


_OF_A_DEPARTMENT, _OF_ALL = (
    text(f"""
        SELECT * FROM {function}(:first, :end, :by, :departments, :keys, :items)
        ORDER BY day, department_id, item, submitted_by, submitted_key, job_id OFFSET :offset LIMIT :limit
    """)  # noqa: S608 - one of two names of ours
    for function in ("usage_of_departments", "usage_of_all_departments")
)


def read(session: Session, principal: Principal, wanted: UsageFilter) -> Sequence[UsageSum]:
    """The caller's department's use; in a platform session every department's."""
    require(principal, Permission.USAGE_READ)
    if principal.department is None:
        require(principal, Permission.DEPARTMENT_LIST)
    parameters = {
        "first": wanted.first,
        "end": wanted.end,
        "by": [grouping.value for grouping in wanted.by],
        "departments": wanted.departments,
        "keys": wanted.keys,
        "items": wanted.items,
        "offset": wanted.offset,
        "limit": wanted.limit,
    }
    rows = session.execute(_OF_ALL if principal.department is None else _OF_A_DEPARTMENT, parameters)
    return [
        UsageSum(
            day=row.day,
            department=row.department_id,
            item=LineItem(row.item) if row.item else None,
            user=(PrincipalType(row.submitted_by_type), row.submitted_by) if row.submitted_by else None,
            key=row.submitted_key,
            job=row.job_id,
            gpu_seconds=row.gpu_seconds,
            trained_tokens=int(row.trained_tokens),
            storage_byte_days=int(row.storage_byte_days),
            amount=row.amount,
        )
        for row in rows
    ]
