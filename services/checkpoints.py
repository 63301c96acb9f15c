"""Signed checkpoints of the audit trail's chains.

A checkpoint's row is written first and published afterwards: whoever dies between the two publishes the same
statement later, and never makes a second one of its number.
"""

import gzip
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from evidence import checkpoints
from evidence.archives import Archive, span
from evidence.checkpoints import NO_HEAD, Checkpoint, Head, Signed, read_statement
from evidence.seals import NOTHING_BEFORE, Seal, as_json
from models_db.audit import AuditArchive, AuditCheckpoint, AuditSeal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('audit_checkpoints', 0))")
_SEALS_AT_ONCE = 500


@dataclass(frozen=True)
class Publication:
    """A checkpoint as it leaves the database: its number, its line, and its segment, the seals since the one before."""

    number: int
    line: str
    segment: bytes


def is_due(session: Session, every_s: float) -> bool:
    """Whether the newest checkpoint is so old, or there is none."""
    due = text("SELECT coalesce(max(made_at) <= now() - make_interval(secs => :every), true) FROM audit_checkpoints")
    return bool(session.execute(due, {"every": every_s}).scalar_one())


def make(session: Session, key: "Ed25519PrivateKey", *, installation: str) -> int:
    """State where the chains stand, in a sealer's session; the checkpoint's number."""
    session.execute(_LOCK)
    newest = session.scalars(select(AuditCheckpoint).order_by(AuditCheckpoint.number.desc()).limit(1)).one_or_none()
    made_at = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    heads = dict(read_statement(newest.statement).heads) if newest else {}
    seals_to = newest.seals_to if newest else 0
    digest = sha256()
    for place, seal in _seals(session, seals_to, None):
        seals_to = place
        before = heads.get(seal.chain, NO_HEAD)
        heads[seal.chain] = Head(
            seals=seal.seal,
            digest=seal.digest,
            events=before.events + len(seal.numbers),
            last_number=max(before.last_number, seal.last_number),
        )
        digest.update(_line(seal))
    checkpoint = Checkpoint(
        number=newest.number + 1 if newest else 1,
        made_at=(made_at - _EPOCH) // timedelta(microseconds=1),
        installation=installation,
        previous=sha256(newest.statement).digest() if newest else NOTHING_BEFORE,
        heads=heads,
        segment_sha256=digest.hexdigest(),
        archives={archive.partition: archive.digest for archive in _archives(session)},
    )
    signed = checkpoints.sign(checkpoint, key)
    session.add(
        AuditCheckpoint(
            number=checkpoint.number,
            made_at=made_at,
            seals_to=seals_to,
            statement=signed.statement,
            signature=signed.signature,
        )
    )
    session.flush()
    return checkpoint.number


def numbers(session: Session) -> list[int]:
    """Every checkpoint's number, newest first."""
    return list(session.scalars(select(AuditCheckpoint.number).order_by(AuditCheckpoint.number.desc())))


def lines_after(session: Session, number: int) -> list[tuple[int, str]]:
    """The later checkpoints as they stand in a file, oldest first."""
    rows = session.scalars(
        select(AuditCheckpoint).where(AuditCheckpoint.number > number).order_by(AuditCheckpoint.number)
    )
    return [(row.number, Signed(row.statement, row.signature).line()) for row in rows]


def publication(session: Session, number: int) -> Publication:
    """A checkpoint with its segment, the same whenever it is asked for."""
    row = session.get_one(AuditCheckpoint, number)
    before = session.get(AuditCheckpoint, number - 1)
    lines = b"".join(_line(seal) for _, seal in _seals(session, before.seals_to if before else 0, row.seals_to))
    line = Signed(row.statement, row.signature).line()
    return Publication(number, line, gzip.compress(lines, mtime=0))


def _seals(session: Session, after: int, until: int | None) -> Iterator[tuple[int, Seal]]:
    """Seals of all chains, with their places in the order in which they were written."""
    statement = select(AuditSeal).where(AuditSeal.id > after).order_by(AuditSeal.id)
    if until is not None:
        statement = statement.where(AuditSeal.id <= until)
    for row in session.scalars(statement.execution_options(yield_per=_SEALS_AT_ONCE)):
        yield row.id, seal_of(row)
        session.expunge(row)


def _archives(session: Session) -> Iterator[Archive]:
    for row in session.scalars(select(AuditArchive).order_by(AuditArchive.partition)):
        numbers = [span(part.lower, part.upper) for part in row.numbers]
        yield Archive(row.partition, numbers, row.events, row.leaves_sha256)


def seal_of(row: AuditSeal) -> Seal:
    """The seal of a row."""
    return Seal(
        chain=row.chain,
        seal=row.seal,
        sealed_at=(row.sealed_at - _EPOCH) // timedelta(microseconds=1),
        xid=row.xid,
        snapshot=row.snapshot,
        numbers=array("q", row.numbers),
        leaves=row.leaves,
        previous=row.previous,
    )


def _line(seal: Seal) -> bytes:
    return json.dumps(as_json(seal), separators=(",", ":")).encode() + b"\n"
