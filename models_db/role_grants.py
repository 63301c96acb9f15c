"""Roles that operators give, and emergencies that two people open."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models_db.base import CreatedAt, Table, UuidKey


class RoleGrant(Table):
    """An approver's, operator's or auditor's role for a person, asked for by one operator and decided by another.

    department_id is NULL for the platform's roles. requested_by and decided_by are people, and for the platform's first
    keys, which are nobody's, their accounts. needed is set by the database: one operator where there is one.
    """

    __tablename__ = "role_grants"
    __table_args__ = (
        CheckConstraint("role IN ('approver', 'operator', 'auditor')", name="role"),
        CheckConstraint("(role = 'approver') = (department_id IS NOT NULL)", name="place"),
        CheckConstraint("needed IN (1, 2)", name="needed"),
        CheckConstraint("(decided_by IS NULL) = (decided_at IS NULL)", name="decided"),
        CheckConstraint("needed = 1 OR decided_by <> requested_by", name="two_people"),
        CheckConstraint("user_id NOT IN (requested_by, decided_by)", name="not_oneself"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID | None] = mapped_column(ForeignKey("departments.id"))
    role: Mapped[str]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    needed: Mapped[int] = mapped_column(server_default=text("2"))
    requested_by: Mapped[UUID]
    created_at: Mapped[CreatedAt]
    decided_by: Mapped[UUID | None]
    decided_at: Mapped[datetime | None]
    # When it was taken back, before or after it was decided.
    withdrawn_at: Mapped[datetime | None]


class BreakGlass(Table):
    """Access to one department's data in an emergency: asked for by one person, opened by another, over by itself."""

    __tablename__ = "break_glass"
    __table_args__ = (
        ForeignKeyConstraint(
            ["department_id", "account_id"], ["service_accounts.department_id", "service_accounts.id"]
        ),
        UniqueConstraint("department_id", "id"),
        CheckConstraint("lasts_s BETWEEN 60 AND 14400", name="lasts_s"),
        CheckConstraint("opened_by <> requested_by", name="two_people"),
        CheckConstraint("num_nulls(opened_by, opened_at, expires_at, account_id) IN (0, 4)", name="opened"),
        CheckConstraint("expires_at <= opened_at + interval '4 hours'", name="four_hours"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    reason: Mapped[str]
    lasts_s: Mapped[int]
    requested_by: Mapped[UUID]
    # The person who answers for what is done with it; NULL where a first key asked.
    answered_for_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[CreatedAt]
    opened_by: Mapped[UUID | None]
    opened_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    account_id: Mapped[UUID | None]
