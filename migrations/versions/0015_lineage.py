"""Lineage: versions that jobs go on from, and where versions went.

Revision: 0015, after 0014.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

TABLES = ("deployments", "downloads")
INDEXES = ("evaluation_file_id", "parent_version_id", "validation_file_id")


def upgrade() -> None:
    name_parents()
    create_handouts()
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} OWNER TO tsugiki_owner")
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def name_parents() -> None:
    op.add_column("jobs", sa.Column("parent_version_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("fk_jobs_department_id_parent_version_id"),
        "jobs",
        "adapter_versions",
        ["department_id", "parent_version_id"],
        ["department_id", "id"],
        ondelete="SET NULL (parent_version_id)",
        use_alter=True,
    )
    op.create_index("ix_jobs_training_file_id", "jobs", ["training_file_id"])
    for column in INDEXES:
        op.create_index(f"ix_jobs_{column}", "jobs", [column], postgresql_where=f"{column} IS NOT NULL")


def create_handouts() -> None:
    op.create_table(
        "downloads",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("holder_id", sa.Uuid(), nullable=False),
        sa.Column("holder_type", sa.Text(), nullable=False),
        sa.Column("times", sa.Integer(), server_default="1", nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("times >= 1", name=op.f("ck_downloads_times")),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_downloads_department_id")),
        sa.ForeignKeyConstraint(
            ["department_id", "version_id"],
            ["adapter_versions.department_id", "adapter_versions.id"],
            name=op.f("fk_downloads_department_id_version_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_downloads")),
        sa.UniqueConstraint(
            "department_id", "version_id", "holder_id", name=op.f("uq_downloads_department_id_version_id_holder_id")
        ),
    )
    op.create_table(
        "deployments",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reported_by", sa.Uuid(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('loaded', 'unloaded')", name=op.f("ck_deployments_state")),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_deployments_department_id")),
        sa.ForeignKeyConstraint(
            ["department_id", "version_id"],
            ["adapter_versions.department_id", "adapter_versions.id"],
            name=op.f("fk_deployments_department_id_version_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
        sa.UniqueConstraint(
            "department_id", "version_id", "server", name=op.f("uq_deployments_department_id_version_id_server")
        ),
    )
    op.create_index("ix_deployments_department_id_id", "deployments", ["department_id", "id"])


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
    for column in ("training_file_id", *INDEXES):
        op.drop_index(f"ix_jobs_{column}", "jobs")
    op.drop_column("jobs", "parent_version_id")
