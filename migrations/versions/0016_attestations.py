"""Versions are signed, and may come from elsewhere: attestations, the keys of them, versions without a job.

Revision: 0016, after 0015.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    let_versions_come_from_elsewhere()
    op.create_table(
        "signing_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("algorithm", sa.Text(), nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_signing_keys")),
    )
    op.create_table(
        "version_attestations",
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('signature', 'provenance')", name=op.f("ck_version_attestations_kind")),
        sa.ForeignKeyConstraint(
            ["department_id"], ["departments.id"], name=op.f("fk_version_attestations_department_id")
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "version_id"],
            ["adapter_versions.department_id", "adapter_versions.id"],
            name=op.f("fk_version_attestations_department_id_version_id"),
        ),
        sa.ForeignKeyConstraint(["key_id"], ["signing_keys.key_id"], name=op.f("fk_version_attestations_key_id")),
        sa.PrimaryKeyConstraint("department_id", "version_id", "kind", name=op.f("pk_version_attestations")),
    )
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def let_versions_come_from_elsewhere() -> None:
    op.alter_column("adapter_versions", "job_id", nullable=True)
    op.alter_column("adapter_versions", "report", nullable=True)
    op.add_column("adapter_versions", sa.Column("created_by_type", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ck_adapter_versions_trained_or_imported"),
        "adapter_versions",
        "num_nulls(job_id, report) = CASE WHEN created_by_type IS NULL THEN 0 ELSE 2 END",
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION shared_attestations")
    op.drop_table("version_attestations")
    op.drop_table("signing_keys")
    op.drop_constraint(op.f("ck_adapter_versions_trained_or_imported"), "adapter_versions")
    op.drop_column("adapter_versions", "created_by_type")
    op.alter_column("adapter_versions", "report", nullable=False)
    op.alter_column("adapter_versions", "job_id", nullable=False)
