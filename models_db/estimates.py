"""Estimates that wait for their rows to be counted, and what rows were counted to come to."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models_db.base import CreatedAt, Table, UuidKey


class Inspection(Table):
    """What one set of files came to under one base model's tokenizer: an InspectReport, findings included.

    `key` is a digest of all it depends on. The next estimate of the same rows, and their job, need not count again.
    """

    __tablename__ = "inspections"

    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    report: Mapped[dict[str, Any]]
    created_at: Mapped[CreatedAt]


class AskedEstimate(Table):
    """A request whose rows are to be counted. It waits while there is no error, and no inspection of its key.

    `request` is the JobRequest, `data` the RunData it came to. What it comes to is worked out when it is asked for.
    """

    __tablename__ = "estimates"

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"), index=True)
    base_model_id: Mapped[UUID] = mapped_column(ForeignKey("base_models.id"))
    request: Mapped[dict[str, Any]]
    data: Mapped[dict[str, Any]]
    inspection_key: Mapped[str]
    # Why the rows could not be counted.
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    created_by: Mapped[UUID]
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime]
    nudged_at: Mapped[CreatedAt]
