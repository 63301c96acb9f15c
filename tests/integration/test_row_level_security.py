"""Departments apart in the database itself: what holds when a service, a route or a query forgets to filter.

The application's role is tried on every table with the rows of two departments, and the catalogue is read for what no
example shows. `breaches` is that reading; the last tests sabotage a schema and want to see it notice.
"""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import URL, Connection, Engine, create_engine, func, make_url, text
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.orm import Session

from domain import access
from domain.adapters import VersionState
from domain.audit import AuditEvent
from domain.jobs import JobState
from models_db import sessions
from models_db.adapters import Adapter, AdapterVersion, Alias, AliasMove, Evaluation, LineageEdge
from models_db.approvals import ApprovalComment, ApprovalDecision, ApprovalRequest
from models_db.attestations import SigningKeyRecord, VersionAttestation
from models_db.base_models import BaseModel
from models_db.departments import ApiKey, Department, Membership, ServiceAccount, User
from models_db.estimates import AskedEstimate, Inspection
from models_db.file_erasures import FileErasure
from models_db.files import File
from models_db.grants import FileGrant, VersionShare
from models_db.handouts import Deployment, Download
from models_db.jobs import Job, JobCheckpoint, JobEvent, Lease
from models_db.outgoing import OutgoingDelivery, OutgoingEvent, WebhookEndpoint
from models_db.policies import StoredPolicy
from models_db.retention import Erasure, StorageSweep
from models_db.role_grants import BreakGlass, RoleGrant
from models_db.tables import DEPARTMENT_TABLES, Table
from models_db.usage import StorageSample, UsageRecord
from runtime import migrations
from runtime.embedded import EmbeddedServices
from services import audit

# Everything that runs with other rights than its caller's. Whoever adds one has it reviewed, and named here.
DEFINER_FUNCTIONS = {
    "audit_append",
    "audit_drop_partition",
    "audit_ensure_partitions",
    "audit_partitions_before",
    "audit_seal_lag",
    "authenticate_key",
    "break_glass_over",
    "busy_workers",
    "claim_deliveries",
    "claimable_jobs",
    "departments_to_erase",
    "departments_to_sample",
    "departments_to_warn",
    "erase_department",
    "erasures_under_way",
    "estimate_accuracy",
    "estimate_department",
    "estimates_to_nudge",
    "expired_leases",
    "fan_out_events",
    "forget_estimates",
    "forget_outgoing_events",
    "job_department",
    "keep_an_admin",
    "keep_roles_apart",
    "jobs_to_nudge",
    "list_departments",
    "measured_speeds",
    "memberships_of",
    "operators_needed",
    "organisation_policy",
    "preemptable_jobs",
    "queue_ahead",
    "queue_positions",
    "remember_shared_download",
    "shared_attestations",
    "shared_versions",
    "storage_sweeps_due",
    "touch_key",
    "usage_of_all_departments",
}
AUDIT_TABLES = {"audit_archives", "audit_checkpoints", "audit_events", "audit_exports", "audit_seals"}
# (table, column, table referred to), for every reference between two departments' tables.
REFERENCES = sorted(
    {
        (table.name, key.parent.name, key.column.table.name)
        for table in Table.metadata.sorted_tables
        if table.name in DEPARTMENT_TABLES
        for key in table.foreign_keys
        if key.column.table.name in {*DEPARTMENT_TABLES} - {"departments"} and key.parent.name != "department_id"
    }
)


@dataclass(frozen=True)
class Furnished:
    """A migrated database in which two departments have a row in every table."""

    admin: Engine
    app: Engine
    ours: UUID
    theirs: UUID

    def department(self, department: UUID) -> AbstractContextManager[Session]:
        return sessions.department_session(self.app, department)


@pytest.fixture(scope="module")
def furnished() -> Iterator[Furnished]:
    # A server of its own: the roles and their passwords belong to the whole of it.
    with TemporaryDirectory(prefix="tsugiki-tests-") as folder:
        Path(folder).chmod(0o711)
        with EmbeddedServices(Path(folder) / "services", durable=False) as services:
            yield from _furnished(make_url(services.database_admin_url).set(drivername="postgresql+psycopg"))


def _furnished(admin_url: URL) -> Iterator[Furnished]:
    app_url = admin_url.set(username=sessions.APP_ROLE, password="row-level")
    migrations.upgrade(*(url.render_as_string(hide_password=False) for url in (admin_url, app_url)))
    admin = create_engine(admin_url)
    # One connection, so that whatever a session leaves on it reaches the next one.
    app = create_engine(app_url, pool_size=1, max_overflow=0)
    ours, theirs = (_furnish(app, name) for name in ("ours", "theirs"))
    yield Furnished(admin=admin, app=app, ours=ours, theirs=theirs)
    app.dispose()
    admin.dispose()


