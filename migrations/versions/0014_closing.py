"""Departments that are closed, and later erased: keys off at once, rows gone when their time is over, the trail kept.

Revision: 0014, after 0013.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("departments", sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("departments", sa.Column("erased_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(
        op.f("ck_departments_erased"), "departments", "erased_at IS NULL OR closed_at IS NOT NULL"
    )
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(_beside("0014_closing.sql"))
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def downgrade() -> None:
    op.execute("DROP TRIGGER refuse_closed ON api_keys")
    for function in ("refuse_closed", "departments_to_erase", "erase_department"):
        op.execute(f"DROP FUNCTION {function}")
    op.execute(_beside("0014_before.sql"))
    op.drop_constraint(op.f("ck_departments_erased"), "departments", type_="check")
    for column in ("erased_at", "closed_at"):
        op.drop_column("departments", column)


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text()
