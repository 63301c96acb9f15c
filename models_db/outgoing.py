"""What is told to others: who wants to hear, what there is to tell, and how far the telling is."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    SmallInteger,
    UniqueConstraint,
    func,
)
from sqlalchemy.orm import Mapped, mapped_column

from domain.outgoing import OutgoingKind
from models_db.base import CreatedAt, Table, UuidKey

_KINDS = ", ".join(f"'{kind}'" for kind in OutgoingKind)


class WebhookEndpoint(Table):
    """Who wants to hear. department_id is NULL for the organisation's own, which hears of all departments.

    The secret is kept as it is: each message is signed with it. An endpoint that is deleted has none any more.
    """

    __tablename__ = "webhook_endpoints"
    __table_args__ = (
        CheckConstraint("deleted_at IS NULL OR secret IS NULL AND old_secret IS NULL", name="deleted"),
        CheckConstraint("deleted_at IS NOT NULL OR secret IS NOT NULL", name="secret"),
        Index("ix_webhook_endpoints_department_id_id", "department_id", "id"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID | None] = mapped_column(ForeignKey("departments.id"))
    name: Mapped[str]
    url: Mapped[str]
    event_types: Mapped[list[str]]
    secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    # Signs beside the new one for a day after a change, where that was asked for.
    old_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    old_secret_ends_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_by: Mapped[UUID]
    deleted_at: Mapped[datetime | None]


class OutgoingEvent(Table):
    """Something that happened, entered in the transaction in which it did. data: ids, digests, numbers and states.

    fanned_out_at: when it was given to all who wanted to hear of it then.
    """

    __tablename__ = "outgoing_events"
    __table_args__ = (
        UniqueConstraint("department_id", "id"),
        CheckConstraint(f"kind IN ({_KINDS})", name="kind"),
        Index("ix_outgoing_events_new", "id", postgresql_where="fanned_out_at IS NULL"),
        Index("ix_outgoing_events_created_at", "created_at"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    kind: Mapped[str]
    # The job or the version that it is about.
    subject_id: Mapped[UUID]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[CreatedAt]
    fanned_out_at: Mapped[datetime | None]


class OutgoingDelivery(Table):
    """One event on its way to one receiver. It is due while due_at is set, and then delivered or given up.

    receiver is an endpoint, or `domain.outgoing.OPENLINEAGE`; no foreign key: the organisation's endpoints belong to no
    department. attempts is also the token of who sends: an answer to an earlier attempt changes nothing.
    """

    __tablename__ = "outgoing_deliveries"
    __table_args__ = (
        ForeignKeyConstraint(
            ["department_id", "event_id"], ["outgoing_events.department_id", "outgoing_events.id"], ondelete="CASCADE"
        ),
        UniqueConstraint("department_id", "event_id", "receiver"),
        CheckConstraint("num_nonnulls(due_at, delivered_at, given_up_at) = 1", name="one_state"),
        Index("ix_outgoing_deliveries_due", "receiver", "due_at", postgresql_where="due_at IS NOT NULL"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    event_id: Mapped[UUID]
    receiver: Mapped[UUID]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    due_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    delivered_at: Mapped[datetime | None]
    given_up_at: Mapped[datetime | None]
    # What the newest attempt came to: the answer's status, or why there was none.
    status_code: Mapped[int | None] = mapped_column(SmallInteger)
    error: Mapped[str | None]
