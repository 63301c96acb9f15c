"""Keys with scopes, and the person who answers for each service account.

Revision: 0011, after 0010.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=True))
    op.create_check_constraint(op.f("ck_api_keys_scopes"), "api_keys", "cardinality(scopes) > 0")
    op.add_column("service_accounts", sa.Column("answered_for_by", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("fk_service_accounts_answered_for_by"), "service_accounts", "users", ["answered_for_by"], ["id"]
    )
    # Its trail says who made a robot: an admin, who is always a person.
    op.execute("""
        UPDATE service_accounts SET answered_for_by = made.actor_id FROM audit_events made
        WHERE made.action = 'service_account.created' AND made.resource_id = service_accounts.id
            AND made.actor_type = 'user'
    """)
    op.execute("DROP FUNCTION authenticate_key(text)")
    op.execute(_beside("0011_keys.sql"))


def downgrade() -> None:
    op.execute("DROP FUNCTION authenticate_key(text)")
    op.execute(_beside("0011_before.sql"))
    op.drop_constraint(op.f("fk_service_accounts_answered_for_by"), "service_accounts", type_="foreignkey")
    op.drop_column("service_accounts", "answered_for_by")
    op.drop_constraint(op.f("ck_api_keys_scopes"), "api_keys", type_="check")
    op.drop_column("api_keys", "scopes")


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text()