def _furnish(app: Engine, name: str) -> UUID:
    """A row in every table, written as the application writes it."""
    department = uuid4()
    with sessions.department_session(app, department) as session:
        user = User(email=f"{name}@example.org", name=name)
        base_model = BaseModel(name=f"base-{name}", state="ready", digest="sha256:0", source="test", facts={})
        session.add_all([Department(id=department, name=name), user, base_model])
        session.flush()
        account = ServiceAccount(department_id=department, name="robot", roles=["trainer"])
        file = File(
            department_id=department, filename="rows.jsonl", purpose="fine-tune", bytes=2, digest="sha256:1",
            rows=1, duplicate_rows=0, created_by=user.id,
        )  # fmt: skip
        lease = Lease(department_id=department, worker="worker-1", expires_at=func.now())
        adapter = Adapter(department_id=department, name="tickets")
        membership = Membership(department_id=department, user_id=user.id, roles=["department_admin"])
        session.add_all([membership, account, file, lease, adapter])
        session.flush()
        keys = [
            ApiKey(department_id=department, user_id=user.id, name="hers", prefix=f"{name}1", secret_sha256=b"1"),
            ApiKey(
                department_id=department, service_account_id=account.id, name="its", prefix=f"{name}2",
                secret_sha256=b"2",
            ),
        ]  # fmt: skip
        job = Job(
            department_id=department, state=JobState.RUNNING, lease_id=lease.id, base_model_id=base_model.id,
            training_file_id=file.id, validation_file_id=file.id, evaluation_file_id=file.id, adapter_name="tickets",
            spec={}, hyperparameters={}, job_metadata={}, request_sha256="0", submitted_by=user.id,
            submitted_by_type="user",
        )  # fmt: skip
        session.add_all([*keys, job])
        session.flush()
        version = AdapterVersion(
            department_id=department, adapter_id=adapter.id, number=1, job_id=job.id, base_model_id=base_model.id,
            state=VersionState.CANDIDATE, model_name=f"ft:{name}", digest="sha256:2", manifest={}, report={},
            created_by=user.id, submitter_id=user.id,
        )  # fmt: skip
        session.add_all([version, SigningKeyRecord(key_id=f"of {name}", algorithm="ecdsa-p256", pem="")])
        session.flush()
        # Last, and without a version: adapter_versions lets a job have one only, so its tests refer to this one.
        untrained = Job(
            department_id=department, state=JobState.QUEUED, base_model_id=base_model.id, training_file_id=file.id,
            adapter_name="tickets", spec={}, hyperparameters={}, job_metadata={}, request_sha256="0",
            submitted_by=user.id, submitted_by_type="user", parent_version_id=version.id,
        )  # fmt: skip
        session.add(untrained)
        session.flush()
        _govern(session, version)
        session.add_all(
            [
                JobEvent(department_id=department, job_id=job.id, level="info", type="message", message="Created."),
                JobCheckpoint(department_id=department, job_id=job.id, epoch=1, step=1, manifest={}, metrics={}),
                LineageEdge(
                    department_id=department, subject_type="adapter_version", subject_id=version.id,
                    relation="trained_on", object_type="file", object_id=file.id,
                ),
                Inspection(department_id=department, key="sha256:3", report={}),
                AskedEstimate(
                    department_id=department, base_model_id=base_model.id, request={}, data={},
                    inspection_key="sha256:4", created_by=user.id, expires_at=func.now(),
                ),
                FileGrant(
                    department_id=department, file_id=file.id, user_id=user.id, granted_by=uuid4(),
                    expires_at=func.now(),
                ),
                VersionShare(
                    department_id=department, version_id=version.id, digest="sha256:2", to_department=uuid4(),
                    requested_by=uuid4(), expires_at=func.now(),
                ),
                BreakGlass(
                    department_id=department, reason="a test", lasts_s=60, requested_by=uuid4(), opened_by=uuid4(),
                    opened_at=func.now(), expires_at=func.now(), account_id=account.id,
                ),
                RoleGrant(department_id=department, role="approver", user_id=user.id, requested_by=uuid4()),
                VersionAttestation(
                    department_id=department, version_id=version.id, kind="signature", digest="sha256:4", bytes=1,
                    key_id=f"of {name}",
                ),
                Erasure(id=uuid4(), department_id=department, digest="sha256:3", ends_at=func.now()),
                StorageSweep(department_id=department, due_at=func.now()),
                StoredPolicy(
                    department_id=department, number=1, document="format: 1", digest="sha256:5", created_by=user.id,
                    created_by_type="user",
                ),
                Evaluation(
                    department_id=department, version_id=version.id, file_id=file.id, base_report={},
                    adapter_report={},
                ),
                UsageRecord(
                    department_id=department, job_id=job.id, lease_id=lease.id, epoch=1, end_reason="released",
                    submitted_by=user.id, submitted_by_type="user", base_model_id=base_model.id, worker="worker-1",
                    ranks=1, shared_by=1, started_at=func.now(), ended_at=func.now(), gpu_seconds=0, trained_tokens=0,
                    price_per_gpu_hour=0, amount=0,
                ),
                StorageSample(
                    department_id=department, day=date(2026, 11, 25), file_bytes=2, version_bytes=0,
                    checkpoint_bytes=0, price_per_gb_month=0, amount=0,
                ),
            ]
        )  # fmt: skip
        told = OutgoingEvent(department_id=department, kind="alias.moved", subject_id=version.id, data={})
        endpoint = WebhookEndpoint(
            department_id=department, name="ours", url="https://example.org/", event_types=["alias.moved"],
            secret=b"3", created_by=user.id,
        )  # fmt: skip
        session.add_all([told, endpoint])
        session.add_all(
            [
                FileErasure(
                    department_id=department,
                    file_id=file.id,
                    state="requested",
                    running_jobs="stop",
                    reason="x",
                    requested_by=user.id,
                    requested_human=user.id,
                ),
                Download(department_id=department, version_id=version.id, holder_id=user.id, holder_type="user"),
                Deployment(
                    department_id=department, version_id=version.id, server="s", state="loaded", reported_by=user.id
                ),
            ]
        )
        session.flush()
        session.add(OutgoingDelivery(department_id=department, event_id=told.id, receiver=endpoint.id))
        audit.record(session, access.system(department), AuditEvent.JOB_SUBMITTED, resource=("job", job.id))
    return department


