"""Policies: the documents of the organisation and of its departments, in versions, and how imported adapters were made.

Revision: 0018, after 0017.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_by_type", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("number >= 1", name=op.f("ck_policies_number")),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_policies_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policies")),
    )
    op.create_index(
        "uq_policies_department_id_number",
        "policies",
        ["department_id", "number"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.add_column("adapter_versions", sa.Column("imported_method", postgresql.JSONB(none_as_null=True), nullable=True))
    op.create_check_constraint(
        op.f("ck_adapter_versions_method_known"), "adapter_versions", "num_nulls(job_id, imported_method) = 1"
    )
    # Functions become tsugiki_definer's, which must be able to own them; the table tsugiki_owner's.
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    op.execute("ALTER TABLE policies OWNER TO tsugiki_owner")
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def downgrade() -> None:
    op.execute("DROP FUNCTION organisation_policy")
    op.drop_column("adapter_versions", "imported_method")
    op.drop_table("policies")
    op.execute("DROP FUNCTION check_policy_number")
