"""Preempting: a job makes room for one that its worker has the memory for, and for no other.

Revision: 0025, after 0024.
"""

from pathlib import Path

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def downgrade() -> None:
    op.execute(Path(__file__).with_name("0025_before.sql").read_text())
