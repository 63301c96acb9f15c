"""The sealer: everything that is committed is sealed once, soon, and whatever else is open or ends."""

import logging
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import boto3
import psycopg
import pytest
from botocore.exceptions import ClientError
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from domain import access
from domain.audit import AuditEvent
from evidence import checkpoints as evidence
from evidence.database import DatabaseTrail, verify_database
from evidence.verify import Fault, Report, verify
from models_db import sessions
from runtime import wiring
from runtime.embedded import EmbeddedServices
from runtime.settings import Settings
from runtime.wiring import Runtime
from services import audit, audit_months, checkpoints, sealing
from storage.errors import SealedKeyDiffers, StorageUnavailable
from tests.integration.conftest import Database
from workers.sealer import Sealer
from workers.sweeper import sweep

ROOT = Path(__file__).resolve().parents[2]
KILLS = 4
SEALING = """
import sys
from models_db import sessions
from services import sealing
engine = sessions.connect(sys.argv[1])
print("begun", flush=True)
while True:
    with sessions.sealer_session(engine) as session:
        sealing.seal(session, events=3)
"""


@pytest.fixture(scope="module")
def admin(database: Database) -> Iterator[Engine]:
    engine = create_engine(database.admin_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def url(database: Database) -> str:
    return database.admin_url.replace("+psycopg", "")


def tell(runtime: Runtime, events: int = 1) -> None:
    with runtime.platform() as session:
        for _ in range(events):
            audit.record(session, access.system(None), AuditEvent.WORKER_DRAINED)


def seal(runtime: Runtime) -> int:
    """Seal all there is; how many events."""
    sealed = 0
    while True:
        with runtime.sealer() as session:
            made = sealing.seal(session)
        assert made
        sealed += made.events
        if made.is_last:
            return sealed


def verified(url: str) -> Report:
    return verify_database(url, [])


@pytest.fixture(autouse=True)
def _all_sealed(runtime: Runtime) -> None:
    """Each test begins with nothing left unsealed."""
    runtime.locked.ensure_bucket()
    seal(runtime)


def test_what_is_committed_is_sealed_once(runtime: Runtime, url: str) -> None:
    assert seal(runtime) == 0
    tell(runtime, 3)
    assert (seal(runtime), seal(runtime)) == (3, 0)
    assert (verified(url).findings, verified(url).unsealed) == ([], 0)


def test_a_long_read_such_as_a_dump_keeps_nothing_from_its_seal(runtime: Runtime, url: str) -> None:
    with psycopg.connect(url) as dump:
        # As pg_dump reads: one snapshot from its first statement on, and a lock on the table.
        dump.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        dump.execute("LOCK TABLE audit_events IN ACCESS SHARE MODE")
        dump.execute("SELECT count(*) FROM audit_events")
        assert dump.execute(
            "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        ).fetchone()
        tell(runtime, 2)
        assert seal(runtime) == 2
        tell(runtime)
        assert seal(runtime) == 1


def test_a_transaction_that_commits_late_is_sealed_later_and_keeps_nobody_else_waiting(
    runtime: Runtime, url: str
) -> None:
    with runtime.platform() as late:
        audit.record(late, access.system(None), AuditEvent.WORKER_RETIRED)
        for _ in range(2):
            tell(runtime, 2)
            assert seal(runtime) == 2
        assert verified(url).findings == []
    # Its number is lower than those of events that two seals cover already.
    assert seal(runtime) == 1
    report = verified(url)
    assert (report.findings, report.unsealed) == ([], 0)


def test_what_is_rolled_back_leaves_a_gap_and_no_fault(runtime: Runtime, url: str) -> None:
    with runtime.platform() as session:
        audit.record(session, access.system(None), AuditEvent.WORKER_RETIRED)
        session.rollback()
    tell(runtime)
    assert seal(runtime) == 1
    assert verified(url).findings == []


def test_an_event_of_the_department_of_zeros_is_in_the_platforms_chain(runtime: Runtime, url: str) -> None:
    tell(runtime, 2)
    seal(runtime)
    with psycopg.connect(url) as connection, connection.transaction(force_rollback=True):
        row = connection.execute(
            "INSERT INTO audit_events (xid, department_id, actor_type, roles, action, outcome, refs, details) "
            "SELECT xid, '00000000-0000-0000-0000-000000000000', actor_type, roles, action, outcome, refs, details "
            "FROM audit_events ORDER BY number DESC LIMIT 1 RETURNING number"
        ).fetchone()
        assert row
        found = verify(DatabaseTrail(connection), []).findings
        assert [(finding.number, finding.fault) for finding in found] == [(row[0], Fault.INSERTED)]


@pytest.mark.parametrize(
    "change",
    [
        "numbers = '{}'", "numbers = '{NULL}'", "numbers = '{{1,2},{3,4}}'", "numbers = '{-1}'",
        "snapshot = 'none'", "sealed_at = 'infinity'", "xid = 9007199254740992",
    ],
)  # fmt: skip
def test_a_seal_that_is_none_is_told_of(runtime: Runtime, url: str, change: str) -> None:
    tell(runtime)
    seal(runtime)
    with psycopg.connect(url) as connection, connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(
            f"UPDATE audit_seals SET {change} WHERE id = (SELECT max(id) FROM audit_seals)".encode()  # noqa: S608
        )
        assert Fault.SEAL_CHANGED in {finding.fault for finding in verify(DatabaseTrail(connection), []).findings}


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("details", '{"count": 9007199254740992}', Fault.CHANGED),
        ("details", '{"count": 1e5000}', Fault.CHANGED),
        ("number", "9007199254740992", Fault.INSERTED),
        ("number", "-7", Fault.INSERTED),
    ],
)
def test_an_event_that_has_no_canonical_form_keeps_no_other_from_its_seal(
    runtime: Runtime, database: Database, *, column: str, value: str, fault: Fault
) -> None:
    tell(runtime, 2)
    superuser = sessions.connect(database.admin_url)
    with superuser.connect() as connection, Session(connection) as session:
        number = session.execute(
            text("""
                INSERT INTO audit_events (xid, actor_type, roles, action, outcome, refs, details)
                SELECT xid, actor_type, roles, action, outcome, refs, details
                FROM audit_events ORDER BY number DESC LIMIT 1 RETURNING number
            """)
        ).scalar_one()
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("ALTER TABLE audit_events ALTER COLUMN number SET GENERATED BY DEFAULT"))
        session.execute(
            text(f"UPDATE audit_events SET {column} = '{value}' WHERE number = :number"),  # noqa: S608
            {"number": number},
        )
        made = sealing.seal(session)
        assert made
        assert (made.events, made.is_last) == (3, True)
        trail = DatabaseTrail(connection.connection.driver_connection)
        (found,) = verify(trail, []).findings
        assert (found.fault, found.number) == (fault, int(value) if column == "number" else number)
        session.rollback()
    superuser.dispose()
    assert seal(runtime) == 2