def _govern(session: Session, version: AdapterVersion) -> None:
    """An alias that moved twice, and a request that somebody else decided."""
    of_version = {"department_id": version.department_id, "adapter_id": version.adapter_id}
    previous = None
    for _ in range(2):
        move = AliasMove(
            **of_version, name="latest", kind="moved", from_version_id=version.id, version_id=version.id,
            previous_id=previous, moved_by_type="system",
        )  # fmt: skip
        session.add(move)
        session.flush()
        previous = move.id
    session.add(Alias(**of_version, name="latest", version_id=version.id, move_id=previous))
    bound = {
        "department_id": version.department_id, "version_id": version.id, "digest": version.digest,
        "submitter_id": version.submitter_id, "requester_id": version.submitter_id,
    }  # fmt: skip
    request = ApprovalRequest(
        **bound, requested_by=version.created_by, requested_by_type="user", note="", evaluation_ids=[], required=1,
        state="rejected", expires_at=func.now(), closed_at=func.now(),
    )  # fmt: skip
    session.add(request)
    session.flush()
    of_request = {"department_id": version.department_id, "request_id": request.id}
    decision = ApprovalDecision(**bound, request_id=request.id, approver_id=uuid4(), decision="reject", comment="")
    session.add_all(
        [decision, ApprovalComment(**of_request, author_type="user", author_id=version.created_by, comment="")]
    )
    session.flush()


def _owner_column(table: str) -> str:
    return "id" if table == "departments" else "department_id"


def _departments_in(session: Session | Connection, table: str) -> set[UUID | None]:
    return set(session.execute(text(f"SELECT {_owner_column(table)} FROM {table}")).scalars())  # noqa: S608


def _row(session: Session | Connection, table: str, department: UUID, *, having: str = "true") -> dict[str, object]:
    """The row of the department's that was inserted last: nothing here is ever updated."""
    condition = f"{_owner_column(table)} = :department AND {having}"
    statement = text(f"SELECT to_jsonb(t) FROM {table} t WHERE {condition} ORDER BY ctid DESC LIMIT 1")  # noqa: S608
    row: dict[str, object] = session.execute(statement, {"department": department}).scalar_one()
    return row


def _insert(session: Session, table: str, row: dict[str, object]) -> None:
    statement = f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_record(null::{table}, :row)"  # noqa: S608
    session.execute(text(statement.replace(":row", "CAST(:row AS jsonb)")), {"row": json.dumps(row)})


