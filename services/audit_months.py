"""The months of the audit trail: made ahead, and dropped when their time is over. A manifest of each stays."""

from collections.abc import Iterable, Iterator
from hashlib import sha256

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.orm import Session

from domain import access
from domain.audit import AuditEvent
from evidence.events import SELECT_LIST, Leaf, leaf
from models_db.audit import AuditArchive
from services import audit

MONTHS_AHEAD = 3
_ENSURE = text("SELECT audit_ensure_partitions(now(), :months)")
_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended('audit_months', 0))")
_ENDED = text("SELECT * FROM audit_partitions_before(now() - make_interval(months => :months)) LIMIT 1")
_EVENTS = text(f"""
    SELECT {SELECT_LIST} FROM audit_events WHERE occurred_at >= :since AND occurred_at < :until ORDER BY number
""")  # noqa: S608 - names of columns
_ROWS_AT_ONCE = 5000


def ensure(session: Session) -> int:
    """Make the partitions of this month and the next three, where they are not there; how many, in a sealer's session.

    An event of a month without one is refused, and with it what it tells of.
    """
    made: int = session.execute(_ENSURE, {"months": MONTHS_AHEAD}).scalar_one()
    return made


def drop_oldest(session: Session, *, kept_months: int) -> str | None:
    """Drop the oldest month that ended so many months ago, in a sealer's session; its name, None where there is none.

    None also while another sealer does. Raises OperationalError where somebody reads the trail at that moment.
    What stays: which numbers its events had, and the digest of their digests, which the seals must agree with.
    """
    # Two that have both read would wait for each other.
    if not session.execute(_LOCK).scalar_one():
        return None
    month = session.execute(_ENDED, {"months": kept_months}).one_or_none()
    if month is None:
        return None
    rows = session.execute(
        _EVENTS.execution_options(yield_per=_ROWS_AT_ONCE), {"since": month.since, "until": month.until}
    )
    leaves = [leaf(tuple(row)) for row in rows]
    digest = sha256(b"".join(each.digest for each in leaves)).hexdigest()
    numbers = list(_ranges(leaves))
    session.add(AuditArchive(partition=month.partition, numbers=numbers, events=len(leaves), leaves_sha256=digest))
    session.flush()
    details = {"partition": month.partition, "events": len(leaves), "leaves_sha256": digest}
    audit.record(session, access.system(None), AuditEvent.AUDIT_MONTH_DROPPED, details=details)
    # Last, since nobody can write to the trail from here to the commit.
    session.execute(text("SELECT audit_drop_partition(:partition)"), {"partition": month.partition})
    name: str = month.partition
    return name


def _ranges(leaves: Iterable[Leaf]) -> Iterator[Range[int]]:
    """Numbers in a row as one range each; a number that was rolled back parts two."""
    first = last = None
    for number in (each.number for each in leaves):
        if last is not None and number == last + 1:
            last = number
            continue
        if first is not None and last is not None:
            yield Range(first, last + 1)
        first = last = number
    if first is not None and last is not None:
        yield Range(first, last + 1)