def test_two_sealers_seal_nothing_twice(runtime: Runtime, url: str, admin: Engine) -> None:
    tell(runtime, 5)
    stop, failed = Event(), list[Exception]()

    def run() -> None:
        try:
            while not stop.is_set():
                with runtime.sealer() as session:
                    sealing.seal(session, events=1)
        except Exception as error:  # noqa: BLE001 - shown by the test
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        tell(runtime, 2)
    stop.set()
    for thread in threads:
        thread.join()
    seal(runtime)
    assert failed == []
    assert verified(url).findings == []
    with admin.connect() as connection:
        twice = connection.execute(
            text("SELECT number FROM audit_seals, unnest(numbers) number GROUP BY number HAVING count(*) > 1")
        )
        assert twice.all() == []


def test_a_sealer_that_is_killed_at_any_moment_leaves_no_gap(runtime: Runtime, database: Database, url: str) -> None:
    chance = random.Random(36)
    for _ in range(KILLS):
        sealer = subprocess.Popen(
            [sys.executable, "-c", SEALING, database.app_url], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert sealer.stdout
        assert sealer.stdout.readline() == "begun\n"
        for _ in range(chance.randrange(5, 60)):
            tell(runtime)
        sealer.kill()
        sealer.communicate()
    seal(runtime)
    report = verified(url)
    assert (report.findings, report.unsealed) == ([], 0)


def test_a_sealer_that_is_behind_is_told_of(
    runtime: Runtime, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alarms() -> int:
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            sweep(runtime)
        return sum("AUDIT ALARM" in record.message for record in caplog.records)

    tell(runtime)
    assert alarms() == 0
    # A minute is too long for a test; the event above has waited for longer than nothing.
    monkeypatch.setattr(sealing, "ALARM_AFTER_S", 0.0)
    assert alarms() == 1
    seal(runtime)
    assert alarms() == 0


def test_a_server_that_counts_its_transactions_anew_is_told_of(runtime: Runtime, admin: Engine) -> None:
    """As a dump that was restored into a new cluster: nothing is beyond the newest seal's snapshot for a long time."""
    tell(runtime)
    seal(runtime)
    ahead = """
        UPDATE audit_seals SET snapshot = '9000000000:9000000000:', sealed_at = sealed_at - interval '5 min'
        WHERE id = (SELECT max(id) FROM audit_seals) RETURNING id
    """
    with admin.begin() as superuser:
        superuser.execute(text("SET LOCAL session_replication_role = replica"))
        was = superuser.execute(text("SELECT id, snapshot, sealed_at FROM audit_seals ORDER BY id DESC LIMIT 1")).one()
        superuser.execute(text(ahead))
    tell(runtime)
    with runtime.platform() as session:
        assert sealing.lag_s(session) == pytest.approx(300, abs=60)
    assert seal(runtime) == 0
    with admin.begin() as superuser:
        superuser.execute(text("SET LOCAL session_replication_role = replica"))
        back = text("UPDATE audit_seals SET snapshot = :snapshot, sealed_at = :sealed_at WHERE id = :id")
        superuser.execute(back, was._asdict())
    with runtime.platform() as session:
        assert sealing.lag_s(session) < 60
    assert seal(runtime) == 1


# --- the months -------------------------------------------------------------------------------------------------------


def _months(admin: Engine) -> list[str]:
    with admin.connect() as connection:
        return list(
            connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'audit' ORDER BY 1")).scalars()
        )


def test_months_are_there_before_they_come(runtime: Runtime, admin: Engine) -> None:
    before = _months(admin)
    assert len(before) == 1 + audit_months.MONTHS_AHEAD
    with admin.begin() as connection:
        connection.execute(text(f"DROP TABLE audit.{before[-1]}"))
    with runtime.sealer() as session:
        assert audit_months.ensure(session) == 1
    with runtime.sealer() as session:
        assert audit_months.ensure(session) == 0
    assert _months(admin) == before


@pytest.mark.parametrize("role", ["postgres", "tsugiki_owner"])
def test_a_month_is_not_emptied_by_a_plain_statement(admin: Engine, role: str) -> None:
    month = _months(admin)[0]
    with admin.connect() as connection:
        connection.execute(text(f"SET LOCAL ROLE {role}"))
        with pytest.raises(DBAPIError, match="append-only"):
            connection.execute(text(f"TRUNCATE audit.{month}"))


def test_a_month_is_dropped_by_retention_alone_and_its_manifest_proves_it(
    runtime: Runtime, admin: Engine, url: str
) -> None:
    with admin.begin() as connection:
        # A trail that began then: numbers and times rise together.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("DELETE FROM audit_events"))
        connection.execute(text("DELETE FROM audit_seals"))
        connection.execute(text("SELECT audit_ensure_partitions(now() - interval '6 months', 3)"))
        connection.execute(
            text("""
                INSERT INTO audit_events (xid, occurred_at, actor_type, roles, action, outcome, refs, details)
                SELECT pg_current_xact_id()::text::bigint, date_trunc('month', now()) - interval '5 months', 'system',
                    '{}', 'x.y', 'success', '{}', '{}' FROM generate_series(1, 10)
            """)
        )
    # Sealed as of then: the database would not have given them such times.
    with runtime.sealer() as session:
        at = session.execute(
            text("SELECT (extract(epoch FROM date_trunc('month', now()) - interval '5 months') * 1000000)::bigint + 1")
        ).scalar_one()
        assert sealing.seal(session, at=at)
    months = _months(admin)
    with pytest.raises(DBAPIError, match="to be kept"), runtime.sealer() as session:
        session.execute(text("SELECT audit_drop_partition(:month)"), {"month": months[1]})
    dropped = []
    while True:
        with runtime.sealer() as session:
            if (month := audit_months.drop_oldest(session, kept_months=4)) is None:
                break
        dropped.append(month)
    assert dropped == months[: len(dropped)]
    assert len(dropped) == 2
    assert _months(admin) == months[2:]
    seal(runtime)
    report = verified(url)
    assert (report.findings, report.archived, report.months) == ([], 10, dropped)
    with psycopg.connect(url) as connection, connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute("DELETE FROM audit_archives")
        assert {finding.fault for finding in verify(DatabaseTrail(connection), []).findings} == {Fault.MISSING}


_OF_A_MONTH = {
    "table": """
        SELECT relkind, relpersistence, relrowsecurity, relforcerowsecurity, relowner::regrole, relacl, reloptions,
            relispartition, relreplident, relam, reltablespace, relnatts, relchecks, relhasrules, relhastriggers
        FROM pg_class WHERE oid = CAST(:month AS regclass)
    """,
    "columns": """
        SELECT attnum, attname, atttypid, atttypmod, attcollation, attnotnull, attidentity, attgenerated, attislocal,
            attinhcount, attstorage, attcompression, attstattarget, attacl, attoptions, pg_get_expr(adbin, adrelid)
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = CAST(:month AS regclass) AND attnum > 0 ORDER BY attnum
    """,
    "constraints": """
        SELECT conname, contype, pg_get_constraintdef(oid), convalidated, conislocal, coninhcount, connoinherit,
            (SELECT parent.conname FROM pg_constraint parent WHERE parent.oid = c.conparentid)
        FROM pg_constraint c WHERE conrelid = CAST(:month AS regclass) ORDER BY 1
    """,
    "indexes": """
        SELECT pg_get_indexdef(indexrelid), inhparent::regclass, relowner::regrole, reloptions, indisprimary,
            indisunique, indisvalid, indisready, indislive FROM pg_index JOIN pg_class ON oid = indexrelid
            LEFT JOIN pg_inherits ON inhrelid = indexrelid
        WHERE indrelid = CAST(:month AS regclass) ORDER BY 1
    """,
    "triggers": """
        SELECT tgname, tgtype, tgenabled, tgisinternal, tgfoid::regproc, tgqual,
            (SELECT parent.tgrelid::regclass FROM pg_trigger parent WHERE parent.oid = t.tgparentid)
        FROM pg_trigger t WHERE tgrelid = CAST(:month AS regclass) ORDER BY 1
    """,
    "policies": "SELECT polname FROM pg_policy WHERE polrelid = CAST(:month AS regclass)",
    "statistics": "SELECT stxname FROM pg_statistic_ext WHERE stxrelid = CAST(:month AS regclass)",
}


def _catalogues(admin: Engine, month: str) -> dict[str, list[str]]:
    """What PostgreSQL knows of a month's partition, as text without its name."""
    with admin.connect() as connection:
        return {
            name: [
                str(row).replace(month, "MONTH") for row in connection.execute(text(asked), {"month": f"audit.{month}"})
            ]
            for name, asked in _OF_A_MONTH.items()
        }


def test_a_month_made_now_is_as_those_that_were_made_with_the_table(runtime: Runtime, admin: Engine) -> None:
    last = _months(admin)[-1]
    with admin.begin() as connection:
        # Made by CREATE TABLE ... PARTITION OF, in the migration that made the table.
        this_month = connection.execute(
            text("""SELECT to_char(now() AT TIME ZONE 'UTC', '"audit_events_"YYYY_MM')""")
        ).scalar_one()
        connection.execute(text(f"DROP TABLE audit.{last}"))
    with runtime.sealer() as session:
        assert audit_months.ensure(session) == 1
    assert _catalogues(admin, last) == _catalogues(admin, this_month)
    assert _catalogues(admin, last)["triggers"]
    with admin.connect() as connection:
        bounds = connection.execute(
            text("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = CAST(:month AS regclass)"),
            {"month": f"audit.{last}"},
        ).scalar_one()
    assert f"FROM ('{last[-7:].replace('_', '-')}-01 00:00:00" in bounds


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Somebody who reads the trail for long, as pg_dump does: a snapshot, and the weakest lock that there is."""
    with psycopg.connect(url) as dump:
        dump.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        dump.execute("LOCK TABLE audit_events IN ACCESS SHARE MODE")
        dump.execute("SELECT count(*) FROM audit_events")
        yield


@contextmanager
def appending(runtime: Runtime) -> Iterator[list[float]]:
    """Events one after the other beside the block; how long each took, in seconds."""
    took, stop = list[float](), Event()

    def append() -> None:
        while not stop.is_set():
            begun = time.monotonic()
            tell(runtime)
            took.append(time.monotonic() - begun)

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


def test_a_month_is_made_beside_a_long_reader_and_nobody_waits(runtime: Runtime, admin: Engine, url: str) -> None:
    before = _months(admin)
    with admin.begin() as connection:
        connection.execute(text(f"DROP TABLE audit.{before[-1]}"))
    with reading(url), appending(runtime) as took:
        Sealer(runtime, Event()).look_after_months()
    assert _months(admin) == before
    assert max(took) < 1


def test_a_month_is_dropped_when_nobody_reads_and_no_writer_waits_for_that(
    runtime: Runtime, admin: Engine, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = runtime.settings.audit_kept_months
    before = _months(admin)
    with admin.begin() as connection:
        connection.execute(
            text("SELECT audit_ensure_partitions(now() - make_interval(months => :months), 0)"), {"months": kept + 2}
        )
    made = _months(admin)
    sealer = Sealer(runtime, Event())
    with reading(url), appending(runtime) as took:
        for _ in range(2):
            sealer.look_after_months()
    assert max(took) < 1
    assert _months(admin) == made
    # Not at once again.
    assert caplog.text.count("must wait") == 1
    Sealer(runtime, Event()).look_after_months()
    assert _months(admin) != made
    assert set(before) <= set(_months(admin))


def test_months_that_cannot_be_looked_after_keep_no_checkpoint_from_its_time(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, tries = Event(), list[int]()
    sealer = Sealer(runtime, stop)

    def ensure(session: Session) -> int:
        tries.append(1)
        if len(tries) > 1:
            stop.set()
        return int(session.execute(text("SELECT 1 / 0")).scalar_one())

    checked = list[int]()

    def checkpoint() -> None:
        checked.append(1)
        stop.set()

    monkeypatch.setattr(audit_months, "ensure", ensure)
    monkeypatch.setattr(sealer, "checkpoint", checkpoint)
    sealer.run()
    assert (len(tries), len(checked)) == (1, 1)


def test_no_month_is_dropped_while_a_verifier_reads(runtime: Runtime, admin: Engine, url: str) -> None:
    with admin.begin() as connection:
        connection.execute(text("SELECT audit_ensure_partitions(now() - interval '6 months', 0)"))
    with DatabaseTrail.opened(url) as trail:
        # Before its first question, and so before its snapshot.
        with pytest.raises(OperationalError), runtime.sealer() as session:
            audit_months.drop_oldest(session, kept_months=4)
        assert trail.archives() is not None
    with runtime.sealer() as session:
        assert audit_months.drop_oldest(session, kept_months=4)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture
def signing(settings: Settings, tmp_path: Path) -> Iterator[tuple[Runtime, Sealer, Path, Path]]:
    secret, public = evidence.new_key()
    key, public_key, kept = tmp_path / "key.pem", tmp_path / "public.pem", tmp_path / "kept.jsonl"
    key.write_text(secret)
    public_key.write_text(public)
    values: dict[str, Any] = {name: getattr(settings, name) for name in Settings.model_fields}
    values |= {
        "audit_signing_key_file": key, "audit_checkpoint_file": kept, "s3_audit_bucket": "locked-by-a-test",
        "audit_checkpoint_every_s": 0.001,
    }  # fmt: skip
    runtime = wiring.build(Settings.model_validate(values))
    yield runtime, Sealer(runtime, Event()), kept, public_key
    runtime.close()


def test_checkpoints_are_signed_kept_outside_and_cannot_be_taken_back(
    signing: tuple[Runtime, Sealer, Path, Path], embedded: EmbeddedServices, url: str
) -> None:
    runtime, sealer, kept, public_key = signing
    tell(runtime, 2)
    sealer.seal()
    # The bucket is not there yet: signed all the same, and published when it is.
    with pytest.raises(StorageUnavailable):
        sealer.checkpoint()
    assert not kept.exists()
    runtime.locked.ensure_bucket()
    tell(runtime, 2)
    sealer.seal()
    sealer.checkpoint()
    sealer.publish()
    opened = evidence.open_all(kept.read_text().splitlines(), evidence.public_key(public_key))
    assert [each.number for each in opened] == [1, 2]
    for each in opened:
        assert evidence.read_segment(runtime.locked.read(f"checkpoints/{each.number:08}.seals.gz"), each)
    assert verify_database(url, opened).findings == []
    # A month that was made to vanish, as the sealer would have dropped it: its manifest is in every later checkpoint.
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO audit_archives (partition, numbers, events, leaves_sha256) VALUES ('audit_events_2001_02', "
            "'{}', 0, encode(sha256(''), 'hex'))"
        )
    sealer.checkpoint()
    opened = evidence.open_all(kept.read_text().splitlines(), evidence.public_key(public_key))
    assert "audit_events_2001_02" in (opened[-1].archives or {})
    assert verify_database(url, opened).findings == []
    with psycopg.connect(url) as connection, connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute("DELETE FROM audit_archives WHERE partition = 'audit_events_2001_02'")
        (finding,) = verify(DatabaseTrail(connection), opened).findings
        assert (finding.fault, finding.what) == (Fault.ARCHIVE_CHANGED, "the manifest of audit_events_2001_02 is gone")
    with pytest.raises(SealedKeyDiffers):
        runtime.locked.put("checkpoints/00000001.json", b"another")
    client = boto3.session.Session().client(
        "s3", endpoint_url=embedded.s3.endpoint_url, region_name=embedded.s3.region,
        aws_access_key_id=embedded.s3.access_key, aws_secret_access_key=embedded.s3.secret_key,
    )  # fmt: skip
    bucket = runtime.settings.s3_audit_bucket
    (version, *_) = client.list_object_versions(Bucket=bucket, Prefix="checkpoints/00000001.json")["Versions"]
    with pytest.raises(ClientError):
        client.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
    assert runtime.locked.read("checkpoints/00000001.json")
    client.close()


def checkpoint(sealer: Sealer, times: int = 1) -> None:
    for _ in range(times):
        sealer.seal()
        sealer.checkpoint()


def kept_numbers(kept: Path) -> list[int]:
    lines = kept.read_text().splitlines()
    return [evidence.read_statement(evidence.Signed.parse(line).statement).number for line in lines]


def test_a_line_that_was_torn_is_written_anew(signing: tuple[Runtime, Sealer, Path, Path]) -> None:
    runtime, sealer, kept, _ = signing
    runtime.locked.ensure_bucket()
    checkpoint(sealer, 2)
    whole = kept.read_bytes()
    for left in (len(whole) - 1, whole.index(b"\n") + 20, 10):
        kept.write_bytes(whole[:left])
        sealer.publish()
        assert kept.read_bytes() == whole
    kept.write_bytes(whole[:-20])
    checkpoint(sealer)
    numbers = kept_numbers(kept)
    assert kept.read_bytes().startswith(whole)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_two_sealers_append_no_checkpoint_twice(
    signing: tuple[Runtime, Sealer, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, sealer, kept, _ = signing
    runtime.locked.ensure_bucket()
    checkpoint(sealer, 3)
    whole, lines_after, refused = kept.read_bytes(), checkpoints.lines_after, list[type[Exception]]()

    def beside(session: Session, number: int) -> list[tuple[int, str]]:
        monkeypatch.setattr(checkpoints, "lines_after", lines_after)
        try:
            Sealer(runtime, Event()).publish()
        except OSError as error:
            refused.append(type(error))
        return lines_after(session, number)

    kept.unlink()
    monkeypatch.setattr(checkpoints, "lines_after", beside)
    sealer.publish()
    assert kept.read_bytes() == whole
    assert refused == [BlockingIOError]


@pytest.mark.parametrize("line", [b'{"stat{"statement": "x"}\n', b'{"statement": "{}", "signature": ""}\n', b"\xff\n"])
def test_a_file_of_checkpoints_that_is_none_is_told_of_and_sealing_goes_on(
    signing: tuple[Runtime, Sealer, Path, Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    line: bytes,
) -> None:
    runtime, _, kept, _ = signing
    runtime.locked.ensure_bucket()
    kept.write_bytes(line)
    stop = Event()
    sealer = Sealer(runtime, stop)
    seal_once, rounds = sealer.seal, list[bool]()

    def sealed() -> bool:
        rounds.append(seal_once())
        if len(rounds) == 2:
            stop.set()
        return True

    monkeypatch.setattr(sealer, "seal", sealed)
    sealer.run()
    assert len(rounds) == 2
    assert "file of checkpoints" in caplog.text
    assert kept.read_bytes() == line
