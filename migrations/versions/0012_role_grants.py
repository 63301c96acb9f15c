"""Roles that two operators give, roles that may not meet in one person, and emergencies that two people open.

Revision: 0012, after 0011.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TABLES = ("break_glass", "role_grants")
FUNCTIONS = ("break_glass_over", "keep_an_admin", "keep_roles_apart", "operators_needed")


def upgrade() -> None:
    op.create_table(
        "role_grants",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("needed", sa.Integer(), server_default=sa.text("2"), nullable=False),
        sa.Column("requested_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('approver', 'operator', 'auditor')", name=op.f("ck_role_grants_role")),
        sa.CheckConstraint("(role = 'approver') = (department_id IS NOT NULL)", name=op.f("ck_role_grants_place")),
        sa.CheckConstraint("needed IN (1, 2)", name=op.f("ck_role_grants_needed")),
        sa.CheckConstraint("(decided_by IS NULL) = (decided_at IS NULL)", name=op.f("ck_role_grants_decided")),
        sa.CheckConstraint("needed = 1 OR decided_by <> requested_by", name=op.f("ck_role_grants_two_people")),
        sa.CheckConstraint("user_id NOT IN (requested_by, decided_by)", name=op.f("ck_role_grants_not_oneself")),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_role_grants_department_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_role_grants_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_role_grants")),
    )
    op.create_table(
        "break_glass",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("lasts_s", sa.Integer(), nullable=False),
        sa.Column("requested_by", sa.Uuid(), nullable=False),
        sa.Column("answered_for_by", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("opened_by", sa.Uuid(), nullable=True),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("account_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint("lasts_s BETWEEN 60 AND 14400", name=op.f("ck_break_glass_lasts_s")),
        sa.CheckConstraint("opened_by <> requested_by", name=op.f("ck_break_glass_two_people")),
        sa.CheckConstraint(
            "num_nulls(opened_by, opened_at, expires_at, account_id) IN (0, 4)", name=op.f("ck_break_glass_opened")
        ),
        sa.CheckConstraint("expires_at <= opened_at + interval '4 hours'", name=op.f("ck_break_glass_four_hours")),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_break_glass_department_id")),
        sa.ForeignKeyConstraint(["answered_for_by"], ["users.id"], name=op.f("fk_break_glass_answered_for_by")),
        sa.ForeignKeyConstraint(
            ["department_id", "account_id"],
            ["service_accounts.department_id", "service_accounts.id"],
            name=op.f("fk_break_glass_department_id_account_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_break_glass")),
        sa.UniqueConstraint("department_id", "id", name=op.f("uq_break_glass_department_id_id")),
    )
    op.create_check_constraint(
        op.f("ck_memberships_roles_apart"),
        "memberships",
        "NOT ('approver' = ANY(roles) AND roles && ARRAY['trainer', 'department_admin'])",
    )
    op.create_check_constraint(
        op.f("ck_memberships_roles_of_people"),
        "memberships",
        "roles <@ ARRAY['viewer', 'trainer', 'data_steward', 'department_admin', 'approver', 'inference']",
    )
    op.create_check_constraint(
        op.f("ck_service_accounts_roles_of_robots"),
        "service_accounts",
        "roles <@ CASE WHEN department_id IS NULL THEN ARRAY['operator', 'auditor'] "
        "ELSE ARRAY['viewer', 'trainer', 'data_steward', 'inference', 'break_glass'] END AND cardinality(roles) >= 1",
    )
    op.create_check_constraint(
        op.f("ck_service_accounts_roles_apart"),
        "service_accounts",
        "NOT roles @> ARRAY['operator', 'auditor']",
    )
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} OWNER TO tsugiki_owner")
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def downgrade() -> None:
    op.execute("DROP TRIGGER keep_roles_apart ON memberships")
    op.execute("DROP TRIGGER keep_roles_apart ON service_accounts")
    op.execute("DROP TRIGGER keep_an_admin ON memberships")
    op.execute("DROP TRIGGER operators_needed ON role_grants")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    for name in ("roles_apart", "roles_of_robots"):
        op.drop_constraint(op.f(f"ck_service_accounts_{name}"), "service_accounts", type_="check")
    for name in ("roles_apart", "roles_of_people"):
        op.drop_constraint(op.f(f"ck_memberships_{name}"), "memberships", type_="check")
    for table in TABLES:
        op.drop_table(table)
