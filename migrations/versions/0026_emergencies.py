"""Emergencies: an access ends with the operator's role of whoever asked for it.

Revision: 0026, after 0025.
"""

from pathlib import Path

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(_beside("0026_emergencies.sql"))


def downgrade() -> None:
    op.execute("DROP FUNCTION authenticate_key(text)")
    op.execute(_beside("0011_keys.sql"))


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text()
