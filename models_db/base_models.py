"""Base models: the organisation's, shared by all departments, pinned by the digest of every file."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models_db.base import CreatedAt, Table, UuidKey


class BaseModel(Table):
    """A frozen pretrained model. `facts` holds what its config says: architecture, context length, parameters."""

    __tablename__ = "base_models"
    __table_args__ = (CheckConstraint("state IN ('uploading', 'ready')", name="state"),)

    id: Mapped[UuidKey]
    name: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    digest: Mapped[str]
    source: Mapped[str]
    facts: Mapped[dict[str, Any]]
    created_at: Mapped[CreatedAt]
    files: Mapped[list["BaseModelFile"]] = relationship(order_by="BaseModelFile.path", cascade="all, delete-orphan")


class BaseModelFile(Table):
    """One file of a base model; uploaded_at is NULL until its bytes have arrived and matched the digest."""

    __tablename__ = "base_model_files"

    base_model_id: Mapped[UUID] = mapped_column(ForeignKey("base_models.id"), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str]
    uploaded_at: Mapped[datetime | None]
