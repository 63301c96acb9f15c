"""Grants beyond roles: a file's content for a member, a version for another department.

Revision: 0013, after 0012.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TABLES = ("version_shares", "file_grants")


def upgrade() -> None:
    op.create_table(
        "file_grants",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("granted_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("granted_by <> user_id", name=op.f("ck_file_grants_not_oneself")),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_file_grants_department_id")),
        sa.ForeignKeyConstraint(
            ["department_id", "file_id"],
            ["files.department_id", "files.id"],
            name=op.f("fk_file_grants_department_id_file_id"),
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "user_id"],
            ["memberships.department_id", "memberships.user_id"],
            name=op.f("fk_file_grants_department_id_user_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file_grants")),
    )
    op.create_index("ix_file_grants_file_id_user_id", "file_grants", ["file_id", "user_id"])
    op.create_table(
        "version_shares",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("to_department", sa.Uuid(), nullable=False),
        sa.Column("requested_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("to_department <> department_id", name=op.f("ck_version_shares_another")),
        sa.CheckConstraint("decided_by <> requested_by", name=op.f("ck_version_shares_two_people")),
        sa.CheckConstraint("(decided_by IS NULL) = (decided_at IS NULL)", name=op.f("ck_version_shares_decided")),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_version_shares_department_id")),
        sa.ForeignKeyConstraint(
            ["department_id", "version_id"],
            ["adapter_versions.department_id", "adapter_versions.id"],
            name=op.f("fk_version_shares_department_id_version_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_version_shares")),
    )
    op.create_index("ix_version_shares_to_department", "version_shares", ["to_department"])
    op.create_index("ix_version_shares_version_id", "version_shares", ["version_id"])
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} OWNER TO tsugiki_owner")
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def downgrade() -> None:
    op.execute("DROP FUNCTION shared_versions")
    for table in TABLES:
        op.drop_table(table)
