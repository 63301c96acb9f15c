"""The sealer's rounds: seals over what was committed since the round before."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require
from evidence import seals
from evidence.events import SELECT_LIST, Leaf, can_be_sealed, chain_of, leaf
from evidence.seals import EMPTY, NOTHING_BEFORE, Seal, Snapshot
from models_db.audit import AuditSeal

# Events of a round. One transaction's are never divided.
ROUND_EVENTS = 10_000
# An event that is not sealed after so long is an alarm.
ALARM_AFTER_S = 60.0

_PATIENCE = text("SET LOCAL idle_in_transaction_session_timeout = '5min'")
_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended('audit_seals', 0))")
_CUT = text("SELECT xid FROM audit_events WHERE xid >= :xmax ORDER BY xid OFFSET :events LIMIT 1")
# Events and snapshot in one statement: it sees exactly the transactions that its pg_current_snapshot() sees.
_UNSEALED = text(f"""
    SELECT pg_current_snapshot()::text, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, {SELECT_LIST}
    FROM audit_events WHERE (xid >= :xmax AND xid < :cut) OR xid = ANY (:running)
""")  # noqa: S608 - names of columns
# A look-up for each chain: DISTINCT ON would read all its seals.
_LASTS = text("""
    SELECT chain, newest.seal, newest.digest FROM unnest(CAST(:chains AS uuid[])) AS chain CROSS JOIN LATERAL (
        SELECT seal, digest FROM audit_seals s WHERE s.chain = chain.chain ORDER BY seal DESC LIMIT 1
    ) newest
""")
_BEYOND_ALL = 2**62
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OWN_TRANSACTION = text("SELECT pg_current_xact_id()::text::bigint")


@dataclass(frozen=True)
class Round:
    """What a round did. is_last: nothing that was committed before it is left unsealed."""

    events: int
    seals: int
    is_last: bool


def seal(session: Session, *, at: int | None = None, events: int = ROUND_EVENTS) -> Round | None:
    """Seal what was committed since the last round, in a sealer's session; None while another sealer does.

    `at` is the time of the seals in microseconds, the database's where it is left out.
    """
    # Between two statements ten thousand events are hashed, and nobody waits for this transaction's rows.
    session.execute(_PATIENCE)
    if not session.execute(_LOCK).scalar_one():
        return None
    before = _newest_snapshot(session)
    cut = _cut(session, before, events)
    parameters = {"xmax": before.xmax, "cut": cut or _BEYOND_ALL, "running": sorted(before.running)}
    rows = session.execute(_UNSEALED, parameters).all()
    if not rows:
        return Round(events=0, seals=0, is_last=cut is None)
    snapshot, now = Snapshot.parse(rows[0][0]), rows[0][1] if at is None else at
    if cut is not None:
        snapshot = snapshot.before(cut)
    chains: dict[UUID, list[Leaf]] = defaultdict(list)
    for row in rows:
        event = tuple(row)[2:]
        if can_be_sealed(found := leaf(event)):
            chains[chain_of(event)].append(found)
    if not chains:
        # All of them nobody's to seal: the next round looks again.
        return Round(events=len(rows), seals=0, is_last=True)
    # Only now: whoever gets a transaction's number after this one began after the snapshot.
    xid: int = session.execute(_OWN_TRANSACTION).scalar_one()
    lasts = _lasts(session, list(chains))
    made = [
        seals.make(
            chain, leaves, after=lasts.get(chain, (0, NOTHING_BEFORE)), sealed_at=now, xid=xid, snapshot=snapshot
        )
        for chain, leaves in sorted(chains.items())
    ]
    session.execute(insert(AuditSeal), list(map(_row, made)))
    return Round(events=len(rows), seals=len(made), is_last=cut is None)


def watch(session: Session, principal: Principal) -> float:
    """The lag, for those who look after the installation."""
    require(principal, Permission.AUDIT_READ_STATUS)
    return lag_s(session)


def lag_s(session: Session) -> float:
    """How long the oldest unsealed event has waited; in any session."""
    return float(session.execute(text("SELECT audit_seal_lag()")).scalar_one())


def _newest_snapshot(session: Session) -> Snapshot:
    found = session.scalars(select(AuditSeal.snapshot).order_by(AuditSeal.id.desc()).limit(1)).one_or_none()
    return EMPTY if found is None else Snapshot.parse(found)


def _cut(session: Session, before: Snapshot, events: int) -> int | None:
    """The transaction that a round stops before; None where it takes all there is."""
    cut: int | None = session.execute(_CUT, {"xmax": before.xmax, "events": events}).scalar_one_or_none()
    if cut is None:
        return None
    # At least one transaction, were it the size of a hundred rounds.
    first: int = session.execute(_CUT, {"xmax": before.xmax, "events": 0}).scalar_one()
    return max(cut, first + 1)


def _lasts(session: Session, chains: list[UUID]) -> dict[UUID, tuple[int, bytes]]:
    return {row.chain: (row.seal, row.digest) for row in session.execute(_LASTS, {"chains": chains})}


def _row(made: Seal) -> dict[str, Any]:
    return {
        "chain": made.chain,
        "seal": made.seal,
        # A float of seconds would lose some.
        "sealed_at": _EPOCH + timedelta(microseconds=made.sealed_at),
        "xid": made.xid,
        "snapshot": made.snapshot,
        "first_number": made.numbers[0],
        "last_number": made.last_number,
        "events": len(made.numbers),
        "numbers": list(made.numbers),
        "leaves": made.leaves,
        "previous": made.previous,
        "digest": made.digest,
    }
