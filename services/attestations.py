"""What goes with a version's files to whoever wants to check them: entered with it, read with it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require
from domain.approvals import ApprovalState, Decision
from domain.attestations import Approval, Approver, Attestation, AttestationKind, utc
from domain.digests import Digest
from domain.ids import IdKind, public_id
from models_db.adapters import Adapter, AdapterVersion, Alias
from models_db.approvals import ApprovalDecision, ApprovalRequest
from models_db.attestations import SigningKeyRecord, VersionAttestation
from services import blobs
from signing.keys import PublicKey


@dataclass(frozen=True)
class Attested:
    """A version's attestations, in storage already, and the key that checks them."""

    key: PublicKey
    attestations: tuple[Attestation, ...]

    @property
    def digests(self) -> frozenset[Digest]:
        """Of their bytes."""
        return frozenset(each.digest for each in self.attestations)

    def told(self) -> dict[str, str]:
        """For the audit trail."""
        return {"key_id": self.key.key_id} | {f"{each.kind}_digest": each.digest for each in self.attestations}


def enter(session: Session, version: AdapterVersion, attested: Attested) -> None:
    """Write down what a version is signed with, in the transaction that enters it."""
    key = attested.key
    # Its first signature makes a key known; it stays so when another one signs.
    session.execute(
        insert(SigningKeyRecord)
        .values(key_id=key.key_id, algorithm=key.algorithm, pem=key.pem)
        .on_conflict_do_nothing()
    )
    session.add_all(
        VersionAttestation(
            department_id=version.department_id,
            version_id=version.id,
            kind=each.kind,
            digest=each.digest,
            bytes=each.bytes,
            key_id=each.key_id,
        )
        for each in attested.attestations
    )


def of_version(session: Session, version: UUID) -> Sequence[Attestation]:
    """Its signature and its provenance; none of a version from before there were any."""
    entered = VersionAttestation
    columns = select(entered.kind, entered.digest, entered.bytes, entered.key_id)
    return _read(session.execute(columns.where(entered.version_id == version).order_by(entered.kind)).all())


def of_shared(session: Session, share: UUID) -> Sequence[Attestation]:
    """Those of a version that another department shares with the session's, as long as it does."""
    return _read(session.execute(text("SELECT * FROM shared_attestations(:share)"), {"share": share}).all())


def _read(rows: Iterable[Any]) -> Sequence[Attestation]:
    return [
        Attestation(kind=AttestationKind(row.kind), digest=row.digest, bytes=row.bytes, key_id=row.key_id)
        for row in rows
    ]


def approval_of(session: Session, adapter: Adapter, version: AdapterVersion, organisation: str) -> Approval:
    """Where a version stands now, by the database's clock."""
    aliases = session.scalars(select(Alias.name).where(Alias.version_id == version.id).order_by(Alias.name)).all()
    return Approval(
        adapter=adapter.name,
        number=version.number,
        digest=version.digest,
        state=version.state,
        approvers=tuple(_approvers(session, version)),
        aliases=tuple(aliases),
        department=public_id(IdKind.DEPARTMENT, version.department_id),
        organisation=organisation,
        as_of=utc(blobs.clock(session)),
    )


def _approvers(session: Session, version: AdapterVersion) -> Iterator[Approver]:
    """Who approved these very bytes, in a request that came to its end so."""
    found = session.execute(
        select(ApprovalDecision.approver_id, ApprovalDecision.created_at)
        .join(ApprovalRequest, ApprovalRequest.id == ApprovalDecision.request_id)
        .where(
            ApprovalDecision.version_id == version.id,
            ApprovalDecision.digest == version.digest,
            ApprovalDecision.decision == Decision.APPROVE,
            ApprovalRequest.state == ApprovalState.APPROVED,
        )
        .order_by(ApprovalDecision.id)
    )
    for row in found:
        yield Approver(id=public_id(IdKind.USER, row.approver_id), decided_at=utc(row.created_at))


def known_keys(session: Session, principal: Principal) -> Sequence[SigningKeyRecord]:
    """Every key that ever signed a version here, newest first."""
    require(principal, Permission.SIGNING_KEY_READ)
    return session.scalars(select(SigningKeyRecord).order_by(SigningKeyRecord.created_at.desc())).all()
