"""Adapter series, their immutable versions, aliases, lineage and evaluations."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, UniqueConstraint, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from domain.adapters import VersionState
from models_db.base import CreatedAt, Table, UuidKey

_STATES = ", ".join(f"'{state}'" for state in VersionState)


class Adapter(Table):
    """A named series in a department. next_number is a row, not a sequence: numbers have no gaps."""

    __tablename__ = "adapters"
    __table_args__ = (UniqueConstraint("department_id", "id"), UniqueConstraint("department_id", "name"))

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    name: Mapped[str]
    next_number: Mapped[int] = mapped_column(server_default="1")
    created_at: Mapped[CreatedAt]


class AdapterVersion(Table):
    """Version N of an adapter: immutable but for its state. One job makes at most one; an imported one has no job.

    damaged_at: a file of it was found missing or changed in storage; until it is whole again nobody gets it.
    """

    __tablename__ = "adapter_versions"
    __table_args__ = (
        UniqueConstraint("department_id", "id"),
        UniqueConstraint("adapter_id", "number"),
        UniqueConstraint("job_id"),
        UniqueConstraint("department_id", "model_name"),
        ForeignKeyConstraint(["department_id", "adapter_id"], ["adapters.department_id", "adapters.id"]),
        ForeignKeyConstraint(["department_id", "job_id"], ["jobs.department_id", "jobs.id"]),
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint("number >= 1", name="number"),
        CheckConstraint(
            "num_nulls(job_id, report) = CASE WHEN created_by_type IS NULL THEN 0 ELSE 2 END",
            name="trained_or_imported",
        ),
        CheckConstraint("num_nulls(job_id, imported_method) = 1", name="method_known"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    adapter_id: Mapped[UUID]
    number: Mapped[int]
    job_id: Mapped[UUID | None]
    base_model_id: Mapped[UUID] = mapped_column(ForeignKey("base_models.id"))
    state: Mapped[str]
    model_name: Mapped[str]
    digest: Mapped[str]
    manifest: Mapped[dict[str, Any]]
    # The engine's RunReport, where it was trained here.
    report: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    # Of an imported version: the LoraMethod that its configuration comes to. Of others the job's specification says it.
    imported_method: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    created_by: Mapped[UUID]
    # Of an imported version: whether they are a user or a service account. Of others the job says so.
    created_by_type: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    damaged_at: Mapped[datetime | None]


class Alias(Table):
    """A name that moves between versions of an adapter; every move is an audit event. `latest` follows the newest."""

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(["department_id", "adapter_id"], ["adapters.department_id", "adapters.id"]),
        ForeignKeyConstraint(
            ["department_id", "version_id"], ["adapter_versions.department_id", "adapter_versions.id"]
        ),
    )

    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"), primary_key=True)
    adapter_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[UUID]
    moved_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LineageEdge(Table):
    """`subject relation object`, such as version trained_on file. Readable from both ends."""

    __tablename__ = "lineage_edges"
    __table_args__ = (UniqueConstraint("department_id", "subject_id", "relation", "object_id"),)

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    subject_type: Mapped[str]
    subject_id: Mapped[UUID] = mapped_column(index=True)
    relation: Mapped[str]
    object_type: Mapped[str]
    object_id: Mapped[UUID] = mapped_column(index=True)
    created_at: Mapped[CreatedAt]


class Evaluation(Table):
    """What one version came to on one file, beside what the base model alone came to: two EvaluationReports."""

    __tablename__ = "evaluations"
    __table_args__ = (
        ForeignKeyConstraint(
            ["department_id", "version_id"], ["adapter_versions.department_id", "adapter_versions.id"]
        ),
        ForeignKeyConstraint(["department_id", "file_id"], ["files.department_id", "files.id"]),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    version_id: Mapped[UUID] = mapped_column(index=True)
    file_id: Mapped[UUID]
    base_report: Mapped[dict[str, Any]] = mapped_column(JSONB)
    adapter_report: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[CreatedAt]