# --- rows -------------------------------------------------------------------------------------------------------------


def test_both_departments_have_a_row_in_every_table(furnished: Furnished) -> None:
    with furnished.admin.connect() as connection:
        for table in DEPARTMENT_TABLES:
            assert _departments_in(connection, table) >= {furnished.ours, furnished.theirs}, table


@pytest.mark.parametrize("table", DEPARTMENT_TABLES)
def test_a_department_sees_its_own_rows_alone(furnished: Furnished, table: str) -> None:
    with furnished.department(furnished.ours) as session:
        assert _departments_in(session, table) == {furnished.ours}


@pytest.mark.parametrize("table", DEPARTMENT_TABLES)
def test_without_a_department_nobodys_rows_are_seen(furnished: Furnished, table: str) -> None:
    with sessions.platform_session(furnished.app) as session:
        assert not _departments_in(session, table) - {None}
    # Nor on a connection on which nothing was ever set.
    bare = create_engine(furnished.app.url)
    with bare.connect() as connection:
        assert not _departments_in(connection, table) - {None}
    bare.dispose()


@pytest.mark.parametrize("table", DEPARTMENT_TABLES)
def test_a_row_cannot_be_written_for_another_department(furnished: Furnished, table: str) -> None:
    with (
        pytest.raises(ProgrammingError, match=r"row-level security|permission denied"),
        furnished.department(furnished.ours) as session,
    ):
        _insert(session, table, _row(session, table, furnished.ours) | {_owner_column(table): str(furnished.theirs)})


@pytest.mark.parametrize("table", DEPARTMENT_TABLES)
def test_a_row_cannot_be_moved_to_another_department(furnished: Furnished, table: str) -> None:
    statement = text(f"UPDATE {table} SET {_owner_column(table)} = :theirs")  # noqa: S608
    with (
        pytest.raises(ProgrammingError, match=r"row-level security|permission denied"),
        furnished.department(furnished.ours) as session,
    ):
        session.execute(statement, {"theirs": furnished.theirs})


@pytest.mark.parametrize(("table", "column", "referred"), REFERENCES)
def test_a_row_cannot_refer_to_another_departments(
    furnished: Furnished, table: str, column: str, referred: str
) -> None:
    with furnished.admin.connect() as connection:
        foreign = _row(connection, referred, furnished.theirs)
        row = _row(connection, table, furnished.ours, having=f"{column} IS NOT NULL")
        untrained = _row(connection, "jobs", furnished.ours)
    unlike = {"id": str(uuid4()), "prefix": "other", "name": "other", "model_name": "other", "number": 2, "step": 2}
    unlike |= {"job_id": untrained["id"], "approver_id": str(uuid4())}
    with pytest.raises(IntegrityError, match="foreign key"), furnished.department(furnished.ours) as session:
        _insert(session, table, row | unlike | {column: foreign[column if column == "user_id" else "id"]})


@pytest.mark.parametrize(("table", "column", "referred"), REFERENCES)
def test_a_reference_does_not_tell_a_foreign_row_from_a_missing_one(
    furnished: Furnished, table: str, column: str, referred: str
) -> None:
    with furnished.admin.connect() as connection:
        foreign = _row(connection, referred, furnished.theirs)[column if column == "user_id" else "id"]
        row = _row(connection, table, furnished.ours, having=f"{column} IS NOT NULL")
        untrained = _row(connection, "jobs", furnished.ours)
    told = []
    for referring in (foreign, str(uuid4())):
        unlike = {"id": str(uuid4()), "prefix": "other", "name": "other", "model_name": "other", "number": 2, "step": 2}
        unlike |= {"job_id": untrained["id"], column: referring}
        with pytest.raises(IntegrityError) as refused, furnished.department(furnished.ours) as session:
            _insert(session, table, row | unlike)
        assert isinstance(refused.value.orig, psycopg.Error)
        diagnostic = refused.value.orig.diag
        detail = (diagnostic.message_detail or "").replace(str(referring), "…")
        told.append((diagnostic.sqlstate, diagnostic.constraint_name, diagnostic.message_primary, detail))
    assert told[0] == told[1]


# Unique across departments. An id is the server's: nobody asks for one. A department's name is asked for by operators,
# who see all of them; a key's prefix is drawn at random.
UNIQUE_ACROSS = {("api_keys", "prefix"), ("departments", "name")}


def test_no_unique_key_tells_what_another_department_has(furnished: Furnished) -> None:
    with furnished.admin.connect() as connection:
        found = {(row.table_name, row.column_name) for row in connection.execute(_UNIQUE_WITHOUT_DEPARTMENT)}
    assert found == UNIQUE_ACROSS


