"""Policy digests: by which policies a version was asked for, decided on and put into service.

Revision: 0021, after 0020.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

TABLES = ("approval_requests", "approval_decisions", "alias_moves")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("policy_digest", sa.Text(), nullable=True))


def downgrade() -> None:
    for table in TABLES:
        op.drop_column(table, "policy_digest")
