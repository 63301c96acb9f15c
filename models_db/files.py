"""Uploaded files."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from domain.data_classes import DataClass
from models_db.base import CreatedAt, Table, UuidKey

_CLASSES = ", ".join(f"'{data_class}'" for data_class in DataClass)


class File(Table):
    """Immutable bytes of a department. A deleted file keeps its row: lineage points at it."""

    __tablename__ = "files"
    __table_args__ = (
        UniqueConstraint("department_id", "id"),
        CheckConstraint(f"data_class IN ({_CLASSES})", name="data_class"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str]
    # Rows, and duplicates among them; NULL for files that are no rows.
    rows: Mapped[int | None]
    duplicate_rows: Mapped[int | None]
    # How confidential they are.
    data_class: Mapped[str] = mapped_column(server_default=DataClass.INTERNAL)
    created_by: Mapped[UUID]
    created_at: Mapped[CreatedAt]
    deleted_at: Mapped[datetime | None]