_UNIQUE_WITHOUT_DEPARTMENT = text("""
    SELECT c.relname AS table_name, a.attname AS column_name
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indrelid
    CROSS JOIN LATERAL unnest(i.indkey::int2[]) AS key (number)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = key.number
    WHERE i.indisunique AND c.relforcerowsecurity AND NOT c.relispartition
        -- What callers choose: no id, no time, and no number that is drawn under a row of the department's own.
        AND a.atttypid NOT IN ('uuid'::regtype, 'bigint'::regtype, 'timestamptz'::regtype)
        AND NOT EXISTS (
            SELECT FROM unnest(i.indkey::int2[]) AS other (number)
            JOIN pg_attribute o ON o.attrelid = c.oid AND o.attnum = other.number
            WHERE o.attname IN ('department_id', 'job_id', 'adapter_id', 'id'))
""")


def test_every_kind_of_reference_is_tried() -> None:
    assert {table for table, _column, _referred in REFERENCES} == {
        "adapter_versions", "alias_moves", "aliases", "api_keys", "approval_comments", "approval_decisions",
        "approval_requests", "break_glass", "deployments", "downloads", "evaluations", "file_erasures",
        "file_grants", "job_checkpoints", "job_events", "jobs", "outgoing_deliveries", "usage_records",
        "version_attestations", "version_shares",
    }  # fmt: skip


WRITTEN_ONCE = {
    "storage_samples": "amount = 0", "usage_records": "amount = 0", "alias_moves": "kind = 'moved'",
    "approval_decisions": "comment = ''", "approval_comments": "comment = ''",
}  # fmt: skip


@pytest.mark.parametrize("statement", ["UPDATE {} SET {}", "DELETE FROM {}"])
@pytest.mark.parametrize("table", sorted(WRITTEN_ONCE))
def test_what_was_written_down_stays(furnished: Furnished, table: str, statement: str) -> None:
    with (
        pytest.raises(ProgrammingError, match="permission denied"),
        furnished.department(furnished.ours) as session,
    ):
        session.execute(text(statement.format(table, WRITTEN_ONCE[table])))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE version_attestations SET digest = 'sha256:0'",
        "DELETE FROM version_attestations",
        "UPDATE signing_keys SET pem = ''",
        "DELETE FROM signing_keys",
    ],
)
def test_what_was_signed_and_its_keys_are_written_once(furnished: Furnished, statement: str) -> None:
    with (
        pytest.raises(ProgrammingError, match="permission denied"),
        furnished.department(furnished.ours) as session,
    ):
        session.execute(text(statement))


# --- the connection ---------------------------------------------------------------------------------------------------


def test_a_department_does_not_stay_on_the_pooled_connection(furnished: Furnished) -> None:
    with furnished.department(furnished.ours) as session:
        assert _departments_in(session, "jobs") == {furnished.ours}
    with furnished.app.connect() as connection:
        assert not connection.execute(text("SELECT current_setting('app.department', true)")).scalar()
        assert not _departments_in(connection, "jobs")


def test_a_rollback_forgets_the_department_too(furnished: Furnished) -> None:
    with pytest.raises(ProgrammingError, match="no_such_table"), furnished.department(furnished.ours) as session:
        session.execute(text("SELECT 1 FROM no_such_table"))
    with furnished.app.connect() as connection:
        assert not _departments_in(connection, "jobs")


def test_after_a_savepoint_is_rolled_back_the_department_is_still_set(furnished: Furnished) -> None:
    with furnished.department(furnished.ours) as session:
        session.begin_nested().rollback()
        assert _departments_in(session, "jobs") == {furnished.ours}


def test_the_auditors_role_does_not_stay_on_the_pooled_connection(furnished: Furnished) -> None:
    with sessions.auditor_session(furnished.app) as session:
        assert session.execute(text("SELECT current_user")).scalar() == sessions.AUDITOR_ROLE
    with furnished.app.connect() as connection:
        assert connection.execute(text("SELECT current_user")).scalar() == sessions.APP_ROLE


# --- the audit trail --------------------------------------------------------------------------------------------------


def test_the_auditor_reads_every_departments_trail_and_nothing_else(furnished: Furnished) -> None:
    with sessions.auditor_session(furnished.app) as session:
        assert _departments_in(session, "audit_events") >= {furnished.ours, furnished.theirs}
    for table in sorted({*Table.metadata.tables, "alembic_version"} - AUDIT_TABLES):
        with (
            pytest.raises(ProgrammingError, match="permission denied"),
            sessions.auditor_session(furnished.app) as session,
        ):
            session.execute(text(f"SELECT 1 FROM {table}"))  # noqa: S608


