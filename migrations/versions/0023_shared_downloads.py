"""Shared downloads: who of another department was sent a version is known to the version's own.

Revision: 0023, after 0022.
"""

from pathlib import Path

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def downgrade() -> None:
    op.execute("DROP FUNCTION remember_shared_download(uuid, uuid, text)")
    op.execute("REVOKE INSERT, UPDATE (times, last_at) ON downloads FROM tsugiki_definer")
