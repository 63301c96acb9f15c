"""What leases are charged by, and the record of what each of them took.

Revision: 0004, after 0003.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("leases", sa.Column("device", sa.Text(), nullable=True))
    op.add_column("leases", sa.Column("shared_by", sa.SmallInteger(), server_default="1", nullable=False))
    op.add_column("leases", sa.Column("price_per_gpu_hour", sa.Numeric(), server_default="0", nullable=False))
    op.add_column("leases", sa.Column("resumed_tokens", sa.BigInteger(), server_default="0", nullable=False))
    create_records()
    op.execute(Path(__file__).with_name("0004_usage.sql").read_text())


def create_records() -> None:
    op.create_table(
        "usage_records",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("lease_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("end_reason", sa.Text(), nullable=False),
        sa.Column("submitted_by", sa.Uuid(), nullable=False),
        sa.Column("submitted_by_type", sa.Text(), nullable=False),
        sa.Column("submitted_key", sa.Uuid(), nullable=True),
        sa.Column("base_model_id", sa.Uuid(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("ranks", sa.Integer(), nullable=False),
        sa.Column("shared_by", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("gpu_seconds", sa.Numeric(), nullable=False),
        sa.Column("trained_tokens", sa.BigInteger(), nullable=False),
        sa.Column("tokens_per_s", sa.Float(), nullable=True),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("price_per_gpu_hour", sa.Numeric(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.CheckConstraint("ended_at >= started_at", name=op.f("ck_usage_records_times")),
        sa.CheckConstraint(
            "gpu_seconds >= 0 AND trained_tokens >= 0 AND amount >= 0", name=op.f("ck_usage_records_not_negative")
        ),
        sa.ForeignKeyConstraint(["base_model_id"], ["base_models.id"], name=op.f("fk_usage_records_base_model_id")),
        sa.ForeignKeyConstraint(
            ["department_id", "job_id"],
            ["jobs.department_id", "jobs.id"],
            name=op.f("fk_usage_records_department_id_job_id"),
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "lease_id"],
            ["leases.department_id", "leases.id"],
            name=op.f("fk_usage_records_department_id_lease_id"),
        ),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_usage_records_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage_records")),
        sa.UniqueConstraint("lease_id", "job_id", name=op.f("uq_usage_records_lease_id_job_id")),
    )
    op.create_index(
        "ix_usage_records_department_id_ended_at", "usage_records", ["department_id", "ended_at"], unique=False
    )
    op.create_index("ix_usage_records_job_id", "usage_records", ["job_id"], unique=False)


def downgrade() -> None:
    op.drop_table("usage_records")
    for column in ("resumed_tokens", "price_per_gpu_hour", "shared_by", "device"):
        op.drop_column("leases", column)
