"""A submit can carry a name of its caller's: the second one of that name finds the first one's job.

Revision: 0007, after 0006.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UNIQUE = "uq_jobs_department_id_submitted_by_idempotency_key"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("idempotency_key", sa.Text(), nullable=True))
    op.create_unique_constraint(UNIQUE, "jobs", ["department_id", "submitted_by", "idempotency_key"])


def downgrade() -> None:
    op.drop_constraint(UNIQUE, "jobs", type_="unique")
    op.drop_column("jobs", "idempotency_key")
