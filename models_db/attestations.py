"""Signatures of versions, and the public keys that check them."""

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint
from sqlalchemy.orm import Mapped, mapped_column

from domain.attestations import AttestationKind
from models_db.base import CreatedAt, Table

_KINDS = ", ".join(f"'{kind}'" for kind in AttestationKind)


class SigningKeyRecord(Table):
    """A public key that versions were signed with. The platform's, kept for ever: what it signed is checked with it."""

    __tablename__ = "signing_keys"

    key_id: Mapped[str] = mapped_column(primary_key=True)
    algorithm: Mapped[str]
    pem: Mapped[str]
    created_at: Mapped[CreatedAt]


class VersionAttestation(Table):
    """A signature, or a signed statement of how a version was made: a blob beside the version's files, no part of them.

    Written with its version, and never changed.
    """

    __tablename__ = "version_attestations"
    __table_args__ = (
        ForeignKeyConstraint(
            ["department_id", "version_id"], ["adapter_versions.department_id", "adapter_versions.id"]
        ),
        CheckConstraint(f"kind IN ({_KINDS})", name="kind"),
    )

    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"), primary_key=True)
    version_id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    bytes: Mapped[int]
    key_id: Mapped[str] = mapped_column(ForeignKey("signing_keys.key_id"))
    created_at: Mapped[CreatedAt]
