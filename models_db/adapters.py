"""Adapter series, their immutable versions, aliases and how they moved, lineage and evaluations."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from domain.adapters import MoveKind, VersionState
from domain.data_classes import DataClass
from models_db.base import CreatedAt, Table, UuidKey

_STATES = ", ".join(f"'{state}'" for state in VersionState)
_CLASSES = ", ".join(f"'{data_class}'" for data_class in DataClass)
_KINDS = ", ".join(f"'{kind}'" for kind in MoveKind)


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
    """Version N of an adapter: immutable but for its state and what people write beside it. One job makes at most one.

    An imported one has no job.

    A trigger refuses every other change, and every move of the state that is not in `domain.adapters.NEXT`.
    damaged_at: a file of it was found missing or changed in storage; until it is whole again nobody gets it.
    deleted_at: only this row is left of it, and its number is not given away again.
    """

    __tablename__ = "adapter_versions"
    __table_args__ = (
        UniqueConstraint("department_id", "id"),
        # What a move of an alias refers to: a version of the alias's own adapter.
        UniqueConstraint("department_id", "adapter_id", "id"),
        # What a request to approve refers to: these bytes, and whoever had them made.
        UniqueConstraint("department_id", "id", "digest", "submitter_id"),
        UniqueConstraint("adapter_id", "number"),
        UniqueConstraint("job_id"),
        UniqueConstraint("department_id", "model_name"),
        ForeignKeyConstraint(["department_id", "adapter_id"], ["adapters.department_id", "adapters.id"]),
        ForeignKeyConstraint(["department_id", "job_id"], ["jobs.department_id", "jobs.id"]),
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint(f"data_class IN ({_CLASSES})", name="data_class"),
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
    # The person behind it, who cannot approve it; NULL where nobody is known, and nobody can.
    submitter_id: Mapped[UUID | None]
    created_at: Mapped[CreatedAt]
    # As confidential as the most confidential file that it learned from.
    data_class: Mapped[str] = mapped_column(server_default=DataClass.INTERNAL)
    # Who trained it, and by which code; NULL in a version from before this was kept.
    worker: Mapped[str | None]
    worker_id: Mapped[UUID | None] = mapped_column(ForeignKey("workers.id"))
    code_version: Mapped[str | None]
    labels: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    description: Mapped[str] = mapped_column(server_default="")
    # Why it is retired or revoked, and since when its state is what it is; NULL in a candidate.
    state_reason: Mapped[str | None]
    state_changed_at: Mapped[datetime | None]
    damaged_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class Alias(Table):
    """A name that moves between versions of an adapter. `latest` follows the newest.

    move_id: the move that put it where it is. It can stand for no other version than that of the move.
    """

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(
            ["department_id", "adapter_id", "name", "version_id", "move_id"],
            [f"alias_moves.{column}" for column in ("department_id", "adapter_id", "name", "version_id", "id")],
        ),
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
    # NULL where a worker of an earlier release put it.
    move_id: Mapped[UUID | None]


class AliasMove(Table):
    """One move of an alias, or its end: who, when, from where, to where. Written once, never changed.

    A trigger refuses a version that the alias may not stand for, and one that the mover has approved where the alias is
    protected. previous_id: what a rollback goes back to; after one, what was before that.
    """

    __tablename__ = "alias_moves"
    __table_args__ = (
        UniqueConstraint("department_id", "id"),
        UniqueConstraint("department_id", "adapter_id", "name", "version_id", "id"),
        ForeignKeyConstraint(["department_id", "adapter_id"], ["adapters.department_id", "adapters.id"]),
        ForeignKeyConstraint(
            ["department_id", "adapter_id", "version_id"],
            ["adapter_versions.department_id", "adapter_versions.adapter_id", "adapter_versions.id"],
        ),
        ForeignKeyConstraint(
            ["department_id", "adapter_id", "from_version_id"],
            ["adapter_versions.department_id", "adapter_versions.adapter_id", "adapter_versions.id"],
        ),
        ForeignKeyConstraint(["department_id", "previous_id"], ["alias_moves.department_id", "alias_moves.id"]),
        CheckConstraint(f"kind IN ({_KINDS})", name="kind"),
        CheckConstraint("(kind = 'withdrawn') = (version_id IS NULL)", name="withdrawn"),
        CheckConstraint("NOT protected OR version_id IS NULL OR mover_id IS NOT NULL", name="protected_by_a_person"),
        Index("ix_alias_moves_department_id_adapter_id_name_number", "department_id", "adapter_id", "name", "number"),
    )

    id: Mapped[UuidKey]
    # In the order in which they happened.
    number: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    adapter_id: Mapped[UUID]
    name: Mapped[str]
    kind: Mapped[str]
    from_version_id: Mapped[UUID | None]
    version_id: Mapped[UUID | None]
    previous_id: Mapped[UUID | None]
    # Whether the installation protected the name at that time.
    protected: Mapped[bool] = mapped_column(server_default=text("false"))
    # Of the policies that let a protected one move.
    policy_digest: Mapped[str | None]
    moved_by_type: Mapped[str]
    moved_by: Mapped[UUID | None]
    # The person behind whoever moved it.
    mover_id: Mapped[UUID | None]
    moved_at: Mapped[CreatedAt]


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
