"""Jobs can be paused: when that was asked for, kept until they are resumed.

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("pause_requested_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(
        op.f("ck_jobs_paused_on_request"), "jobs", "state <> 'paused' OR pause_requested_at IS NOT NULL"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_jobs_paused_on_request"), "jobs", type_="check")
    op.drop_column("jobs", "pause_requested_at")
