"""Policies: the documents of the organisation and of departments, one row a version."""

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from models_db.base import CreatedAt, Table, UuidKey


class StoredPolicy(Table):
    """Version N of a document, written once. department_id is NULL for the organisation's.

    A trigger lets a number only follow the one before it, so that there are no gaps.
    """

    __tablename__ = "policies"
    __table_args__ = (
        Index(
            "uq_policies_department_id_number",
            "department_id",
            "number",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
        CheckConstraint("number >= 1", name="number"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID | None] = mapped_column(ForeignKey("departments.id"))
    number: Mapped[int]
    # As it was put, comments and all; digest is that of these bytes.
    document: Mapped[str]
    digest: Mapped[str]
    created_by: Mapped[UUID]
    created_by_type: Mapped[str]
    created_at: Mapped[CreatedAt]
