"""Who may do what, as one table. Roles are held in a department, or on the platform by its operator and auditor."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from domain.refusals import Denied, RoleUnknown, SeparationOfDuties


class Role(StrEnum):
    """What a principal is in a department; OPERATOR and AUDITOR stand outside all departments."""

    VIEWER = "viewer"
    TRAINER = "trainer"
    DATA_STEWARD = "data_steward"
    DEPARTMENT_ADMIN = "department_admin"
    APPROVER = "approver"
    INFERENCE = "inference"
    OPERATOR = "operator"
    AUDITOR = "auditor"


PLATFORM_ROLES = frozenset({Role.OPERATOR, Role.AUDITOR})
DEPARTMENT_ROLES = frozenset(Role) - PLATFORM_ROLES


class Permission(StrEnum):
    """One thing that can be allowed, `noun.verb`."""

    JOB_READ = "job.read"
    JOB_SUBMIT = "job.submit"
    JOB_CANCEL_OWN = "job.cancel_own"
    JOB_CANCEL_ANY = "job.cancel_any"
    FILE_READ = "file.read"
    FILE_READ_CONTENT = "file.read_content"
    FILE_UPLOAD = "file.upload"
    FILE_DELETE = "file.delete"
    BASE_MODEL_READ = "base_model.read"
    BASE_MODEL_REGISTER = "base_model.register"
    ADAPTER_READ = "adapter.read"
    ADAPTER_DOWNLOAD = "adapter.download"
    ADAPTER_DOWNLOAD_APPROVED = "adapter.download_approved"
    LINEAGE_READ = "lineage.read"
    DEPARTMENT_CREATE = "department.create"
    DEPARTMENT_LIST = "department.list"
    DEPARTMENT_READ = "department.read"
    QUOTA_READ = "quota.read"
    QUOTA_SET = "quota.set"
    USAGE_READ = "usage.read"
    MEMBER_READ = "member.read"
    MEMBER_MANAGE = "member.manage"
    MEMBER_NAME_FIRST_ADMIN = "member.name_first_admin"
    USER_CREATE = "user.create"
    USER_READ = "user.read"
    KEY_READ = "key.read"
    KEY_MANAGE = "key.manage"
    KEY_MANAGE_OWN = "key.manage_own"
    WORKER_READ = "worker.read"
    WORKER_MANAGE = "worker.manage"
    WEBHOOK_READ = "webhook.read"
    WEBHOOK_MANAGE = "webhook.manage"
    AUDIT_READ_ALL = "audit.read_all"
    AUDIT_READ_DEPARTMENT = "audit.read_department"
    AUDIT_READ_OWN = "audit.read_own"


_V, _T, _D, _TA = Role.VIEWER, Role.TRAINER, Role.DATA_STEWARD, Role.DEPARTMENT_ADMIN
_G, _I, _P, _A = Role.APPROVER, Role.INFERENCE, Role.OPERATOR, Role.AUDITOR

MATRIX: dict[Permission, frozenset[Role]] = {
    Permission.JOB_READ: frozenset({_V, _T, _D, _TA, _G, _A, _P}),
    Permission.JOB_SUBMIT: frozenset({_T}),
    Permission.JOB_CANCEL_OWN: frozenset({_T, _TA, _P}),
    Permission.JOB_CANCEL_ANY: frozenset({_TA, _P}),
    Permission.FILE_READ: frozenset({_V, _T, _D, _TA, _G}),
    Permission.FILE_READ_CONTENT: frozenset({_D}),
    Permission.FILE_UPLOAD: frozenset({_T, _D}),
    Permission.FILE_DELETE: frozenset({_D}),
    Permission.BASE_MODEL_READ: frozenset(Role),
    Permission.BASE_MODEL_REGISTER: frozenset({_P}),
    Permission.ADAPTER_READ: frozenset({_V, _T, _D, _TA, _G, _I, _A, _P}),
    Permission.ADAPTER_DOWNLOAD: frozenset({_T, _TA}),
    Permission.ADAPTER_DOWNLOAD_APPROVED: frozenset({_T, _TA, _I}),
    Permission.LINEAGE_READ: frozenset({_V, _T, _D, _TA, _G, _A}),
    Permission.DEPARTMENT_CREATE: frozenset({_P}),
    Permission.DEPARTMENT_LIST: frozenset({_P, _A}),
    Permission.DEPARTMENT_READ: frozenset(Role),
    Permission.QUOTA_READ: frozenset({_TA, _P, _A}),
    Permission.QUOTA_SET: frozenset({_P}),
    Permission.USAGE_READ: frozenset({_TA, _P, _A}),
    Permission.MEMBER_READ: frozenset({_TA, _P, _A}),
    Permission.MEMBER_MANAGE: frozenset({_TA}),
    Permission.MEMBER_NAME_FIRST_ADMIN: frozenset({_TA, _P}),
    Permission.USER_CREATE: frozenset({_TA, _P}),
    Permission.USER_READ: frozenset({_TA, _P, _A}),
    Permission.KEY_READ: frozenset({_TA, _P, _A}),
    Permission.KEY_MANAGE: frozenset({_TA}),
    Permission.KEY_MANAGE_OWN: frozenset({_V, _T, _D, _TA, _G}),
    Permission.WORKER_READ: frozenset({_P, _A}),
    Permission.WORKER_MANAGE: frozenset({_P}),
    Permission.WEBHOOK_READ: frozenset({_TA, _P, _A}),
    Permission.WEBHOOK_MANAGE: frozenset({_TA, _P}),
    Permission.AUDIT_READ_ALL: frozenset({_A}),
    Permission.AUDIT_READ_DEPARTMENT: frozenset({_TA, _A}),
    Permission.AUDIT_READ_OWN: frozenset({_T, _D, _TA, _A}),
}


class PrincipalType(StrEnum):
    """Who stands behind a request; SYSTEM is Tsugiki's own workers and sweeper."""

    USER = "user"
    SERVICE_ACCOUNT = "service_account"
    SYSTEM = "system"


