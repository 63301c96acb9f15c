"""Files erased with what learned from them, by two people.

Revision: 0022, after 0021.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "file_erasures",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("running_jobs", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("requested_by", sa.Uuid(), nullable=False),
        sa.Column("requested_human", sa.Uuid(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("confirmed_by", sa.Uuid(), nullable=True),
        sa.Column("confirmed_human", sa.Uuid(), nullable=True),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("plan", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("result", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('requested', 'erasing', 'done', 'withdrawn')", name=op.f("ck_file_erasures_state")
        ),
        sa.CheckConstraint("running_jobs IN ('stop', 'finish')", name=op.f("ck_file_erasures_running_jobs")),
        sa.CheckConstraint("confirmed_human <> requested_human", name=op.f("ck_file_erasures_two_people")),
        sa.CheckConstraint(
            "(state IN ('erasing', 'done')) = (confirmed_human IS NOT NULL AND confirmed_at IS NOT NULL"
            " AND plan IS NOT NULL)",
            name=op.f("ck_file_erasures_confirmed"),
        ),
        sa.CheckConstraint(
            "(state IN ('done', 'withdrawn')) = (ended_at IS NOT NULL)", name=op.f("ck_file_erasures_ended")
        ),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_file_erasures_department_id")),
        sa.ForeignKeyConstraint(
            ["department_id", "file_id"],
            ["files.department_id", "files.id"],
            name=op.f("fk_file_erasures_department_id_file_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file_erasures")),
    )
    op.create_index(
        "ix_file_erasures_open",
        "file_erasures",
        ["department_id", "file_id"],
        unique=True,
        postgresql_where="state IN ('requested', 'erasing')",
    )
    op.create_index("ix_file_erasures_department_id_id", "file_erasures", ["department_id", "id"])
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    op.execute("ALTER TABLE file_erasures OWNER TO tsugiki_owner")
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def downgrade() -> None:
    op.execute("DROP FUNCTION erasures_under_way")
    op.drop_table("file_erasures")
