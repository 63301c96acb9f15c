"""Where versions went: who downloaded them, and which servers say that they have them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from models_db.base import CreatedAt, Table, UuidKey


class Download(Table):
    """That somebody was sent a version, once or more often: they may have it still. Each time is an audit event."""

    __tablename__ = "downloads"
    __table_args__ = (
        UniqueConstraint("department_id", "version_id", "holder_id"),
        ForeignKeyConstraint(
            ["department_id", "version_id"], ["adapter_versions.department_id", "adapter_versions.id"]
        ),
        CheckConstraint("times >= 1", name="times"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    version_id: Mapped[UUID]
    # A user or a service account, as holder_type says.
    holder_id: Mapped[UUID]
    holder_type: Mapped[str]
    times: Mapped[int] = mapped_column(server_default="1")
    first_at: Mapped[CreatedAt]
    last_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Deployment(Table):
    """What an inference server last said of a version: that it has it loaded, or no more."""

    __tablename__ = "deployments"
    __table_args__ = (
        UniqueConstraint("department_id", "version_id", "server"),
        ForeignKeyConstraint(
            ["department_id", "version_id"], ["adapter_versions.department_id", "adapter_versions.id"]
        ),
        CheckConstraint("state IN ('loaded', 'unloaded')", name="state"),
        Index("ix_deployments_department_id_id", "department_id", "id"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    version_id: Mapped[UUID]
    # The reporter's own name for the server.
    server: Mapped[str]
    state: Mapped[str]
    reported_by: Mapped[UUID]
    # Since when it is in this state, and when that was last said.
    since: Mapped[datetime] = mapped_column(server_default=func.now())
    reported_at: Mapped[datetime] = mapped_column(server_default=func.now())