def test_audit_append_is_the_only_way_into_the_trail(furnished: Furnished) -> None:
    with furnished.department(furnished.ours) as session:
        event = _row(session, "audit_events", furnished.ours)
    with (
        pytest.raises(ProgrammingError, match="permission denied"),
        furnished.department(furnished.ours) as session,
    ):
        _insert(session, "audit_events", event | {"number": 10**9, "id": str(uuid4())})
    with furnished.department(furnished.ours) as session:
        before = session.scalar(text("SELECT count(*) FROM audit_events"))
        audit.record(session, access.system(furnished.ours), AuditEvent.JOB_CLAIMED)
        assert session.scalar(text("SELECT count(*) FROM audit_events")) == before + 1


@pytest.mark.parametrize("statement", ["UPDATE {} SET outcome = 'denied'", "DELETE FROM {}", "TRUNCATE {}"])
def test_not_even_a_superuser_changes_the_trail_by_a_plain_statement(furnished: Furnished, statement: str) -> None:
    with pytest.raises(ProgrammingError, match="append-only"), furnished.admin.begin() as connection:
        connection.execute(text(statement.format("audit_events")))


def test_the_owner_of_the_tables_cannot_change_the_trail(furnished: Furnished) -> None:
    with furnished.admin.connect() as connection:
        connection.execute(text("SET LOCAL ROLE tsugiki_owner"))
        # Forced row-level security binds the owner too, and there is no policy for it: it finds no row.
        assert connection.execute(text("UPDATE audit_events SET outcome = 'denied'")).rowcount == 0
        assert connection.execute(text("DELETE FROM audit_events")).rowcount == 0
        with pytest.raises(ProgrammingError, match="append-only"):
            connection.execute(text("TRUNCATE audit_events"))


# --- the catalogue ----------------------------------------------------------------------------------------------------


def breaches(connection: Connection) -> list[str]:
    """What in this schema would let one department's rows be seen from another, in words."""
    found = [row.what for row in connection.execute(_TABLES_AND_POLICIES)]
    found += [row.what for row in connection.execute(_RIGHTS)]
    found += [row.what for row in connection.execute(_REFERENCES_WITHOUT_DEPARTMENT)]
    return found + [row.what for row in connection.execute(_FUNCTIONS)]


