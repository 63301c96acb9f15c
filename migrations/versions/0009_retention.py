"""Retention: what storage holds no longer, what is about to leave it, and which department's was looked at when.

Revision: 0009, after 0008.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLES = ("erasures", "storage_sweeps")


def upgrade() -> None:
    op.add_column("job_checkpoints", sa.Column("erased_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("checkpoints_warned_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("adapter_versions", sa.Column("damaged_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_job_checkpoints_stored",
        "job_checkpoints",
        ["department_id", "job_id"],
        postgresql_where="erased_at IS NULL",
    )
    op.create_table(
        "erasures",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_erasures_department_id")),
        sa.PrimaryKeyConstraint("id", "digest", name=op.f("pk_erasures")),
    )
    op.create_index("ix_erasures_department_id_digest", "erasures", ["department_id", "digest"], unique=False)
    op.create_table(
        "storage_sweeps",
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("swept_to", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_storage_sweeps_department_id")),
        sa.PrimaryKeyConstraint("department_id", name=op.f("pk_storage_sweeps")),
    )
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} OWNER TO tsugiki_owner")
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def downgrade() -> None:
    op.execute("DROP FUNCTION storage_sweeps_due")
    for table in TABLES:
        op.drop_table(table)
    op.drop_index("ix_job_checkpoints_stored", "job_checkpoints")
    op.drop_column("adapter_versions", "damaged_at")
    op.drop_column("jobs", "checkpoints_warned_at")
    op.drop_column("job_checkpoints", "erased_at")
