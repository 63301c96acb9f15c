"""What is about to leave the object store, and whose part of it was looked at when."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from models_db.base import Table


class Erasure(Table):
    """One erasing of a blob: until ends_at the object may vanish at any moment, and after that no more by this one.

    id is of all the blobs that were announced together.
    """

    __tablename__ = "erasures"
    __table_args__ = (Index("ix_erasures_department_id_digest", "department_id", "digest"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    ends_at: Mapped[datetime]


class StorageSweep(Table):
    """When a department's objects are to be looked at next. swept_to: the last key looked at, '' to begin anew."""

    __tablename__ = "storage_sweeps"

    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"), primary_key=True)
    due_at: Mapped[datetime]
    swept_to: Mapped[str] = mapped_column(server_default="")
