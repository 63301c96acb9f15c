"""Estimates: requests whose rows are to be counted, what rows came to, and what each job was thought to come to.

Revision: 0006, after 0005.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "estimate_department(uuid)", "estimates_to_nudge(double precision)", "forget_estimates(double precision)",
    "measured_speeds(uuid, boolean, integer)", "queue_ahead(integer, double precision)", "estimate_accuracy()",
    "devices_used(double precision)",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "inspections",
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_inspections_department_id")),
        sa.PrimaryKeyConstraint("department_id", "key", name=op.f("pk_inspections")),
    )
    op.create_table(
        "estimates",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("base_model_id", sa.Uuid(), nullable=False),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("inspection_key", sa.Text(), nullable=False),
        sa.Column("error", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("nudged_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_estimates_department_id")),
        sa.ForeignKeyConstraint(["base_model_id"], ["base_models.id"], name=op.f("fk_estimates_base_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_estimates")),
    )
    op.create_index("ix_estimates_department_id", "estimates", ["department_id"], unique=False)
    for column in ("estimate", "actual"):
        kept = postgresql.JSONB(none_as_null=True, astext_type=sa.Text())
        op.add_column("jobs", sa.Column(column, kept, nullable=True))
    measured = sa.text("actual IS NOT NULL")
    op.create_index("ix_jobs_measured", "jobs", ["base_model_id", "finished_at"], postgresql_where=measured)
    # Functions become tsugiki_definer's, which must be able to own them; tables tsugiki_owner's.
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    for table in ("inspections", "estimates"):
        op.execute(f"ALTER TABLE {table} OWNER TO tsugiki_owner")
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    op.drop_index("ix_jobs_measured", "jobs")
    for column in ("estimate", "actual"):
        op.drop_column("jobs", column)
    op.drop_table("estimates")
    op.drop_table("inspections")
