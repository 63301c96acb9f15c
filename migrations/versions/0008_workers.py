"""Train workers are registered, and jobs say what memory they need: a claim looks at both.

Revision: 0008, after 0007.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table()
    op.add_column("leases", sa.Column("worker_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_leases_worker_id"), "leases", "workers", ["worker_id"], ["id"])
    op.add_column("jobs", sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(_beside("0008_workers.sql"))
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def create_table() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("device_name", sa.Text(), nullable=True),
        sa.Column("ranks", sa.Integer(), nullable=False),
        sa.Column("threads_per_rank", sa.Integer(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("precision", sa.Text(), nullable=False),
        sa.Column("quantisation", sa.Text(), nullable=False),
        sa.Column("weight_bits", sa.Integer(), nullable=False),
        sa.Column("versions", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("calibration", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("registered_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("release_asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retire_asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('active', 'draining', 'retired')", name=op.f("ck_workers_state")),
        sa.CheckConstraint("(state = 'retired') = (retired_at IS NOT NULL)", name=op.f("ck_workers_retired")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )


def downgrade() -> None:
    for function in (
        "queue_positions(uuid[], double precision)",
        "busy_workers()",
        "preemptable_jobs(double precision, double precision)",
        "claimable_jobs(integer, double precision, uuid)",
        "fits(bigint, bigint, integer)",
    ):
        op.execute(f"DROP FUNCTION {function}")
    op.execute(_beside("0003_fair_share.sql"))
    op.drop_column("jobs", "memory_bytes")
    op.drop_column("leases", "worker_id")
    op.drop_table("workers")


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text()
