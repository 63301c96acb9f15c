"""What departments have used: every lease that ended, and what was stored day by day. Written once, never changed."""

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models_db.base import CreatedAt, Table, UuidKey


class UsageRecord(Table):
    """What one lease of a job took, whatever ended it. It counts on the day, and in the month, in which it ended.

    gpu_seconds are the seconds of all ranks together, on whatever device, and of a batch's ranks the job's part.
    trained_tokens are those of this lease alone.
    """

    __tablename__ = "usage_records"
    __table_args__ = (
        UniqueConstraint("lease_id", "job_id"),
        ForeignKeyConstraint(["department_id", "job_id"], ["jobs.department_id", "jobs.id"]),
        ForeignKeyConstraint(["department_id", "lease_id"], ["leases.department_id", "leases.id"]),
        CheckConstraint("ended_at >= started_at", name="times"),
        CheckConstraint("gpu_seconds >= 0 AND trained_tokens >= 0 AND amount >= 0", name="not_negative"),
        Index("ix_usage_records_department_id_ended_at", "department_id", "ended_at"),
        Index("ix_usage_records_job_id", "job_id"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    job_id: Mapped[UUID]
    lease_id: Mapped[UUID]
    epoch: Mapped[int]
    # As the lease's: finished | failed | oom_killed | cancelled | released | expired
    end_reason: Mapped[str]
    submitted_by: Mapped[UUID]
    submitted_by_type: Mapped[str]
    submitted_key: Mapped[UUID | None]
    base_model_id: Mapped[UUID] = mapped_column(ForeignKey("base_models.id"))
    worker: Mapped[str]
    device: Mapped[str | None]
    ranks: Mapped[int]
    shared_by: Mapped[int]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime]
    gpu_seconds: Mapped[Decimal]
    trained_tokens: Mapped[int] = mapped_column(BigInteger)
    # The newest that the run told under this lease; NULL where it told none.
    tokens_per_s: Mapped[float | None]
    peak_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    price_per_gpu_hour: Mapped[Decimal]
    amount: Mapped[Decimal]


class StorageSample(Table):
    """What a department stored on a day (UTC), and what that day of it costs."""

    __tablename__ = "storage_samples"

    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    file_bytes: Mapped[int] = mapped_column(BigInteger)
    version_bytes: Mapped[int] = mapped_column(BigInteger)
    checkpoint_bytes: Mapped[int] = mapped_column(BigInteger)
    price_per_gb_month: Mapped[Decimal]
    amount: Mapped[Decimal]
    taken_at: Mapped[CreatedAt]
