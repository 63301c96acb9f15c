"""Who people are at the identity provider: the organisation's, as people are, and never in the audit trail."""

from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from models_db.base import CreatedAt, Table


class LinkedIdentity(Table):
    """A provider's subject, and the person that it stands for."""

    __tablename__ = "identities"

    issuer: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[CreatedAt]
