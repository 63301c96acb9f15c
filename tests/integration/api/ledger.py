"""Entries in a department's ledger, made by hand: what a worker and the sweeper would have left in other times."""

from datetime import date, datetime, timedelta
from decimal import Decimal

from sqlalchemy import func, select

from domain.ids import IdKind, parse_id
from models_db.jobs import Job, Lease
from models_db.usage import StorageSample, UsageRecord
from runtime.wiring import Runtime


def spend(
    runtime: Runtime, department_id: str, job_id: str, *, ended_at: datetime | None = None, gpu_s: int, amount: str
) -> None:
    """A lease of a job that ended then; now when left out. It trained ten tokens a GPU-second."""
    department, job = parse_id(IdKind.DEPARTMENT, department_id), parse_id(IdKind.JOB, job_id)
    with runtime.department(department) as session:
        ended = ended_at or session.scalar(select(func.now()))
        assert ended
        began = ended - timedelta(seconds=gpu_s)
        lease = Lease(
            department_id=department, worker="of a test", acquired_at=began, expires_at=ended, ended_at=ended,
            end_reason="released",
        )  # fmt: skip
        session.add(lease)
        session.flush()
        found = session.get_one(Job, job)
        session.add(
            UsageRecord(
                department_id=department,
                job_id=job,
                lease_id=lease.id,
                epoch=1,
                end_reason="released",
                submitted_by=found.submitted_by,
                submitted_by_type=found.submitted_by_type,
                submitted_key=found.submitted_key,
                base_model_id=found.base_model_id,
                worker="of a test",
                ranks=1,
                shared_by=1,
                started_at=began,
                ended_at=ended,
                gpu_seconds=gpu_s,
                trained_tokens=10 * gpu_s,
                price_per_gpu_hour=0,
                amount=Decimal(amount),
            )
        )


def store(runtime: Runtime, department_id: str, *, day: date, size_bytes: int, amount: str) -> None:
    """What the department kept on a day."""
    department = parse_id(IdKind.DEPARTMENT, department_id)
    with runtime.department(department) as session:
        session.add(
            StorageSample(
                department_id=department,
                day=day,
                file_bytes=size_bytes,
                version_bytes=0,
                checkpoint_bytes=0,
                price_per_gb_month=0,
                amount=Decimal(amount),
            )
        )
