"""The audit trail's months are made and dropped without keeping its readers or writers waiting.

Revision: 0024, after 0023.
"""

from pathlib import Path

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(_beside("0024_audit_months.sql"))
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def downgrade() -> None:
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(_beside("0024_before.sql"))
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text()
