"""Requests to approve a version, what people said to them, and what they decided."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    SmallInteger,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Uuid

from domain.approvals import ApprovalState, Decision
from models_db.base import CreatedAt, Table, UuidKey

_STATES = ", ".join(f"'{state}'" for state in ApprovalState)
_DECISIONS = ", ".join(f"'{decision}'" for decision in Decision)
# A request's own key, and what a decision copies of it: one that says something else refers to nothing.
_BOUND = ("version_id", "digest", "submitter_id", "requester_id")


class ApprovalRequest(Table):
    """Somebody asks for a version to be approved. It is about these bytes, whatever happens to the version.

    submitter_id is the person behind the version, requester_id the one behind the request: neither can decide it.
    """

    __tablename__ = "approval_requests"
    __table_args__ = (
        UniqueConstraint("department_id", "id"),
        UniqueConstraint("department_id", "id", *_BOUND, name="uq_approval_requests_bound"),
        ForeignKeyConstraint(
            ["department_id", "version_id", "digest", "submitter_id"],
            [f"adapter_versions.{column}" for column in ("department_id", "id", "digest", "submitter_id")],
            name="fk_approval_requests_version",
        ),
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint("(state = 'pending') = (closed_at IS NULL)", name="closed"),
        CheckConstraint("required >= 1", name="required"),
        Index(
            "ix_approval_requests_pending_version_id",
            "version_id",
            unique=True,
            postgresql_where="state = 'pending'",
        ),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    version_id: Mapped[UUID]
    digest: Mapped[str]
    submitter_id: Mapped[UUID]
    requester_id: Mapped[UUID]
    requested_by: Mapped[UUID]
    requested_by_type: Mapped[str]
    note: Mapped[str]
    # Evaluations of the version that it rests on.
    evaluation_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid()))
    # How many people must approve.
    required: Mapped[int] = mapped_column(SmallInteger)
    # Of the policies that were in force; NULL where there were none.
    policy_digest: Mapped[str | None]
    state: Mapped[str]
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]


class ApprovalDecision(Table):
    """What one person decided. Written once, never changed."""

    __tablename__ = "approval_decisions"
    __table_args__ = (
        UniqueConstraint("request_id", "approver_id"),
        ForeignKeyConstraint(
            ["department_id", "request_id", *_BOUND],
            [f"approval_requests.{column}" for column in ("department_id", "id", *_BOUND)],
            name="fk_approval_decisions_request",
        ),
        CheckConstraint(f"decision IN ({_DECISIONS})", name="decision"),
        # Nobody approves what they made, or asked for themselves.
        CheckConstraint("approver_id <> submitter_id", name="not_the_submitter"),
        CheckConstraint("approver_id <> requester_id", name="not_the_requester"),
        Index("ix_approval_decisions_department_id_version_id", "department_id", "version_id"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    request_id: Mapped[UUID]
    version_id: Mapped[UUID]
    digest: Mapped[str]
    submitter_id: Mapped[UUID]
    requester_id: Mapped[UUID]
    # The person behind the key that decided.
    approver_id: Mapped[UUID]
    decision: Mapped[str]
    comment: Mapped[str]
    # Of the policies that were in force at that moment.
    policy_digest: Mapped[str | None]
    created_at: Mapped[CreatedAt]


class ApprovalComment(Table):
    """What somebody said to a request."""

    __tablename__ = "approval_comments"
    __table_args__ = (
        ForeignKeyConstraint(
            ["department_id", "request_id"], ["approval_requests.department_id", "approval_requests.id"]
        ),
        Index("ix_approval_comments_department_id_request_id", "department_id", "request_id"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    request_id: Mapped[UUID]
    author_type: Mapped[str]
    author_id: Mapped[UUID]
    comment: Mapped[str]
    created_at: Mapped[CreatedAt]
