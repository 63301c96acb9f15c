"""The trail in PostgreSQL, read by whoever may read it; the service's own code has no part in it."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import get_context
from typing import Any, Self
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.types.json import set_json_loads

from evidence.archives import Archive, span
from evidence.canonical import read_json
from evidence.checkpoints import Checkpoint, Signed
from evidence.events import PLATFORM, SELECT_LIST, Leaf, leaf
from evidence.rounds import Rounds
from evidence.seals import Seal
from evidence.verify import ChainReport, Report, conclude, manifests, verify_chain

_ROWS_AT_ONCE = 5000
_CHAINS = sql.SQL("""
    SELECT chain FROM audit_seals
    UNION SELECT coalesce(department_id, '00000000-0000-0000-0000-000000000000') FROM (
        WITH RECURSIVE found AS (
            (SELECT department_id FROM audit_events ORDER BY department_id LIMIT 1)
            UNION ALL SELECT (
                SELECT department_id FROM audit_events e WHERE e.department_id > found.department_id
                ORDER BY department_id LIMIT 1)
            FROM found WHERE found.department_id IS NOT NULL
        ) SELECT department_id FROM found
    ) departments
""")
_OF_DEPARTMENT = "SELECT {fields} FROM audit_events WHERE department_id = %s ORDER BY number"
# The service writes NULL; a row that has the zeros themselves is sealed in the same chain.
_OF_PLATFORM = """
    SELECT {fields} FROM audit_events WHERE department_id IS NULL
    UNION ALL SELECT {fields} FROM audit_events WHERE department_id = %s ORDER BY number
"""
_SEAL = """
    SELECT chain, seal,
        CASE WHEN isfinite(sealed_at) THEN (extract(epoch FROM sealed_at) * 1000000)::bigint ELSE -1 END AS sealed_at,
        xid, snapshot, numbers, leaves, previous, digest FROM audit_seals
"""
_SEALS, _NEWEST_SEAL = f"{_SEAL} WHERE chain = %s ORDER BY seal, id", f"{_SEAL} ORDER BY id DESC LIMIT 1"
# All seals of a round have its transaction; their last numbers from what is hashed, and not from the column beside it.
_ROUNDS = """
    SELECT xid, (extract(epoch FROM max(sealed_at)) * 1000000)::bigint,
        max(coalesce(numbers[cardinality(numbers)], 0)),
        min(coalesce(substring(snapshot FROM '^[0-9]{1,18}'), '0')::bigint)
    FROM audit_seals WHERE isfinite(sealed_at) GROUP BY xid ORDER BY xid
"""
_ARCHIVES = """
    SELECT partition, ARRAY(SELECT ARRAY[lower(part), upper(part)] FROM unnest(numbers) part), events, leaves_sha256
    FROM audit_archives ORDER BY partition
"""


class DatabaseTrail:
    """What a connection reads; in one snapshot where it is opened here."""

    def __init__(self, connection: "psycopg.Connection[Any]", rounds: Rounds | None = None) -> None:
        self._connection, self._rounds = connection, rounds
        set_json_loads(read_json, connection)

    @classmethod
    @contextmanager
    def opened(cls, url: str, rounds: Rounds | None = None) -> "Iterator[Self]":
        """A connection of its own, that reads in one snapshot from its first question to its last.

        No month is dropped meanwhile: it would be gone in spite of the snapshot, and its manifest not yet be there.
        """
        with psycopg.connect(url, options="-c timezone=UTC") as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            # Before the snapshot, which is of the first question.
            connection.execute("LOCK TABLE audit_events IN ACCESS SHARE MODE")
            yield cls(connection, rounds)

    def chains(self) -> list[UUID]:
        """Every chain that has events or seals."""
        return sorted(row[0] for row in self._connection.execute(_CHAINS))

    def events(self, chain: UUID) -> Iterator[Leaf]:
        """A chain's events by number."""
        query = sql.SQL(_OF_PLATFORM if chain == PLATFORM else _OF_DEPARTMENT)
        return map(leaf, self._rows("events", query.format(fields=sql.SQL(SELECT_LIST)), [chain]))

    def seals(self, chain: UUID) -> Iterator[tuple[Seal, bytes]]:
        """A chain's seals in order, each with the digest it is said to have."""
        return map(_seal, self._rows("seals", _SEALS, [chain], at_once=100))

    def newest_seal(self) -> Seal | None:
        """The last seal of all chains."""
        row = self._connection.execute(_NEWEST_SEAL).fetchone()
        return None if row is None else _seal(row)[0]

    def archives(self) -> list[Archive]:
        """The months that were dropped."""
        return [
            Archive(partition, [span(*bounds) for bounds in numbers], events, digest)
            for partition, numbers, events, digest in self._connection.execute(_ARCHIVES)
        ]

    def rounds(self) -> Rounds:
        """The sealer's rounds, of all chains; read once."""
        if self._rounds is None:
            self._rounds = Rounds(self._rows("rounds", _ROUNDS, []))
        return self._rounds

    def checkpoints(self) -> list[Signed]:
        """The checkpoints that the database itself keeps: worth what its owner is."""
        rows = self._connection.execute("SELECT statement, signature FROM audit_checkpoints ORDER BY number")
        return [Signed(statement, signature) for statement, signature in rows]

    def _rows(
        self, name: str, query: Any, parameters: list[UUID], *, at_once: int = _ROWS_AT_ONCE
    ) -> Iterator[tuple[Any, ...]]:
        with self._connection.cursor(name=name) as cursor:
            cursor.itersize = at_once
            cursor.execute(query, parameters)
            yield from cursor


def _seal(row: tuple[Any, ...]) -> tuple[Seal, bytes]:
    chain, number, sealed_at, xid, snapshot, numbers, leaves, previous, digest = row
    try:
        whole = array("q", numbers)
    except TypeError:
        # NULL among them, or lists: the seal is none.
        whole = array("q")
    return Seal(chain, number, sealed_at, xid, snapshot, whole, leaves, previous), digest


def verify_database(
    url: str,
    checkpoints: Sequence[Checkpoint],
    kept: Mapping[UUID, Sequence[Seal]] | None = None,
    *,
    processes: int = 1,
) -> Report:
    """Verify all chains, some at a time. Each process reads in a snapshot of its own."""
    with DatabaseTrail.opened(url) as trail:
        chains = sorted({*trail.chains(), *(chain for each in checkpoints for chain in each.heads)})
        archives, refused = manifests(trail, checkpoints)
        rounds = trail.rounds() if processes == 1 else None
    verified = partial(_verify_one, url, checkpoints, rounds)
    work = [(chain, (kept or {}).get(chain, ())) for chain in chains]
    if processes == 1:
        return conclude(map(verified, work), archives, len(checkpoints), refused)
    # Not forked: the caller may have threads, and connections.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return conclude(pool.map(verified, work), archives, len(checkpoints), refused)


def _verify_one(
    url: str, checkpoints: Sequence[Checkpoint], rounds: Rounds | None, work: tuple[UUID, Sequence[Seal]]
) -> ChainReport:
    with DatabaseTrail.opened(url, rounds or _rounds(url)) as trail:
        return verify_chain(trail, work[0], checkpoints, work[1])


@cache
def _rounds(url: str) -> Rounds:
    """Read once by each process of a pool, which lives for one verification: they are too many to be sent along."""
    with DatabaseTrail.opened(url) as trail:
        return trail.rounds()