_TABLES_AND_POLICIES = text("""
    WITH tables AS (
        SELECT c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relowner::regrole::text AS owner
        FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
            AND (c.relname = 'departments' OR EXISTS (
                SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'department_id'))
    ), policies AS (
        SELECT tablename, policyname, permissive, cmd, roles::text[] AS roles, qual, with_check FROM pg_policies
    )
    SELECT relname || ' has no row-level security' AS what FROM tables WHERE NOT relrowsecurity
    UNION ALL SELECT relname || ' does not force it on its owner' FROM tables WHERE NOT relforcerowsecurity
    UNION ALL SELECT relname || ' belongs to ' || owner FROM tables WHERE owner <> 'tsugiki_owner'
    UNION ALL SELECT relname || ' has no policy for the application' FROM tables WHERE NOT EXISTS (
        SELECT FROM policies p WHERE p.tablename = relname AND p.cmd = 'ALL' AND p.roles = '{tsugiki_app}'
            AND p.qual LIKE '%current_department()%' AND p.with_check = p.qual)
    UNION ALL SELECT tablename || ' has the unknown policy ' || policyname FROM policies
        WHERE (policyname, roles) NOT IN (
            ('department', '{tsugiki_app}'), ('across', '{tsugiki_definer}'), ('auditor', '{tsugiki_auditor}'),
            ('sealer', '{tsugiki_sealer}'))
    UNION ALL SELECT viewname || ' is a view: has it security_invoker?' FROM pg_views WHERE schemaname = 'public'
""")
_RIGHTS = text("""
    SELECT rolname || ' is above row-level security' AS what FROM pg_roles
        WHERE rolname LIKE 'tsugiki\\_%'
            AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)
    UNION ALL SELECT rolname || ' can log in' FROM pg_roles
        WHERE rolname LIKE 'tsugiki\\_%' AND rolname <> 'tsugiki_app' AND rolcanlogin
    UNION ALL SELECT 'tsugiki_app can become ' || roleid::regrole FROM pg_auth_members
        WHERE member = 'tsugiki_app'::regrole
            AND (roleid NOT IN ('tsugiki_auditor'::regrole, 'tsugiki_sealer'::regrole)
                OR inherit_option OR admin_option)
    UNION ALL SELECT grantee || ' may ' || privilege_type || ' ' || table_name
        FROM information_schema.role_table_grants WHERE table_schema = 'public' AND (
            grantee = 'PUBLIC' OR (grantee LIKE 'tsugiki\\_%' AND grantee <> 'tsugiki_owner'
                AND privilege_type IN ('TRUNCATE', 'TRIGGER', 'REFERENCES')))
    UNION ALL SELECT role || ' may ' || privilege || ' audit_events'
        FROM unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) privilege,
            unnest(ARRAY['tsugiki_app', 'tsugiki_auditor', 'tsugiki_sealer']) role
        WHERE has_table_privilege(role, 'audit_events', privilege)
            OR privilege IN ('INSERT', 'UPDATE') AND has_any_column_privilege(role, 'audit_events', privilege)
    UNION ALL SELECT role || ' may ' || privilege || ' ' || proof
        FROM unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) privilege,
            unnest(ARRAY['tsugiki_app', 'tsugiki_auditor', 'tsugiki_sealer']) role,
            unnest(ARRAY['audit_seals', 'audit_checkpoints', 'audit_archives']) proof
        WHERE has_table_privilege(role, proof, privilege)
    UNION ALL SELECT 'tsugiki_app may write ' || proof
        FROM unnest(ARRAY['audit_seals', 'audit_checkpoints', 'audit_archives']) proof
        WHERE has_table_privilege('tsugiki_app', proof, 'INSERT')
    UNION ALL SELECT c.relname || ' can be reached without audit_events' FROM pg_class c
        WHERE c.relnamespace = 'audit'::regnamespace AND c.relkind = 'r'
            AND (c.relacl IS NOT NULL OR NOT c.relrowsecurity OR NOT c.relforcerowsecurity)
    UNION ALL SELECT c.relname || ' can be changed' FROM pg_class c
        WHERE c.relnamespace = 'audit'::regnamespace AND c.relkind = 'r' AND (
            SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgenabled = 'O'
                AND t.tgfoid = 'refuse_change'::regproc) <> 2
    UNION ALL SELECT role || ' may use the schema audit'
        FROM unnest(ARRAY['tsugiki_app', 'tsugiki_definer', 'tsugiki_auditor', 'tsugiki_sealer']) role
        WHERE has_schema_privilege(role, 'audit', 'USAGE')
    UNION ALL SELECT role || ' may create in the schema public'
        FROM unnest(ARRAY['tsugiki_app', 'tsugiki_owner', 'tsugiki_definer', 'tsugiki_auditor', 'tsugiki_sealer']) role
        WHERE has_schema_privilege(role, 'public', 'CREATE')
""")
# A foreign key is checked without row-level security: only one that has the department in it stays inside.
_REFERENCES_WITHOUT_DEPARTMENT = text("""
    WITH keys AS (
        SELECT c.oid, c.conrelid, c.confrelid, from_column.attname AS from_column, to_column.attname AS to_column
        FROM pg_constraint c
        CROSS JOIN LATERAL unnest(c.conkey, c.confkey) AS k (from_number, to_number)
        JOIN pg_attribute from_column ON from_column.attrelid = c.conrelid AND from_column.attnum = k.from_number
        JOIN pg_attribute to_column ON to_column.attrelid = c.confrelid AND to_column.attnum = k.to_number
        WHERE c.contype = 'f' AND EXISTS (SELECT FROM pg_attribute a
            WHERE a.attrelid = c.confrelid AND a.attname = 'department_id')
    ), inside AS (
        SELECT oid FROM keys WHERE from_column = 'department_id' AND to_column = 'department_id'
    )
    SELECT DISTINCT conrelid::regclass || '.' || from_column || ' can refer to another department' AS what
    FROM keys k WHERE from_column <> 'department_id' AND NOT EXISTS (
        SELECT FROM keys other JOIN inside USING (oid)
        WHERE other.conrelid = k.conrelid AND other.from_column = k.from_column AND other.confrelid = k.confrelid)
""")
_FUNCTIONS = text("""
    WITH functions AS (SELECT * FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef)
    SELECT proname || ' does not fix its search_path' AS what FROM functions
        WHERE NOT coalesce(proconfig, '{}') @> ARRAY['search_path=public, pg_temp']
    UNION ALL SELECT proname || ' runs as ' || proowner::regrole FROM functions
        WHERE proowner <> CASE WHEN proname IN
            ('audit_drop_partition', 'audit_ensure_partitions', 'audit_partitions_before')
            THEN 'tsugiki_owner' ELSE 'tsugiki_definer' END::regrole
    UNION ALL SELECT proname || ' may be called by anyone' FROM functions
        WHERE has_function_privilege('public', oid, 'EXECUTE')
    UNION ALL SELECT proname || ' may be called by the auditor' FROM functions
        WHERE proname NOT IN ('audit_append', 'audit_seal_lag')
            AND has_function_privilege('tsugiki_auditor', oid, 'EXECUTE')
    UNION ALL SELECT proname || ' may be called by the application' FROM functions
        WHERE proowner = 'tsugiki_owner'::regrole AND has_function_privilege('tsugiki_app', oid, 'EXECUTE')
""")


