"""A department's blobs: which of them rows name, and how one is erased without erasing one that is about to be named.

Bytes are put before the row that names them, and equal bytes are one object. So whoever stores what has long lain
there, named by no row, finds it and enters a row, while at that moment somebody may erase it. Three rules keep the two
apart:

1. An erasing is announced in a transaction that finds no row, under the digest's lock, before it is sent.
2. Its request is signed before it is announced, and the store refuses it ERASE_WITHIN_S later. Whoever is stopped
   between the two, and wakes up in an hour, erases nothing.
3. A row may name only bytes whose put began after every announced erasing of them had ended.

An erasing announced after the row is entered finds the row; one announced before is seen by rule 3. Times are the
database's, but for the signature's: it may be ahead of the store's clock by MAX_AHEAD_S, and an erasing that nobody saw
end counts as pending for so much longer.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session

from domain.digests import Digest
from domain.jobs import TERMINAL
from models_db.retention import Erasure
from models_db.sessions import take_lock
from storage.objects import MAX_AHEAD_S

ERASE_WITHIN_S = 60
_PENDING = timedelta(seconds=ERASE_WITHIN_S + MAX_AHEAD_S)

# Erasings that ended are remembered for this long; a put that began too long before its row is not vouched for.
_REMEMBERED = timedelta(days=1)
_PUT_COUNTS = _REMEMBERED / 2

_NAMED = text("""
    SELECT digest FROM files WHERE digest = ANY(:digests) AND deleted_at IS NULL
    UNION
    SELECT file ->> 'digest' FROM adapter_versions, jsonb_array_elements(manifest -> 'files') AS file
    WHERE file ->> 'digest' = ANY(:digests) AND deleted_at IS NULL
    UNION
    SELECT a.digest FROM version_attestations a
    JOIN adapter_versions v ON v.department_id = a.department_id AND v.id = a.version_id
    WHERE a.digest = ANY(:digests) AND v.deleted_at IS NULL
    UNION
    -- A file whose erasing waits for a job is deleted already, and its bytes are that job's until it has ended.
    SELECT f.digest FROM files f WHERE f.digest = ANY(:digests) AND f.deleted_at IS NOT NULL AND EXISTS (
        SELECT FROM jobs j
        WHERE f.id IN (j.training_file_id, j.validation_file_id, j.evaluation_file_id) AND j.state <> ALL(:ended)
    )
""")
_ENDED = [state.value for state in TERMINAL]


class BytesErased(Exception):  # noqa: N818 - named for the fact
    """Stored bytes may have been erased since, or be erased in a moment: put them again, then enter the row."""


@dataclass(frozen=True)
class Announced:
    """An erasing of blobs that no row names, which the caller may send now."""

    id: UUID
    digests: tuple[Digest, ...]


def clock(session: Session) -> datetime:
    """The time before a put, for `confirm` after it."""
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return now


def confirm(session: Session, department: UUID | None, digests: Collection[Digest], *, stored_since: datetime) -> None:
    """Before a row that names them is entered: what was put since then is there, and stays. Raises BytesErased."""
    _lock(session, department, digests)
    if stored_since < clock(session) - _PUT_COUNTS:
        raise BytesErased("the bytes were stored too long ago")
    doubtful = select(Erasure.digest).where(Erasure.digest.in_(digests), Erasure.ends_at >= stored_since)
    if session.scalars(doubtful.limit(1)).first() is not None:
        raise BytesErased("the bytes were erased meanwhile, or are about to be")


def unnamed(session: Session, digests: Collection[Digest]) -> set[Digest]:
    """Those that no row of the department names, and no unfinished job reads."""
    return set(digests) - set(session.execute(_NAMED, {"digests": list(digests), "ended": _ENDED}).scalars())


def announce(session: Session, department: UUID, digests: Collection[Digest]) -> Announced:
    """Announce the erasing of those that no row names. The caller has signed its requests already."""
    _lock(session, department, digests)
    announced = Announced(uuid4(), tuple(sorted(unnamed(session, digests))))
    ends_at = clock(session) + _PENDING
    session.add_all(
        Erasure(id=announced.id, digest=digest, department_id=department, ends_at=ends_at)
        for digest in announced.digests
    )
    session.flush()
    return announced


def end(session: Session, announced: Announced, erased: Collection[Digest]) -> None:
    """The store has answered that these are erased: the same bytes may be stored again at once."""
    ended = Erasure.id == announced.id, Erasure.digest.in_(erased)
    session.execute(update(Erasure).where(*ended).values(ends_at=func.clock_timestamp()))


def forget(session: Session) -> None:
    """Remove the notes of erasings that are over for so long that no put from before them counts."""
    session.execute(delete(Erasure).where(Erasure.ends_at < func.clock_timestamp() - _REMEMBERED))


def _lock(session: Session, department: UUID | None, digests: Collection[Digest]) -> None:
    # In one order, so that two never wait for each other.
    for digest in sorted(set(digests)):
        take_lock(session, f"bytes {department} {digest}")
