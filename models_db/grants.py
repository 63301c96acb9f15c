"""What was granted beyond roles, by name and for a time: a file's content, another department's version."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index
from sqlalchemy.orm import Mapped, mapped_column

from models_db.base import CreatedAt, Table, UuidKey


class FileGrant(Table):
    """A member may read a file's content until it expires, or is ended."""

    __tablename__ = "file_grants"
    __table_args__ = (
        ForeignKeyConstraint(["department_id", "file_id"], ["files.department_id", "files.id"]),
        ForeignKeyConstraint(["department_id", "user_id"], ["memberships.department_id", "memberships.user_id"]),
        CheckConstraint("granted_by <> user_id", name="not_oneself"),
        Index("ix_file_grants_file_id_user_id", "file_id", "user_id"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    file_id: Mapped[UUID]
    user_id: Mapped[UUID]
    granted_by: Mapped[UUID]
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class VersionShare(Table):
    """Another department may see and pull a version: asked for by the admin, approved by an approver, for a time.

    digest is that of the version when it was asked for: what is approved is what is handed out. to_department has no
    foreign key: whether a department exists is not the asker's to find out.
    """

    __tablename__ = "version_shares"
    __table_args__ = (
        ForeignKeyConstraint(
            ["department_id", "version_id"], ["adapter_versions.department_id", "adapter_versions.id"]
        ),
        CheckConstraint("to_department <> department_id", name="another"),
        CheckConstraint("decided_by <> requested_by", name="two_people"),
        CheckConstraint("(decided_by IS NULL) = (decided_at IS NULL)", name="decided"),
        Index("ix_version_shares_to_department", "to_department"),
        Index("ix_version_shares_version_id", "version_id"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    version_id: Mapped[UUID]
    digest: Mapped[str]
    to_department: Mapped[UUID]
    requested_by: Mapped[UUID]
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime]
    decided_by: Mapped[UUID | None]
    decided_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