def test_the_schema_keeps_departments_apart(furnished: Furnished) -> None:
    with furnished.admin.connect() as connection:
        assert breaches(connection) == []


def test_the_list_of_department_tables_is_complete(furnished: Furnished) -> None:
    with furnished.admin.connect() as connection:
        found = connection.execute(
            text("SELECT relname FROM pg_class WHERE relforcerowsecurity AND NOT relispartition")
        ).scalars()
        assert sorted(found) == sorted(DEPARTMENT_TABLES)
    named = {table.name for table in Table.metadata.sorted_tables if "department_id" in table.columns}
    assert named | {"departments"} == set(DEPARTMENT_TABLES)


def test_the_functions_that_reach_across_are_the_reviewed_ones(furnished: Furnished) -> None:
    names = text("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef")
    with furnished.admin.connect() as connection:
        # A list and not a set: a second function of the same name would be one that nobody reviewed.
        assert sorted(connection.execute(names).scalars()) == sorted(DEFINER_FUNCTIONS)


@pytest.mark.parametrize(
    ("sabotage", "noticed"),
    [
        ("ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY", "jobs does not force it on its owner"),
        ("ALTER TABLE files DISABLE ROW LEVEL SECURITY", "files has no row-level security"),
        ("DROP POLICY department ON adapters", "adapters has no policy for the application"),
        ("ALTER POLICY department ON leases USING (true)", "leases has no policy for the application"),
        ("CREATE POLICY extra ON jobs TO tsugiki_app USING (true)", "jobs has the unknown policy extra"),
        ("CREATE TABLE notes (department_id uuid)", "notes has no row-level security"),
        ("ALTER ROLE tsugiki_app BYPASSRLS", "tsugiki_app is above row-level security"),
        ("GRANT tsugiki_owner TO tsugiki_app", "tsugiki_app can become tsugiki_owner"),
        ("GRANT TRUNCATE ON jobs TO tsugiki_app", "tsugiki_app may TRUNCATE jobs"),
        ("GRANT UPDATE (details) ON audit_events TO tsugiki_app", "tsugiki_app may UPDATE audit_events"),
        ("GRANT SELECT ON jobs TO PUBLIC", "PUBLIC may SELECT jobs"),
        ("GRANT INSERT ON audit_seals TO tsugiki_app", "tsugiki_app may write audit_seals"),
        ("GRANT DELETE ON audit_seals TO tsugiki_sealer", "tsugiki_sealer may DELETE audit_seals"),
        ("GRANT USAGE ON SCHEMA audit TO tsugiki_app", "tsugiki_app may use the schema audit"),
        (
            """DO $$ BEGIN EXECUTE format('ALTER TABLE audit.%I DISABLE TRIGGER append_only_truncate',
            to_char(now(), '"audit_events_"YYYY_MM')); END $$""",
            "can be changed",
        ),
        (
            "GRANT EXECUTE ON FUNCTION audit_drop_partition TO tsugiki_app",
            "audit_drop_partition may be called by the application",
        ),
        (
            "ALTER TABLE api_keys DROP CONSTRAINT fk_api_keys_department_id_service_account_id",
            "api_keys.service_account_id can refer to another department",
        ),
        ("ALTER FUNCTION touch_key RESET search_path", "touch_key does not fix its search_path"),
        ("GRANT EXECUTE ON FUNCTION job_department TO PUBLIC", "job_department may be called by anyone"),
    ],
)
def test_a_schema_that_leaks_is_noticed(furnished: Furnished, sabotage: str, noticed: str) -> None:
    with furnished.admin.connect() as connection, connection.begin() as transaction:
        connection.execute(text(sabotage))
        assert any(breach.endswith(noticed) for breach in breaches(connection))
        transaction.rollback()
