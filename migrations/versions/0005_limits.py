"""What a department may use at most, what it stores day by day, and the sums of what was used.

Revision: 0005, after 0004.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# In the order in which they can be dropped.
FUNCTIONS = (
    "usage_of_all_departments(date, date, text[], uuid[], uuid[], text[])",
    "usage_of_departments(date, date, text[], uuid[], uuid[], text[])",
    "departments_to_sample()",
    "departments_to_warn()",
)


def upgrade() -> None:
    op.add_column("departments", sa.Column("max_running_jobs", sa.Integer(), nullable=True))
    op.add_column("departments", sa.Column("max_unfinished_jobs", sa.Integer(), nullable=True))
    op.add_column("departments", sa.Column("max_gpu_hours", sa.Numeric(), nullable=True))
    op.add_column("departments", sa.Column("max_storage_bytes", sa.BigInteger(), nullable=True))
    op.add_column("departments", sa.Column("monthly_budget", sa.Numeric(), nullable=True))
    op.add_column("departments", sa.Column("budget_warned_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(
        op.f("ck_departments_limits"),
        "departments",
        "least(max_running_jobs, max_unfinished_jobs, max_gpu_hours, max_storage_bytes, monthly_budget) >= 0",
    )
    op.create_table(
        "storage_samples",
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("file_bytes", sa.BigInteger(), nullable=False),
        sa.Column("version_bytes", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint_bytes", sa.BigInteger(), nullable=False),
        sa.Column("price_per_gb_month", sa.Numeric(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_storage_samples_department_id")),
        sa.PrimaryKeyConstraint("department_id", "day", name=op.f("pk_storage_samples")),
    )
    op.execute(Path(__file__).with_name("0005_limits.sql").read_text())


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    op.drop_table("storage_samples")
    op.drop_constraint(op.f("ck_departments_limits"), "departments", type_="check")
    for column in (
        *("budget_warned_at", "monthly_budget", "max_storage_bytes", "max_gpu_hours"),
        *("max_unfinished_jobs", "max_running_jobs"),
    ):
        op.drop_column("departments", column)
