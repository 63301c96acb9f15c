"""Departments, their people, and the accounts and keys that act for them."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from domain.data_classes import DataClass
from models_db.base import CreatedAt, Table, UuidKey

_CLASSES = ", ".join(f"'{data_class}'" for data_class in DataClass)


class Department(Table):
    """A tenant. The OpenAI client calls it a project."""

    __tablename__ = "departments"
    __table_args__ = (
        CheckConstraint("weight > 0", name="weight"),
        # least() passes over NULL.
        CheckConstraint(
            "least(max_running_jobs, max_unfinished_jobs, max_gpu_hours, max_storage_bytes, monthly_budget) >= 0",
            name="limits",
        ),
        CheckConstraint("erased_at IS NULL OR closed_at IS NOT NULL", name="erased"),
        CheckConstraint(f"default_data_class IN ({_CLASSES})", name="default_data_class"),
    )

    id: Mapped[UuidKey]
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[CreatedAt]
    # When it was last given work: departments that waited longest come first.
    served_at: Mapped[datetime | None]
    # Its share of the devices beside the other departments' weights.
    weight: Mapped[float] = mapped_column(server_default="1")
    # Whether its more urgent jobs may take the place of its running ones.
    preempts: Mapped[bool] = mapped_column(server_default=text("false"))
    # What it may use at most. NULL: the installation's default of unfinished jobs; no limit of anything else.
    max_running_jobs: Mapped[int | None]
    max_unfinished_jobs: Mapped[int | None]
    # Of a calendar month, UTC, as the budget is.
    max_gpu_hours: Mapped[Decimal | None]
    max_storage_bytes: Mapped[int | None] = mapped_column(BigInteger)
    monthly_budget: Mapped[Decimal | None]
    # When it was last told that its budget draws to an end.
    budget_warned_at: Mapped[datetime | None]
    # Since when nobody acts in it, and its rows and objects are gone.
    closed_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]
    # Of its files, where an upload says nothing.
    default_data_class: Mapped[str] = mapped_column(server_default=DataClass.INTERNAL)


class User(Table):
    """A human, of the organisation; what they may do in a department is a membership."""

    __tablename__ = "users"

    id: Mapped[UuidKey]
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    created_at: Mapped[CreatedAt]


class Membership(Table):
    """A user's roles in a department."""

    __tablename__ = "memberships"
    __table_args__ = (
        CheckConstraint(
            "NOT ('approver' = ANY(roles) AND roles && ARRAY['trainer', 'department_admin'])", name="roles_apart"
        ),
        CheckConstraint(
            "roles <@ ARRAY['viewer', 'trainer', 'data_steward', 'department_admin', 'approver', 'inference']",
            name="roles_of_people",
        ),
    )

    department_id: Mapped[UUID] = mapped_column(ForeignKey("departments.id"), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    roles: Mapped[list[str]]
    created_at: Mapped[CreatedAt]


class ServiceAccount(Table):
    """A robot with roles. department_id is NULL for the platform's operator and auditor.

    answered_for_by is the person whose acts its acts are; NULL for the platform's first two.
    """

    __tablename__ = "service_accounts"
    __table_args__ = (
        UniqueConstraint("department_id", "id"),
        CheckConstraint(
            "roles <@ CASE WHEN department_id IS NULL THEN ARRAY['operator', 'auditor'] "
            "ELSE ARRAY['viewer', 'trainer', 'data_steward', 'inference', 'break_glass'] END "
            "AND cardinality(roles) >= 1",
            name="roles_of_robots",
        ),
        CheckConstraint("NOT roles @> ARRAY['operator', 'auditor']", name="roles_apart"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID | None] = mapped_column(ForeignKey("departments.id"))
    name: Mapped[str]
    roles: Mapped[list[str]]
    created_at: Mapped[CreatedAt]
    deleted_at: Mapped[datetime | None]
    answered_for_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))


class ApiKey(Table):
    """A key of a user in a department, or of a service account. The secret itself is not here."""

    __tablename__ = "api_keys"
    __table_args__ = (
        ForeignKeyConstraint(["department_id", "user_id"], ["memberships.department_id", "memberships.user_id"]),
        # Beside the column's own key, which also checks the platform's keys: those have no department.
        ForeignKeyConstraint(
            ["department_id", "service_account_id"], ["service_accounts.department_id", "service_accounts.id"]
        ),
        CheckConstraint("(user_id IS NULL) <> (service_account_id IS NULL)", name="one_owner"),
        CheckConstraint("user_id IS NULL OR department_id IS NOT NULL", name="user_in_department"),
        # A key of no permission would be a mistake, and an array without elements is none of NULL's kind.
        CheckConstraint("cardinality(scopes) > 0", name="scopes"),
        Index("ix_api_keys_department_id_id", "department_id", "id"),
    )

    id: Mapped[UuidKey]
    department_id: Mapped[UUID | None] = mapped_column(ForeignKey("departments.id"))
    user_id: Mapped[UUID | None]
    service_account_id: Mapped[UUID | None] = mapped_column(ForeignKey("service_accounts.id"))
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    # The permissions it was made for; NULL for all that its owner's roles allow.
    scopes: Mapped[list[str] | None]