@dataclass(frozen=True)
class Principal:
    """Who acts, in which department, with which roles, in which request.

    department is None for the platform's own keys, unless the request chose one.
    """

    type: PrincipalType
    id: UUID | None
    key_id: UUID | None
    department: UUID | None
    roles: frozenset[Role]
    request_id: str | None = None
    source_ip: str | None = None

    def may(self, permission: Permission) -> bool:
        """Whether one of the roles allows it."""
        return not self.roles.isdisjoint(MATRIX[permission])


def require(principal: Principal, permission: Permission) -> None:
    """Raise Denied unless the principal may."""
    if not principal.may(permission):
        raise Denied(f"This key does not have the permission {permission.value}.")


def system(department: UUID | None) -> Principal:
    """Tsugiki's own workers and sweeper: their use cases ask for no permission, and say who acted."""
    return Principal(PrincipalType.SYSTEM, id=None, key_id=None, department=department, roles=frozenset())


def parse_roles(names: list[str]) -> frozenset[Role]:
    """Department roles by name, refused where they may not meet in one principal.

    The client's project roles `owner` and `member` stand for a department admin, and for a trainer who is
    also a data steward.
    """
    roles: set[Role] = set()
    for name in names:
        if name == "owner":
            roles |= {Role.DEPARTMENT_ADMIN}
        elif name == "member":
            roles |= {Role.TRAINER, Role.DATA_STEWARD}
        elif name in DEPARTMENT_ROLES:
            roles.add(Role(name))
        else:
            known = ", ".join(sorted(DEPARTMENT_ROLES))
            raise RoleUnknown(f"Unknown role. Roles of a department: {known}.", param="role")
    if not roles:
        raise RoleUnknown("At least one role is needed.", param="role")
    if Role.APPROVER in roles and roles & {Role.TRAINER, Role.DEPARTMENT_ADMIN}:
        raise SeparationOfDuties("An approver cannot be a trainer or an admin of the same department.", param="role")
    return frozenset(roles)
