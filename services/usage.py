"""What departments use: recorded where a lease ends."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.plans import RunReport
from domain.usage import amount_of, gpu_seconds_of
from models_db.jobs import Job, Lease
from models_db.usage import UsageRecord


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
