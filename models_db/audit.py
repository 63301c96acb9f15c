"""The audit trail. Rows are written by the function `audit_append` alone; nobody may change or delete one."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Identity, Index, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Uuid

from models_db.base import Table


class AuditRecord(Table):
    """Who did what to what, when, and how it ended. No names, prompts or rows: ids and digests.

    No foreign keys: the record outlives its subjects. department_id is NULL for what concerns the platform.
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("ix_audit_events_department_id_number", "department_id", "number"),
        Index("ix_audit_events_actor_id_number", "actor_id", "number"),
        Index("ix_audit_events_resource_id_number", "resource_id", "number"),
        Index("ix_audit_events_refs", "refs", postgresql_using="gin"),
    )

    number: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    id: Mapped[UUID] = mapped_column(unique=True, server_default=func.uuidv7())
    occurred_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    department_id: Mapped[UUID | None]
    actor_type: Mapped[str]
    actor_id: Mapped[UUID | None]
    actor_key_id: Mapped[UUID | None]
    action: Mapped[str]
    outcome: Mapped[str]
    reason_code: Mapped[str | None]
    resource_type: Mapped[str | None]
    resource_id: Mapped[UUID | None]
    refs: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid()))
    request_id: Mapped[str | None]
    source_ip: Mapped[str | None]
    details: Mapped[dict[str, Any]]
