"""The spine: departments and people, base models, files, jobs, adapters, the audit trail; row-level security on all.

Revision: 0001, after nothing.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# In the order in which they can be dropped.
TABLES = (
    "evaluations",
    "aliases",
    "job_events",
    "job_checkpoints",
    "adapter_versions",
    "jobs",
    "api_keys",
    "service_accounts",
    "memberships",
    "lineage_edges",
    "leases",
    "files",
    "base_model_files",
    "adapters",
    "users",
    "departments",
    "base_models",
    "audit_events",
)
FUNCTIONS = (
    "audit_append", "authenticate_key", "touch_key", "list_departments", "job_department", "claimable_jobs",
    "expired_leases", "jobs_to_nudge",
)  # fmt: skip
ROLES = ("tsugiki_owner", "tsugiki_definer", "tsugiki_auditor", "tsugiki_app")


def upgrade() -> None:
    create_roles()
    create_tables()
    op.execute(Path(__file__).with_name("0001_access.sql").read_text())
    hand_over()


def create_roles() -> None:
    # Roles belong to the whole server: another database of it may have made them, even at this moment. Whoever is first
    # keeps the others waiting until all of its revisions are done.
    op.execute("SET LOCAL lock_timeout = '2min'")
    for role in ROLES:
        op.execute(f"""
            DO $$ BEGIN CREATE ROLE {role} NOLOGIN NOSUPERUSER NOBYPASSRLS;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$
        """)
    # The administrator hands tables and functions over to them, so must be a member.
    for role in ("tsugiki_owner", "tsugiki_definer"):
        op.execute(f"GRANT {role} TO CURRENT_USER")
    op.execute("GRANT tsugiki_auditor TO tsugiki_app WITH INHERIT FALSE, SET TRUE")
    op.execute("GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer")


def hand_over() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} OWNER TO tsugiki_owner")
    op.execute("REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer")


def create_tables() -> None:
    op.create_table(
        "audit_events",
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column(
            "occurred_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("department_id", sa.Uuid(), nullable=True),
        sa.Column("actor_type", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("actor_key_id", sa.Uuid(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason_code", sa.Text(), nullable=True),
        sa.Column("resource_type", sa.Text(), nullable=True),
        sa.Column("resource_id", sa.Uuid(), nullable=True),
        sa.Column("refs", postgresql.ARRAY(sa.Uuid()), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("source_ip", sa.Text(), nullable=True),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_events")),
        sa.UniqueConstraint("id", name=op.f("uq_audit_events_id")),
    )
    op.create_index("ix_audit_events_actor_id_number", "audit_events", ["actor_id", "number"], unique=False)
    op.create_index("ix_audit_events_department_id_number", "audit_events", ["department_id", "number"], unique=False)
    op.create_index("ix_audit_events_refs", "audit_events", ["refs"], unique=False, postgresql_using="gin")
    op.create_index("ix_audit_events_resource_id_number", "audit_events", ["resource_id", "number"], unique=False)
    op.create_table(
        "base_models",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("facts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('uploading', 'ready')", name=op.f("ck_base_models_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_base_models")),
        sa.UniqueConstraint("name", name=op.f("uq_base_models_name")),
    )
    op.create_table(
        "departments",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("served_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_departments")),
        sa.UniqueConstraint("name", name=op.f("uq_departments_name")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
    )
    op.create_table(
        "adapters",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("next_number", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_adapters_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapters")),
        sa.UniqueConstraint("department_id", "id", name=op.f("uq_adapters_department_id_id")),
        sa.UniqueConstraint("department_id", "name", name=op.f("uq_adapters_department_id_name")),
    )
    op.create_table(
        "base_model_files",
        sa.Column("base_model_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("uploaded_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["base_model_id"], ["base_models.id"], name=op.f("fk_base_model_files_base_model_id")),
        sa.PrimaryKeyConstraint("base_model_id", "path", name=op.f("pk_base_model_files")),
    )
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("duplicate_rows", sa.Integer(), nullable=True),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_files_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
        sa.UniqueConstraint("department_id", "id", name=op.f("uq_files_department_id_id")),
    )
    op.create_table(
        "leases",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("acquired_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_leases_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
        sa.UniqueConstraint("department_id", "id", name=op.f("uq_leases_department_id_id")),
    )
    op.create_index("ix_leases_expires_at", "leases", ["expires_at"], unique=False, postgresql_where="ended_at IS NULL")
    op.create_table(
        "lineage_edges",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("subject_type", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("relation", sa.Text(), nullable=False),
        sa.Column("object_type", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_lineage_edges_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lineage_edges")),
        sa.UniqueConstraint(
            "department_id",
            "subject_id",
            "relation",
            "object_id",
            name=op.f("uq_lineage_edges_department_id_subject_id_relation_object_id"),
        ),
    )
    op.create_index(op.f("ix_lineage_edges_object_id"), "lineage_edges", ["object_id"], unique=False)
    op.create_index(op.f("ix_lineage_edges_subject_id"), "lineage_edges", ["subject_id"], unique=False)
    op.create_table(
        "memberships",
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("roles", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_memberships_department_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_memberships_user_id")),
        sa.PrimaryKeyConstraint("department_id", "user_id", name=op.f("pk_memberships")),
    )
    op.create_table(
        "service_accounts",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("roles", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_service_accounts_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_service_accounts")),
        sa.UniqueConstraint("department_id", "id", name=op.f("uq_service_accounts_department_id_id")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("service_account_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(user_id IS NULL) <> (service_account_id IS NULL)", name=op.f("ck_api_keys_one_owner")),
        sa.CheckConstraint("user_id IS NULL OR department_id IS NOT NULL", name=op.f("ck_api_keys_user_in_department")),
        sa.ForeignKeyConstraint(
            ["department_id", "user_id"],
            ["memberships.department_id", "memberships.user_id"],
            name=op.f("fk_api_keys_department_id_user_id"),
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "service_account_id"],
            ["service_accounts.department_id", "service_accounts.id"],
            name=op.f("fk_api_keys_department_id_service_account_id"),
        ),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_api_keys_department_id")),
        sa.ForeignKeyConstraint(
            ["service_account_id"], ["service_accounts.id"], name=op.f("fk_api_keys_service_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_keys_prefix")),
    )
    op.create_index("ix_api_keys_department_id_id", "api_keys", ["department_id", "id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("base_model_id", sa.Uuid(), nullable=False),
        sa.Column("training_file_id", sa.Uuid(), nullable=False),
        sa.Column("validation_file_id", sa.Uuid(), nullable=True),
        sa.Column("evaluation_file_id", sa.Uuid(), nullable=True),
        sa.Column("adapter_name", sa.Text(), nullable=False),
        sa.Column("suffix", sa.Text(), nullable=True),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("hyperparameters", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column("submitted_by", sa.Uuid(), nullable=False),
        sa.Column("submitted_by_type", sa.Text(), nullable=False),
        sa.Column("submitted_key", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("nudged_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("stalls", sa.Integer(), server_default="0", nullable=False),
        sa.Column("progress", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("inspection", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("trained_tokens", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(state = 'running') = (lease_id IS NOT NULL)", name=op.f("ck_jobs_running_under_lease")),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name=op.f("ck_jobs_finished")
        ),
        sa.CheckConstraint(
            "state IN ('validating_files', 'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_jobs_state"),
        ),
        sa.ForeignKeyConstraint(["base_model_id"], ["base_models.id"], name=op.f("fk_jobs_base_model_id")),
        sa.ForeignKeyConstraint(
            ["department_id", "evaluation_file_id"],
            ["files.department_id", "files.id"],
            name=op.f("fk_jobs_department_id_evaluation_file_id"),
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "lease_id"],
            ["leases.department_id", "leases.id"],
            name=op.f("fk_jobs_department_id_lease_id"),
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "training_file_id"],
            ["files.department_id", "files.id"],
            name=op.f("fk_jobs_department_id_training_file_id"),
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "validation_file_id"],
            ["files.department_id", "files.id"],
            name=op.f("fk_jobs_department_id_validation_file_id"),
        ),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_jobs_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("department_id", "id", name=op.f("uq_jobs_department_id_id")),
    )
    op.create_index("ix_jobs_department_id_request_sha256", "jobs", ["department_id", "request_sha256"], unique=False)
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["state", "id"],
        unique=False,
        postgresql_where="state IN ('validating_files', 'queued', 'running')",
    )
    op.create_table(
        "adapter_versions",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("adapter_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("base_model_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "state IN ('candidate', 'approved', 'rejected', 'retired', 'revoked')",
            name=op.f("ck_adapter_versions_state"),
        ),
        sa.CheckConstraint("number >= 1", name=op.f("ck_adapter_versions_number")),
        sa.ForeignKeyConstraint(["base_model_id"], ["base_models.id"], name=op.f("fk_adapter_versions_base_model_id")),
        sa.ForeignKeyConstraint(
            ["department_id", "adapter_id"],
            ["adapters.department_id", "adapters.id"],
            name=op.f("fk_adapter_versions_department_id_adapter_id"),
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "job_id"],
            ["jobs.department_id", "jobs.id"],
            name=op.f("fk_adapter_versions_department_id_job_id"),
        ),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_adapter_versions_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapter_versions")),
        sa.UniqueConstraint("adapter_id", "number", name=op.f("uq_adapter_versions_adapter_id_number")),
        sa.UniqueConstraint("department_id", "id", name=op.f("uq_adapter_versions_department_id_id")),
        sa.UniqueConstraint("department_id", "model_name", name=op.f("uq_adapter_versions_department_id_model_name")),
        sa.UniqueConstraint("job_id", name=op.f("uq_adapter_versions_job_id")),
    )
    op.create_table(
        "job_checkpoints",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("rejected_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["department_id", "job_id"],
            ["jobs.department_id", "jobs.id"],
            name=op.f("fk_job_checkpoints_department_id_job_id"),
        ),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_job_checkpoints_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_checkpoints")),
        sa.UniqueConstraint("job_id", "step", "epoch", name=op.f("uq_job_checkpoints_job_id_step_epoch")),
    )
    op.create_table(
        "job_events",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.ForeignKeyConstraint(
            ["department_id", "job_id"],
            ["jobs.department_id", "jobs.id"],
            name=op.f("fk_job_events_department_id_job_id"),
        ),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_job_events_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
    )
    op.create_index("ix_job_events_job_id_number", "job_events", ["job_id", "number"], unique=False)
    op.create_table(
        "aliases",
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("adapter_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["department_id", "adapter_id"],
            ["adapters.department_id", "adapters.id"],
            name=op.f("fk_aliases_department_id_adapter_id"),
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "version_id"],
            ["adapter_versions.department_id", "adapter_versions.id"],
            name=op.f("fk_aliases_department_id_version_id"),
        ),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_aliases_department_id")),
        sa.PrimaryKeyConstraint("department_id", "adapter_id", "name", name=op.f("pk_aliases")),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("department_id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("base_report", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("adapter_report", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["department_id", "file_id"],
            ["files.department_id", "files.id"],
            name=op.f("fk_evaluations_department_id_file_id"),
        ),
        sa.ForeignKeyConstraint(
            ["department_id", "version_id"],
            ["adapter_versions.department_id", "adapter_versions.id"],
            name=op.f("fk_evaluations_department_id_version_id"),
        ),
        sa.ForeignKeyConstraint(["department_id"], ["departments.id"], name=op.f("fk_evaluations_department_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
    )
    op.create_index(op.f("ix_evaluations_version_id"), "evaluations", ["version_id"], unique=False)


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    for table in TABLES:
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change")
    op.execute("DROP FUNCTION current_department")
    op.execute("REVOKE USAGE ON SCHEMA public FROM tsugiki_app, tsugiki_definer, tsugiki_auditor")
    # The roles stay: another database of the server may use them.
