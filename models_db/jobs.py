"""Jobs, their events and checkpoints, and the leases under which workers run them."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from domain.jobs import JobState
from models_db.base import CreatedAt, Table, UuidKey

_STATES = ", ".join(f"'{state}'" for state in JobState)


class Job(Table):
    """One request to train. The row is the truth; a queue message only says that there is work.

    epoch is the fencing token: it grows by one at every claim, and every side effect of a worker names it.
    stalls counts claims since the last new checkpoint. `spec` is the frozen RunSpec, `request` what was asked.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("department_id", "id"),
        UniqueConstraint("department_id", "submitted_by", "idempotency_key"),
        ForeignKeyConstraint(["department_id", "training_file_id"], ["files.department_id", "files.id"]),
        ForeignKeyConstraint(["department_id", "validation_file_id"], ["files.department_id", "files.id"]),
        ForeignKeyConstraint(["department_id", "evaluation_file_id"], ["files.department_id", "files.id"]),
        ForeignKeyConstraint(["department_id", "lease_id"], ["leases.department_id", "leases.id"]),
        ForeignKeyConstraint(
            ["department_id", "parent_version_id"],
            ["adapter_versions.department_id", "adapter_versions.id"],
            # A version refers to its job as well: a department that is erased goes by this one first.
            ondelete="SET NULL (parent_version_id)",
            use_alter=True,
        ),
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint("(state = 'running') = (lease_id IS NOT NULL)", name="running_under_lease"),
        CheckConstraint("(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="finished"),
        CheckConstraint("state <> 'paused' OR pause_requested_at IS NOT NULL", name="paused_on_request"),
        Index("ix_jobs_waiting", "state", "id", postgresql_where="state IN ('validating_files', 'queued', 'running')"),
        Index(
            "ix_jobs_department_id_queued",
            "department_id",
            text("priority DESC"),
            "id",
            postgresql_where="state = 'queued'",
        ),
        Index("ix_jobs_measured", "base_model_id", "finished_at", postgresql_where="actual IS NOT NULL"),
        Index("ix_jobs_training_file_id", "training_file_id"),
        Index("ix_jobs_validation_file_id", "validation_file_id", postgresql_where="validation_file_id IS NOT NULL"),
        Index("ix_jobs_evaluation_file_id", "evaluation_file_id", postgresql_where="evaluation_file_id IS NOT NULL"),
        Index("ix_jobs_parent_version_id", "parent_version_id", postgresql_where="parent_version_id IS NOT NULL"),
        Index("ix_jobs_department_id_request_sha256", "department_id", "request_sha256"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    state: Mapped[str]
    base_model_id: Mapped[UUID] = mapped_column(ForeignKey("base_models.id"))
    training_file_id: Mapped[UUID]
    validation_file_id: Mapped[UUID | None]
    evaluation_file_id: Mapped[UUID | None]
    # The version whose weights it begins with.
    parent_version_id: Mapped[UUID | None]
    adapter_name: Mapped[str]
    suffix: Mapped[str | None]
    spec: Mapped[dict[str, Any]]
    hyperparameters: Mapped[dict[str, Any]]
    job_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB)
    request_sha256: Mapped[str]
    # The caller's own name for the submit: their second one of that name answers with this job.
    idempotency_key: Mapped[str | None]
    submitted_by: Mapped[UUID]
    submitted_by_type: Mapped[str]
    submitted_key: Mapped[UUID | None]
    # The person behind the submit at that time: whose version it will be, whoever answers for the account later.
    submitter_id: Mapped[UUID | None]
    created_at: Mapped[CreatedAt]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    cancel_requested_at: Mapped[datetime | None]
    # Set from the asking until the job is resumed.
    pause_requested_at: Mapped[datetime | None]
    # Set from the asking until the job is queued again.
    preempt_requested_at: Mapped[datetime | None]
    # Since when it waits for a train worker, or when it last did.
    queued_at: Mapped[datetime | None]
    # Within the department: a higher one is taken first.
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    nudged_at: Mapped[CreatedAt]
    lease_id: Mapped[UUID | None]
    epoch: Mapped[int] = mapped_column(server_default="0")
    stalls: Mapped[int] = mapped_column(server_default="0")
    # The newest progress line: step, total_steps, loss, tokens_per_s, eta_s; and the epoch that told it.
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    # What the files came to under the base model's tokenizer: an InspectReport.
    inspection: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    # What a worker must have at least, for a base in 16 bits; NULL fits anywhere.
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    # What it was thought to come to when its rows had been counted, and what it came to: an Estimate, an Actual.
    estimate: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    actual: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    # When the department was told that the finished job's checkpoints will be erased.
    checkpoints_warned_at: Mapped[datetime | None]


class Lease(Table):
    """A worker's time-limited right to run one engine batch: alive while ended_at is NULL and expires_at is ahead."""

    __tablename__ = "leases"
    __table_args__ = (
        UniqueConstraint("department_id", "id"),
        Index("ix_leases_expires_at", "expires_at", postgresql_where="ended_at IS NULL"),
        Index("ix_leases_ended_at", "ended_at", postgresql_where="ended_at IS NOT NULL"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    worker: Mapped[str]
    # NULL where a process claimed that is not registered.
    worker_id: Mapped[UUID | None] = mapped_column(ForeignKey("workers.id"))
    # Devices that it keeps busy, and which they are where that is known.
    ranks: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    device: Mapped[str | None]
    # Jobs of one engine batch, each with a lease of its own on the same devices.
    shared_by: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    acquired_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime]
    # When it was ended, or had run out before that.
    ended_at: Mapped[datetime | None]
    # finished | failed | oom_killed | cancelled | released | expired
    end_reason: Mapped[str | None]
    # What an hour of one rank costs under it, from its beginning to its end.
    price_per_gpu_hour: Mapped[Decimal] = mapped_column(server_default="0")
    # Of the checkpoint that its run goes on from: what an earlier lease was charged with already.
    resumed_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")


class JobEvent(Table):
    """One line of a job's story, for its department. `number` orders events of one transaction."""

    __tablename__ = "job_events"
    __table_args__ = (
        ForeignKeyConstraint(["department_id", "job_id"], ["jobs.department_id", "jobs.id"]),
        Index("ix_job_events_job_id_number", "job_id", "number"),
    )

    id: Mapped[UuidKey]
    number: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    job_id: Mapped[UUID]
    created_at: Mapped[CreatedAt]
    level: Mapped[str]
    type: Mapped[str]
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))


class JobCheckpoint(Table):
    """A complete checkpoint in object storage, to resume from, unless it is rejected or erased.

    rejected_at: its bytes did not match their digests. erased_at: nobody goes on from it any more, and its objects go.
    """

    __tablename__ = "job_checkpoints"
    __table_args__ = (
        ForeignKeyConstraint(["department_id", "job_id"], ["jobs.department_id", "jobs.id"]),
        UniqueConstraint("job_id", "step", "epoch"),
        Index("ix_job_checkpoints_stored", "department_id", "job_id", postgresql_where="erased_at IS NULL"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    job_id: Mapped[UUID]
    epoch: Mapped[int]
    step: Mapped[int]
    manifest: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[CreatedAt]
    rejected_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]
