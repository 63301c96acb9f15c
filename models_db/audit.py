"""The audit trail, and what proves it: seals of each chain, signed checkpoints, the manifests of dropped months.

Rows of `audit_events` are written by the function `audit_append` alone; nobody may change or delete one.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Identity, Index, LargeBinary, SmallInteger, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import ARRAY, INT8MULTIRANGE, JSONB, Range
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Uuid

from models_db.base import CreatedAt, Table, UuidKey


class AuditRecord(Table):
    """Who did what to what, when, and how it ended. No names, prompts or rows: ids and digests.

    No foreign keys: the record outlives its subjects. department_id is NULL for what concerns the platform. One
    partition a month, in the schema `audit`. xid is the transaction that wrote it, which says what it may follow.
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("ix_audit_events_id", "id"),
        Index("ix_audit_events_xid", "xid"),
        Index("ix_audit_events_department_id_number", "department_id", "number"),
        Index("ix_audit_events_actor_id_number", "actor_id", "number"),
        Index("ix_audit_events_resource_id_number", "resource_id", "number"),
        Index("ix_audit_events_action_department_id_number", "action", "department_id", "number"),
        Index("ix_audit_events_request_id", "request_id"),
        Index(
            "ix_audit_events_not_done", "department_id", "number", postgresql_where=text("outcome <> 'success'::text")
        ),
        Index("ix_audit_events_refs", "refs", postgresql_using="gin"),
        {"postgresql_partition_by": "RANGE (occurred_at)"},
    )

    xid: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    id: Mapped[UUID] = mapped_column(server_default=func.uuidv7())
    occurred_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), primary_key=True)
    department_id: Mapped[UUID | None]
    actor_type: Mapped[str]
    actor_id: Mapped[UUID | None]
    actor_key_id: Mapped[UUID | None]
    auth_method: Mapped[str | None]
    on_behalf_of: Mapped[UUID | None]
    roles: Mapped[list[str]]
    action: Mapped[str]
    outcome: Mapped[str]
    reason_code: Mapped[str | None]
    resource_type: Mapped[str | None]
    resource_id: Mapped[UUID | None]
    refs: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid()))
    request_id: Mapped[str | None]
    trace_id: Mapped[str | None]
    source_ip: Mapped[str | None]
    user_agent_hash: Mapped[str | None]
    job_epoch: Mapped[int | None]
    before: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    after: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    object_sha256: Mapped[str | None]
    policy_version: Mapped[str | None]
    schema_version: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    details: Mapped[dict[str, Any]]


class AuditSeal(Table):
    """The digests of some events of one chain, bound to those before them; see `evidence.seals`.

    A chain is a department's; the platform's has the UUID of zeros. Seals are written in the order of id, a round of
    them from one snapshot. numbers and leaves say which events, and each one's digest (32 bytes each).
    """

    __tablename__ = "audit_seals"
    __table_args__ = (UniqueConstraint("chain", "seal"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    chain: Mapped[UUID]
    seal: Mapped[int]
    sealed_at: Mapped[datetime]
    xid: Mapped[int] = mapped_column(BigInteger)
    snapshot: Mapped[str]
    first_number: Mapped[int] = mapped_column(BigInteger)
    last_number: Mapped[int] = mapped_column(BigInteger)
    events: Mapped[int]
    numbers: Mapped[list[int]] = mapped_column(ARRAY(BigInteger()))
    leaves: Mapped[bytes] = mapped_column(LargeBinary)
    previous: Mapped[bytes] = mapped_column(LargeBinary)
    digest: Mapped[bytes] = mapped_column(LargeBinary)


class AuditCheckpoint(Table):
    """A signed statement of where every chain stood, which was also given to those outside. seals_to: the last it saw.

    statement is kept as the bytes that were signed.
    """

    __tablename__ = "audit_checkpoints"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    made_at: Mapped[CreatedAt]
    seals_to: Mapped[int] = mapped_column(BigInteger)
    statement: Mapped[bytes] = mapped_column(LargeBinary)
    signature: Mapped[bytes] = mapped_column(LargeBinary)


class AuditArchive(Table):
    """What is left of a month whose events were dropped: which numbers they had, and the digest of their digests."""

    __tablename__ = "audit_archives"

    partition: Mapped[str] = mapped_column(primary_key=True)
    dropped_at: Mapped[CreatedAt]
    numbers: Mapped[list[Range[int]]] = mapped_column(INT8MULTIRANGE)
    events: Mapped[int] = mapped_column(BigInteger)
    leaves_sha256: Mapped[str]


class AuditExport(Table):
    """An export that is too large for one answer: what was asked for, and where it stands. The auditor's alone."""

    __tablename__ = "audit_exports"

    id: Mapped[UuidKey]
    created_at: Mapped[CreatedAt]
    format: Mapped[str]
    scope: Mapped[dict[str, Any]]
    state: Mapped[str]
    rows: Mapped[int | None] = mapped_column(BigInteger)
    digest: Mapped[str | None]
    bytes: Mapped[int | None] = mapped_column(BigInteger)
