"""Database sessions: a department's, the platform's, the auditor's, or the sealer's. There is no other kind.

The application connects as `tsugiki_app`, which owns nothing and is bound by row-level security. A department's
session sets `app.department` for each of its transactions; without it every department's table is empty.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.orm import Session, SessionTransaction

from domain.strict_json import bounded_int

APP_ROLE = "tsugiki_app"
AUDITOR_ROLE = "tsugiki_auditor"
SEALER_ROLE = "tsugiki_sealer"


def connect(url: str, *, pool_size: int = 10) -> Engine:
    """An engine on PostgreSQL through psycopg. No connection is opened yet.

    A lock that is not granted in 5 s, or a transaction left idle for 15 s, ends: a stopped process must not
    hold others up. The server ends them, whatever became of the client.
    """
    options = "-c lock_timeout=5s -c idle_in_transaction_session_timeout=15s -c statement_timeout=60s -c timezone=UTC"
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        # What is in a column may not have come by the API, and must not end who reads it.
        json_deserializer=_read_json,
        connect_args={"options": options, "connect_timeout": 5, "application_name": "tsugiki", **_NOTICE_SILENCE},
    )


# Made once: json.loads would make one for each value.
_decode = json.JSONDecoder(parse_int=bounded_int).decode


def _read_json(stored: str | bytes) -> Any:
    return _decode(stored if isinstance(stored, str) else stored.decode())


# A connection that was cut without a word would otherwise hold its thread for hours (libpq; idle and interval in s).
_NOTICE_SILENCE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}


@contextmanager
def department_session(engine: Engine, department: UUID) -> Iterator[Session]:
    """One transaction that sees one department; commits at the end, rolls back on an exception."""
    with _session(engine, "SELECT set_config('app.department', :value, true)", str(department)) as session:
        yield session


@contextmanager
def platform_session(engine: Engine) -> Iterator[Session]:
    """One transaction that sees no department's rows, but may call the named functions that reach across."""
    with _session(engine, "SELECT set_config('app.department', :value, true)", "") as session:
        yield session


@contextmanager
def auditor_session(engine: Engine) -> Iterator[Session]:
    """One transaction that reads the audit trail of every department, and nothing else."""
    with _session(engine, f"SET LOCAL ROLE {AUDITOR_ROLE}", None) as session:
        yield session


@contextmanager
def sealer_session(engine: Engine) -> Iterator[Session]:
    """One transaction that reads every department's events, and writes seals, checkpoints and manifests."""
    with _session(engine, f"SET LOCAL ROLE {SEALER_ROLE}", None) as session:
        yield session


@contextmanager
def _session(engine: Engine, opening: str, value: str | None) -> Iterator[Session]:
    with Session(engine, expire_on_commit=False) as session:

        @event.listens_for(session, "after_begin")
        def set_scope(_session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
            # Local to the transaction, so that nothing of it stays on a pooled connection.
            parameters: dict[str, Any] = {} if value is None else {"value": value}
            connection.execute(text(opening), parameters)

        with session.begin():
            yield session


def take_lock(session: Session, name: str) -> None:
    """Wait until nobody else's transaction holds the lock of that name; it is held until this one ends."""
    session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})


def enter_department(session: Session, department: UUID) -> None:
    """Turn a platform session's current transaction into a department's: for the one that creates it."""
    session.execute(text("SELECT set_config('app.department', :value, true)"), {"value": str(department)})
