"""Fair shares: weights, priorities and preemption, and the order in which jobs are claimed.

Revision: 0003, after 0002.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("departments", sa.Column("weight", sa.Float(), server_default="1", nullable=False))
    op.add_column("departments", sa.Column("preempts", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_check_constraint(op.f("ck_departments_weight"), "departments", "weight > 0")
    op.add_column("jobs", sa.Column("priority", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("preempt_requested_at", sa.DateTime(timezone=True), nullable=True))
    # Jobs that wait already have done so since they were submitted, at the most.
    op.execute("UPDATE jobs SET queued_at = created_at WHERE state = 'queued'")
    op.create_index(
        "ix_jobs_department_id_queued",
        "jobs",
        ["department_id", sa.text("priority DESC"), "id"],
        postgresql_where="state = 'queued'",
    )
    op.add_column("leases", sa.Column("ranks", sa.SmallInteger(), server_default="1", nullable=False))
    op.create_index("ix_leases_ended_at", "leases", ["ended_at"], postgresql_where="ended_at IS NOT NULL")
    op.execute("GRANT UPDATE (weight, preempts) ON departments TO tsugiki_app")
    op.execute("DROP FUNCTION claimable_jobs(integer)")
    op.execute(_beside("0003_fair_share.sql"))


def downgrade() -> None:
    op.execute("DROP FUNCTION claimable_jobs(integer, double precision)")
    op.execute(_beside("0003_before.sql"))
    op.drop_index("ix_leases_ended_at", table_name="leases")
    op.drop_column("leases", "ranks")
    op.drop_index("ix_jobs_department_id_queued", table_name="jobs")
    for column in ("preempt_requested_at", "queued_at", "priority"):
        op.drop_column("jobs", column)
    op.drop_constraint(op.f("ck_departments_weight"), "departments", type_="check")
    for column in ("preempts", "weight"):
        op.drop_column("departments", column)


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text()
