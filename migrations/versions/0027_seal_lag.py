"""Seal lag: told also where the server counts its transactions anew.

Revision: 0027, after 0026.
"""

from pathlib import Path

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(_beside("0027_seal_lag.sql"))


def downgrade() -> None:
    op.execute(_beside("0027_before.sql"))


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text()
