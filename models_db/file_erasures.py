"""Requests to erase a file with what was made from it, and what became of them. None is ever deleted."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from domain.erasures import ErasureState, RunningJobs
from models_db.base import CreatedAt, Table, UuidKey

_STATES = ", ".join(f"'{state}'" for state in ErasureState)
_POLICIES = ", ".join(f"'{policy}'" for policy in RunningJobs)


class FileErasure(Table):
    """One request. The people are those behind the keys: nobody confirms what they asked for themselves.

    plan: the ErasurePlan that the second person agreed to. result: how much was erased.
    """

    __tablename__ = "file_erasures"
    __table_args__ = (
        ForeignKeyConstraint(["department_id", "file_id"], ["files.department_id", "files.id"]),
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint(f"running_jobs IN ({_POLICIES})", name="running_jobs"),
        CheckConstraint("confirmed_human <> requested_human", name="two_people"),
        CheckConstraint(
            "(state IN ('erasing', 'done')) = (confirmed_human IS NOT NULL AND confirmed_at IS NOT NULL"
            " AND plan IS NOT NULL)",
            name="confirmed",
        ),
        CheckConstraint("(state IN ('done', 'withdrawn')) = (ended_at IS NOT NULL)", name="ended"),
        # One at a time for each file.
        Index(
            "ix_file_erasures_open",
            "department_id",
            "file_id",
            unique=True,
            postgresql_where="state IN ('requested', 'erasing')",
        ),
        Index("ix_file_erasures_department_id_id", "department_id", "id"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    file_id: Mapped[UUID]
    state: Mapped[str]
    running_jobs: Mapped[str]
    reason: Mapped[str]
    requested_by: Mapped[UUID]
    requested_human: Mapped[UUID]
    requested_at: Mapped[CreatedAt]
    confirmed_by: Mapped[UUID | None]
    confirmed_human: Mapped[UUID | None]
    confirmed_at: Mapped[datetime | None]
    plan: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    ended_at: Mapped[datetime | None]
