"""The registry's rules: states of a version, moves of an alias, and approvals that two people's names stand under.

Revision: 0020, after 0019.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# In the order in which they can be dropped.
TABLES = ("approval_comments", "approval_decisions", "approval_requests", "alias_moves")
CLASSES = "('public', 'internal', 'confidential', 'restricted')"
BOUND = ("version_id", "digest", "submitter_id", "requester_id")


def upgrade() -> None:
    add_columns()
    create_moves()
    create_approvals()
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} OWNER TO tsugiki_owner")
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def add_columns() -> None:
    for table, column in (
        ("files", "data_class"),
        ("departments", "default_data_class"),
        ("adapter_versions", "data_class"),
    ):
        op.add_column(table, sa.Column(column, sa.Text(), server_default="internal", nullable=False))
        op.create_check_constraint(op.f(f"ck_{table}_{column}"), table, f"{column} IN {CLASSES}")
    op.add_column("jobs", sa.Column("submitter_id", sa.Uuid(), nullable=True))
    for column in (
        sa.Column("submitter_id", sa.Uuid(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("worker_id", sa.Uuid(), nullable=True),
        sa.Column("code_version", sa.Text(), nullable=True),
        sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=True),
        sa.Column("state_changed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("adapter_versions", column)
    op.create_foreign_key(op.f("fk_adapter_versions_worker_id"), "adapter_versions", "workers", ["worker_id"], ["id"])
    for columns in (("department_id", "adapter_id", "id"), ("department_id", "id", "digest", "submitter_id")):
        name = op.f(f"uq_adapter_versions_{'_'.join(columns)}")
        op.create_unique_constraint(name, "adapter_versions", list(columns))


def create_moves() -> None:
    version = ["adapter_versions.department_id", "adapter_versions.adapter_id", "adapter_versions.id"]
    op.create_table(
        "alias_moves",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("adapter_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("from_version_id", sa.Uuid(), nullable=True),
        sa.Column("version_id", sa.Uuid(), nullable=True),
        sa.Column("previous_id", sa.Uuid(), nullable=True),
        sa.Column("protected", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("moved_by_type", sa.Text(), nullable=False),
        sa.Column("moved_by", sa.Uuid(), nullable=True),
        sa.Column("mover_id", sa.Uuid(), nullable=True),
        sa.Column("moved_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('moved', 'rolled_back', 'withdrawn')", name=op.f("ck_alias_moves_kind")),
        sa.CheckConstraint("(kind = 'withdrawn') = (version_id IS NULL)", name=op.f("ck_alias_moves_withdrawn")),
        sa.CheckConstraint(
            "NOT protected OR version_id IS NULL OR mover_id IS NOT NULL",
            name=op.f("ck_alias_moves_protected_by_a_person"),
        ),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_alias_moves_department_id")),
        sa.ForeignKeyConstraint(
            ["department_id", "adapter_id"],
            ["adapters.department_id", "adapters.id"],
            name=op.f("fk_alias_moves_department_id_adapter_id"),
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "adapter_id", "version_id"],
            version,
            name=op.f("fk_alias_moves_department_id_adapter_id_version_id"),
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "adapter_id", "from_version_id"],
            version,
            name=op.f("fk_alias_moves_department_id_adapter_id_from_version_id"),
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "previous_id"],
            ["alias_moves.department_id", "alias_moves.id"],
            name=op.f("fk_alias_moves_department_id_previous_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_moves")),
        sa.UniqueConstraint("department_id", "id", name=op.f("uq_alias_moves_department_id_id")),
        sa.UniqueConstraint(
            "department_id", "adapter_id", "name", "version_id", "id",
            name=op.f("uq_alias_moves_department_id_adapter_id_name_version_id_id"),
        ),
    )  # fmt: skip
    op.create_index(
        "ix_alias_moves_department_id_adapter_id_name_number",
        "alias_moves",
        ["department_id", "adapter_id", "name", "number"],
    )
    op.add_column("aliases", sa.Column("move_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("fk_aliases_department_id_adapter_id_name_version_id_move_id"),
        "aliases",
        "alias_moves",
        ["department_id", "adapter_id", "name", "version_id", "move_id"],
        ["department_id", "adapter_id", "name", "version_id", "id"],
    )


def create_approvals() -> None:
    op.create_table(
        "approval_requests",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("submitter_id", sa.Uuid(), nullable=False),
        sa.Column("requester_id", sa.Uuid(), nullable=False),
        sa.Column("requested_by", sa.Uuid(), nullable=False),
        sa.Column("requested_by_type", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("evaluation_ids", postgresql.ARRAY(sa.Uuid()), nullable=False),
        sa.Column("required", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'approved', 'rejected', 'expired', 'withdrawn')",
            name=op.f("ck_approval_requests_state"),
        ),
        sa.CheckConstraint("(state = 'pending') = (closed_at IS NULL)", name=op.f("ck_approval_requests_closed")),
        sa.CheckConstraint("required >= 1", name=op.f("ck_approval_requests_required")),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_approval_requests_department_id")),
        sa.ForeignKeyConstraint(
            ["department_id", "version_id", "digest", "submitter_id"],
            [f"adapter_versions.{column}" for column in ("department_id", "id", "digest", "submitter_id")],
            name="fk_approval_requests_version",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approval_requests")),
        sa.UniqueConstraint("department_id", "id", name=op.f("uq_approval_requests_department_id_id")),
        sa.UniqueConstraint("department_id", "id", *BOUND, name="uq_approval_requests_bound"),
    )
    op.create_index(
        "ix_approval_requests_pending_version_id",
        "approval_requests",
        ["version_id"],
        unique=True,
        postgresql_where="state = 'pending'",
    )
    op.create_table(
        "approval_decisions",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("submitter_id", sa.Uuid(), nullable=False),
        sa.Column("requester_id", sa.Uuid(), nullable=False),
        sa.Column("approver_id", sa.Uuid(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("decision IN ('approve', 'reject')", name=op.f("ck_approval_decisions_decision")),
        sa.CheckConstraint("approver_id <> submitter_id", name=op.f("ck_approval_decisions_not_the_submitter")),
        sa.CheckConstraint("approver_id <> requester_id", name=op.f("ck_approval_decisions_not_the_requester")),
        sa.ForeignKeyConstraint(
            ["department_id"], ["departments.id"], name=op.f("fk_approval_decisions_department_id")
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "request_id", *BOUND],
            [f"approval_requests.{column}" for column in ("department_id", "id", *BOUND)],
            name="fk_approval_decisions_request",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approval_decisions")),
        sa.UniqueConstraint("request_id", "approver_id", name=op.f("uq_approval_decisions_request_id_approver_id")),
    )
    op.create_index(
        "ix_approval_decisions_department_id_version_id", "approval_decisions", ["department_id", "version_id"]
    )
    op.create_table(
        "approval_comments",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("author_type", sa.Text(), nullable=False),
        sa.Column("author_id", sa.Uuid(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_approval_comments_department_id")),
        sa.ForeignKeyConstraint(
            ["department_id", "request_id"],
            ["approval_requests.department_id", "approval_requests.id"],
            name=op.f("fk_approval_comments_department_id_request_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approval_comments")),
    )
    op.create_index(
        "ix_approval_comments_department_id_request_id", "approval_comments", ["department_id", "request_id"]
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER check_change ON adapter_versions")
    op.drop_constraint("fk_aliases_department_id_adapter_id_name_version_id_move_id", "aliases", type_="foreignkey")
    op.drop_column("aliases", "move_id")
    op.execute("REVOKE DELETE ON aliases FROM tsugiki_app")
    for table in TABLES:
        op.drop_table(table)
    for function in ("check_version_change", "check_alias_move", "check_request_change", "required_approvals",
                     "version_may_become"):  # fmt: skip
        op.execute(f"DROP FUNCTION {function}")
    for columns in (("department_id", "adapter_id", "id"), ("department_id", "id", "digest", "submitter_id")):
        op.drop_constraint(f"uq_adapter_versions_{'_'.join(columns)}", "adapter_versions", type_="unique")
    for column in ("deleted_at", "state_changed_at", "state_reason", "description", "labels", "code_version",
                   "worker_id", "worker", "data_class", "submitter_id"):  # fmt: skip
        op.drop_column("adapter_versions", column)
    op.drop_column("jobs", "submitter_id")
    op.drop_column("departments", "default_data_class")
    op.drop_column("files", "data_class")
