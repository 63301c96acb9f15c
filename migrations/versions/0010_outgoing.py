"""What is told to others: endpoints, events, and their deliveries.

Revision: 0010, after 0009.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLES = ("outgoing_deliveries", "outgoing_events", "webhook_endpoints")
FUNCTIONS = (
    "claim_deliveries(integer, double precision)",
    "fan_out_events(integer, text[])",
    "forget_outgoing_events(double precision)",
)
KINDS = (
    "fine_tuning.job.started", "fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled",
    "adapter.version.registered", "adapter.version.approved", "adapter.version.revoked", "alias.moved",
)  # fmt: skip


def upgrade() -> None:
    create_endpoints()
    create_events()
    create_deliveries()
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} OWNER TO tsugiki_owner")
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def create_endpoints() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("event_types", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=True),
        sa.Column("old_secret", sa.LargeBinary(), nullable=True),
        sa.Column("old_secret_ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "deleted_at IS NULL OR secret IS NULL AND old_secret IS NULL", name=op.f("ck_webhook_endpoints_deleted")
        ),
        sa.CheckConstraint("deleted_at IS NOT NULL OR secret IS NOT NULL", name=op.f("ck_webhook_endpoints_secret")),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_webhook_endpoints_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index("ix_webhook_endpoints_department_id_id", "webhook_endpoints", ["department_id", "id"], unique=False)


def create_events() -> None:
    kinds = ", ".join(f"'{kind}'" for kind in KINDS)
    op.create_table(
        "outgoing_events",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("fanned_out_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(f"kind IN ({kinds})", name=op.f("ck_outgoing_events_kind")),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_outgoing_events_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outgoing_events")),
        sa.UniqueConstraint("department_id", "id", name=op.f("uq_outgoing_events_department_id_id")),
    )
    op.create_index("ix_outgoing_events_new", "outgoing_events", ["id"], postgresql_where="fanned_out_at IS NULL")
    op.create_index("ix_outgoing_events_created_at", "outgoing_events", ["created_at"])


def create_deliveries() -> None:
    op.create_table(
        "outgoing_deliveries",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("receiver", sa.Uuid(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("given_up_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status_code", sa.SmallInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "num_nonnulls(due_at, delivered_at, given_up_at) = 1", name=op.f("ck_outgoing_deliveries_one_state")
        ),
        sa.ForeignKeyConstraint(
            ["department_id"], ["departments.id"], name=op.f("fk_outgoing_deliveries_department_id")
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "event_id"],
            ["outgoing_events.department_id", "outgoing_events.id"],
            name=op.f("fk_outgoing_deliveries_department_id_event_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outgoing_deliveries")),
        sa.UniqueConstraint(
            "department_id", "event_id", "receiver", name=op.f("uq_outgoing_deliveries_department_id_event_id_receiver")
        ),
    )
    op.create_index(
        "ix_outgoing_deliveries_due",
        "outgoing_deliveries",
        ["receiver", "due_at"],
        postgresql_where="due_at IS NOT NULL",
    )


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    for table in TABLES:
        op.drop_table(table)
