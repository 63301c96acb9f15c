"""The audit trail in monthly partitions, with seals, signed checkpoints and the manifests of dropped months.

Events that are there move into the new table as they are; their transactions are over, so 0 stands for theirs.

Revision: 0017, after 0016.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

TABLES = ("audit_seals", "audit_checkpoints", "audit_archives", "audit_exports")
INDEXES: dict[str, list[str]] = {
    "id": ["id"],
    "xid": ["xid"],
    "department_id_number": ["department_id", "number"],
    "actor_id_number": ["actor_id", "number"],
    "resource_id_number": ["resource_id", "number"],
    "action_department_id_number": ["action", "department_id", "number"],
    "request_id": ["request_id"],
}
OLD_COLUMNS = (
    "number, id, occurred_at, department_id, actor_type, actor_id, actor_key_id, action, outcome, reason_code, "
    "resource_type, resource_id, refs, request_id, source_ip, details"
)
OLD_APPEND = "audit_append(uuid, text, uuid, uuid, text, text, text, text, uuid, uuid[], text, text, jsonb)"


def upgrade() -> None:
    create_roles()
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(f"DROP FUNCTION {OLD_APPEND}")
    op.execute("ALTER TABLE audit_events RENAME TO audit_events_before")
    op.execute("ALTER SEQUENCE audit_events_number_seq RENAME TO audit_events_before_number_seq")
    for index in ("department_id_number", "actor_id_number", "resource_id_number", "refs"):
        op.execute(f"DROP INDEX ix_audit_events_{index}")
    op.execute("ALTER TABLE audit_events_before DROP CONSTRAINT pk_audit_events")
    create_tables()
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    move_events()
    close_rows()
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} OWNER TO tsugiki_owner")
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def create_roles() -> None:
    op.execute("""
        DO $$ BEGIN CREATE ROLE tsugiki_sealer NOLOGIN NOSUPERUSER NOBYPASSRLS;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$
    """)
    op.execute("GRANT tsugiki_sealer TO tsugiki_app WITH INHERIT FALSE, SET TRUE")


def create_tables() -> None:
    op.create_table(
        "audit_events",
        # First, so that the transaction has its number before the event has: see audit_append.
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column(
            "occurred_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("department_id", sa.Uuid(), nullable=True),
        sa.Column("actor_type", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("actor_key_id", sa.Uuid(), nullable=True),
        sa.Column("auth_method", sa.Text(), nullable=True),
        sa.Column("on_behalf_of", sa.Uuid(), nullable=True),
        sa.Column("roles", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason_code", sa.Text(), nullable=True),
        sa.Column("resource_type", sa.Text(), nullable=True),
        sa.Column("resource_id", sa.Uuid(), nullable=True),
        sa.Column("refs", postgresql.ARRAY(sa.Uuid()), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.Column("source_ip", sa.Text(), nullable=True),
        sa.Column("user_agent_hash", sa.Text(), nullable=True),
        sa.Column("job_epoch", sa.Integer(), nullable=True),
        sa.Column("before", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("after", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("object_sha256", sa.Text(), nullable=True),
        sa.Column("policy_version", sa.Text(), nullable=True),
        sa.Column("schema_version", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("number", "occurred_at", name=op.f("pk_audit_events")),
        postgresql_partition_by="RANGE (occurred_at)",
    )
    for name, columns in INDEXES.items():
        op.create_index(f"ix_audit_events_{name}", "audit_events", columns, unique=False)
    op.create_index("ix_audit_events_refs", "audit_events", ["refs"], unique=False, postgresql_using="gin")
    op.create_index(
        "ix_audit_events_not_done",
        "audit_events",
        ["department_id", "number"],
        unique=False,
        postgresql_where="outcome <> 'success'::text",
    )
    op.create_table(
        "audit_seals",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("chain", sa.Uuid(), nullable=False),
        sa.Column("seal", sa.Integer(), nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("snapshot", sa.Text(), nullable=False),
        sa.Column("first_number", sa.BigInteger(), nullable=False),
        sa.Column("last_number", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("numbers", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("leaves", sa.LargeBinary(), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_seals")),
        sa.UniqueConstraint("chain", "seal", name=op.f("uq_audit_seals_chain_seal")),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seals_to", sa.BigInteger(), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_checkpoints")),
    )
    op.create_table(
        "audit_archives",
        sa.Column("partition", sa.Text(), nullable=False),
        sa.Column("dropped_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("numbers", postgresql.INT8MULTIRANGE(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("leaves_sha256", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("partition", name=op.f("pk_audit_archives")),
    )

    op.create_table(
        "audit_exports",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("scope", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_exports")),
    )


def move_events() -> None:
    """The months that there are, and three to come; then the events, under their own numbers."""
    # Forced row-level security hides them from an administrator who is no superuser.
    op.execute("ALTER TABLE audit_events_before DISABLE ROW LEVEL SECURITY")
    op.execute("SELECT audit_ensure_partitions(coalesce((SELECT min(occurred_at) FROM audit_events_before), now()), 3)")
    op.execute(f"""
        INSERT INTO audit_events (xid, roles, {OLD_COLUMNS}) OVERRIDING SYSTEM VALUE
        SELECT 0, '{{}}', {OLD_COLUMNS} FROM audit_events_before
    """)  # noqa: S608 - names of columns
    op.execute("""
        SELECT setval(pg_get_serial_sequence('audit_events', 'number'), max(number)) FROM audit_events_before
        HAVING max(number) IS NOT NULL
    """)
    op.execute("DROP TABLE audit_events_before")


def close_rows() -> None:
    """Row-level security as the table had it; the sealer reads what the auditor reads."""
    op.execute("ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE audit_events FORCE ROW LEVEL SECURITY")
    ours = "department_id IS NOT DISTINCT FROM current_department()"
    op.execute(f"CREATE POLICY department ON audit_events TO tsugiki_app USING ({ours}) WITH CHECK ({ours})")
    op.execute("CREATE POLICY across ON audit_events TO tsugiki_definer USING (true) WITH CHECK (true)")
    for role in ("auditor", "sealer"):
        op.execute(f"CREATE POLICY {role} ON audit_events FOR SELECT TO tsugiki_{role} USING (true)")


def downgrade() -> None:
    op.execute(Path(__file__).with_name("0017_down.sql").read_text())
    for table in TABLES:
        op.drop_table(table)
    op.execute("REVOKE tsugiki_sealer FROM tsugiki_app")
