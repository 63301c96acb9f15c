"""A trail of years for `make bench-audit`: events, seals and checkpoints of the real sealer, and what lineage needs."""

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, create_engine, make_url, text

from benchmarks.audit_rows import Shape, Writer
from benchmarks.reports import say
from evidence.checkpoints import Checkpoint, open_all, read_segment
from evidence.seals import Seal
from models_db import sessions
from models_db.sessions import APP_ROLE
from models_db.tables import Table
from runtime import migrations
from runtime.embedded import EmbeddedServices
from services import checkpoints, sealing

PASSWORD = "of-this-benchmark-alone"  # noqa: S105 - of a server that lives as long as this process
ROUNDS_A_CHECKPOINT = 50
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What the sealer needs while there are no readers; the others are made when all rows are there.
_NEEDED = "ix_audit_events_xid"
INDEXES = Table.metadata.tables["audit_events"].indexes
_LINEAGE = """
    SET LOCAL session_replication_role = replica;
    INSERT INTO adapter_versions (id, department_id, adapter_id, number, job_id, base_model_id, state, model_name,
        digest, manifest, report, created_by, submitter_id)
    SELECT md5('version' || v)::uuid, md5('department' || department)::uuid, md5('adapter' || v % {adapters})::uuid,
        v + 1, md5('job' || v)::uuid, md5('base')::uuid, 'candidate', 'ft:' || v, 'sha256:', '{{}}', '{{}}',
        md5('user' || v % {people})::uuid, md5('user' || v % {people})::uuid
    FROM (SELECT v, floor({departments} * (((hashint8extended(v, 4) & 1048575) / 1048576.0) ^ 2))::int AS department
        FROM generate_series(0, {versions} - 1) v) drawn;
    INSERT INTO lineage_edges (department_id, subject_type, subject_id, relation, object_type, object_id)
    SELECT department_id, 'adapter_version', id, 'trained_on', 'file', md5('file' || (number - 1) % {files})::uuid
    FROM adapter_versions;
"""


@dataclass(frozen=True)
class Database:
    """A trail, the key of its checkpoints, and how long it took to come about."""

    admin_url: str
    app_url: str
    shape: Shape
    writer: Writer
    key: Ed25519PrivateKey
    build_s: float

    @property
    def verifying_url(self) -> str:
        """As libpq has it."""
        return _plain(self.admin_url)

    @contextmanager
    def app(self, connections: int = 4) -> Iterator[Engine]:
        """The application's connections."""
        engine = sessions.connect(self.app_url, pool_size=connections)
        yield engine
        engine.dispose()

    def checkpoints(self) -> list[Checkpoint]:
        """All that were signed."""
        with self.app() as engine, sessions.sealer_session(engine) as session:
            lines = [line for _, line in checkpoints.lines_after(session, 0)]
        return open_all(lines, self.key.public_key())

    def kept(self, opened: list[Checkpoint]) -> dict[object, list[Seal]]:
        """The seals of their segments, by chain."""
        kept: dict[object, list[Seal]] = {}
        with self.app() as engine, sessions.sealer_session(engine) as session:
            for checkpoint in opened:
                for seal in read_segment(checkpoints.publication(session, checkpoint.number).segment, checkpoint):
                    kept.setdefault(seal.chain, []).append(seal)
        return kept


@contextmanager
def server(folder: Path | None) -> Iterator[str]:
    """An embedded PostgreSQL of our own, durable; its administrator's URL."""
    with tempfile.TemporaryDirectory(prefix="tsugiki-audit-", dir=folder) as place:
        Path(place).chmod(0o711)
        with EmbeddedServices(Path(place) / "services") as services:
            url = make_url(services.database_admin_url).set(drivername="postgresql+psycopg")
            yield url.render_as_string(hide_password=False)


def build(server_url: str, name: str, shape: Shape) -> Database:
    """Make a database and fill it; tell how far it is."""
    admin = make_url(server_url)
    _administer(server_url, f"CREATE DATABASE {name}", "ALTER SYSTEM SET max_wal_size = '8GB'",
                "ALTER SYSTEM SET maintenance_work_mem = '1GB'", "SELECT pg_reload_conf()")  # fmt: skip
    database = admin.set(database=name)
    app = database.set(username=APP_ROLE, password=PASSWORD)
    urls = [url.render_as_string(hide_password=False) for url in (database, app)]
    migrations.upgrade(*urls)
    begun = time.monotonic()
    key = Ed25519PrivateKey.generate()
    _administer(urls[0], *(f"DROP INDEX {index.name}" for index in INDEXES if index.name != _NEEDED))
    with psycopg.connect(_plain(urls[0])) as superuser:
        writer = Writer(superuser, shape)
        _write_and_seal(writer, urls[1], key)
    say(f"{shape.events:,} events written and sealed after {time.monotonic() - begun:.0f} s")
    _make_indexes(urls[0])
    with psycopg.connect(_plain(urls[0])) as superuser:
        superuser.execute(_LINEAGE.format(**writer.drawn_from).encode())
    _administer(urls[0], "VACUUM ANALYZE")
    return Database(urls[0], urls[1], shape, writer, key, time.monotonic() - begun)


def _write_and_seal(writer: Writer, app_url: str, key: Ed25519PrivateKey) -> None:
    """A batch is written while the one before it is sealed."""
    engine = sessions.connect(app_url)
    rounds = 0
    with ThreadPoolExecutor(1) as writing:
        last = writer.write()
        while last is not None:
            following = writing.submit(writer.write)
            _seal(engine, last)
            rounds += 1
            if rounds % ROUNDS_A_CHECKPOINT == 0:
                _checkpoint(engine, key)
                say(f"{writer.written:,} events")
            last = following.result()
    _seal(engine, datetime.now(UTC))
    _checkpoint(engine, key)
    engine.dispose()


def _seal(engine: Engine, at: datetime) -> None:
    """All there is; as of then, since the events say that they are of then."""
    while True:
        with sessions.sealer_session(engine) as session:
            made = sealing.seal(session, at=(at - _EPOCH) // timedelta(microseconds=1))
        if made is None or made.is_last:
            return


def _checkpoint(engine: Engine, key: Ed25519PrivateKey) -> None:
    with sessions.sealer_session(engine) as session:
        checkpoints.make(session, key, installation="bench")


def _make_indexes(admin_url: str) -> None:
    engine = create_engine(admin_url)
    begun = time.monotonic()
    for index in INDEXES:
        if index.name != _NEEDED:
            with engine.begin() as connection:
                index.create(connection)
    engine.dispose()
    say(f"indexes made in {time.monotonic() - begun:.0f} s")


def _plain(url: str) -> str:
    return url.replace("+psycopg", "")


def _administer(url: str, *statements: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def size_bytes(database: Database) -> dict[str, int]:
    """Of events, their indexes, and seals."""
    engine = create_engine(database.admin_url)
    with engine.connect() as connection:
        row = connection.execute(
            text("""
                SELECT sum(pg_table_size(inhrelid)), sum(pg_indexes_size(inhrelid)),
                    pg_total_relation_size('audit_seals') FROM pg_inherits WHERE inhparent = 'audit_events'::regclass
            """)
        ).one()
    engine.dispose()
    return dict(zip(("events", "indexes", "seals"), map(int, row), strict=True))
