"""Who may do what and how far, as one table.

Roles are held in a department, or on the platform by its operators and auditors.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from domain.refusals import Denied, RoleUnknown, ScopeUnknown, SeparationOfDuties


class Role(StrEnum):
    """What a principal is in a department; OPERATOR and AUDITOR stand outside all departments.

    WORKER is Tsugiki's own process under a lease, BREAK_GLASS a session that two people opened for an emergency: nobody
    holds either for long, and nobody gives them.
    """

    VIEWER = "viewer"
    TRAINER = "trainer"
    DATA_STEWARD = "data_steward"
    DEPARTMENT_ADMIN = "department_admin"
    APPROVER = "approver"
    INFERENCE = "inference"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    WORKER = "worker"
    BREAK_GLASS = "break_glass"


PLATFORM_ROLES = frozenset({Role.OPERATOR, Role.AUDITOR})
PASSING_ROLES = frozenset({Role.WORKER, Role.BREAK_GLASS})
DEPARTMENT_ROLES = frozenset(Role) - PLATFORM_ROLES - PASSING_ROLES


class Reach(StrEnum):
    """How far a permission goes, from the least to the most."""

    # What the principal itself submitted, made or holds.
    OWN = "own"
    # What somebody granted to the principal, by name and for a time.
    GRANTED = "granted"
    # Of whichever department the request names: states, numbers, digests and names, and nothing that its people wrote.
    METADATA = "metadata"
    # All of the department that the request acts in.
    DEPARTMENT = "department"
    # What stands outside departments, and what an operator or auditor does in any of them.
    PLATFORM = "platform"


class Permission(StrEnum):
    """One thing that can be allowed, `noun.verb`."""

    PRINCIPAL_READ = "principal.read"
    SESSION_MANAGE = "session.manage"
    JOB_READ = "job.read"
    JOB_SUBMIT = "job.submit"
    JOB_CANCEL = "job.cancel"
    FILE_READ = "file.read"
    FILE_READ_CONTENT = "file.read_content"
    FILE_GRANT = "file.grant"
    FILE_UPLOAD = "file.upload"
    FILE_CLASSIFY = "file.classify"
    FILE_DELETE = "file.delete"
    FILE_ERASE = "file.erase"
    FILE_ERASE_CONFIRM = "file.erase_confirm"
    BASE_MODEL_READ = "base_model.read"
    BASE_MODEL_REGISTER = "base_model.register"
    ADAPTER_READ = "adapter.read"
    ADAPTER_DOWNLOAD = "adapter.download"
    ADAPTER_DOWNLOAD_APPROVED = "adapter.download_approved"
    ADAPTER_IMPORT = "adapter.import"
    SIGNING_KEY_READ = "signing_key.read"
    SHARE_READ = "share.read"
    SHARE_REQUEST = "share.request"
    SHARE_APPROVE = "share.approve"
    SHARE_END = "share.end"
    ADAPTER_DESCRIBE = "adapter.describe"
    ADAPTER_REVOKE = "adapter.revoke"
    ADAPTER_RETIRE = "adapter.retire"
    ADAPTER_DELETE = "adapter.delete"
    ALIAS_MOVE = "alias.move"
    ALIAS_MOVE_PROTECTED = "alias.move_protected"
    ALIAS_ROLL_BACK_PROTECTED = "alias.roll_back_protected"
    APPROVAL_READ = "approval.read"
    APPROVAL_REQUEST = "approval.request"
    APPROVAL_WITHDRAW = "approval.withdraw"
    APPROVAL_COMMENT = "approval.comment"
    APPROVAL_DECIDE = "approval.decide"
    LINEAGE_READ = "lineage.read"
    DEPLOYMENT_REPORT = "deployment.report"
    POLICY_READ = "policy.read"
    POLICY_SET = "policy.set"
    POLICY_SET_ORGANISATION = "policy.set_organisation"
    DEPARTMENT_CREATE = "department.create"
    DEPARTMENT_CLOSE = "department.close"
    DEPARTMENT_LIST = "department.list"
    DEPARTMENT_READ = "department.read"
    DEPARTMENT_CHANGE = "department.change"
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
    KEY_MANAGE_FIRST = "key.manage_first"
    SERVICE_ACCOUNT_MANAGE = "service_account.manage"
    ROLE_READ = "role.read"
    ROLE_GRANT = "role.grant"
    ROLE_CLAIM = "role.claim"
    BREAK_GLASS_READ = "break_glass.read"
    BREAK_GLASS_REQUEST = "break_glass.request"
    BREAK_GLASS_OPEN = "break_glass.open"
    BREAK_GLASS_CLOSE = "break_glass.close"
    WORKER_READ = "worker.read"
    WORKER_MANAGE = "worker.manage"
    WEBHOOK_READ = "webhook.read"
    WEBHOOK_MANAGE = "webhook.manage"
    AUDIT_READ_ALL = "audit.read_all"
    AUDIT_READ_DEPARTMENT = "audit.read_department"
    AUDIT_READ_OWN = "audit.read_own"
    AUDIT_EXPORT = "audit.export"
    AUDIT_READ_STATUS = "audit.read_status"


_V, _T, _D, _TA = Role.VIEWER, Role.TRAINER, Role.DATA_STEWARD, Role.DEPARTMENT_ADMIN
_G, _I, _P, _A = Role.APPROVER, Role.INFERENCE, Role.OPERATOR, Role.AUDITOR
_W, _B = Role.WORKER, Role.BREAK_GLASS


def _own(*roles: Role) -> dict[Role, Reach]:
    return dict.fromkeys(roles, Reach.OWN)


def _granted(*roles: Role) -> dict[Role, Reach]:
    return dict.fromkeys(roles, Reach.GRANTED)


def _metadata(*roles: Role) -> dict[Role, Reach]:
    return dict.fromkeys(roles, Reach.METADATA)


def _department(*roles: Role) -> dict[Role, Reach]:
    return dict.fromkeys(roles, Reach.DEPARTMENT)


def _platform(*roles: Role) -> dict[Role, Reach]:
    return dict.fromkeys(roles, Reach.PLATFORM)


# A role that is not named may not.
MATRIX: dict[Permission, dict[Role, Reach]] = {
    Permission.PRINCIPAL_READ: _own(*Role),
    # People's: a robot has a key.
    Permission.SESSION_MANAGE: _own(_V, _T, _D, _TA, _G),
    Permission.JOB_READ: _department(_V, _T, _D, _TA, _G, _B) | _metadata(_A, _P) | _own(_W),
    Permission.JOB_SUBMIT: _department(_T),
    Permission.JOB_CANCEL: _own(_T) | _department(_TA, _B) | _platform(_P),
    Permission.FILE_READ: _department(_V, _T, _D, _TA, _G, _B) | _own(_W),
    Permission.FILE_READ_CONTENT: _department(_D, _B) | _granted(_T) | _own(_W),
    Permission.FILE_GRANT: _department(_D),
    Permission.FILE_UPLOAD: _department(_T, _D),
    Permission.FILE_CLASSIFY: _department(_D),
    Permission.FILE_DELETE: _department(_D),
    Permission.FILE_ERASE: _department(_D),
    # Somebody else than who asked.
    Permission.FILE_ERASE_CONFIRM: _department(_TA),
    Permission.BASE_MODEL_READ: _platform(*Role),
    Permission.BASE_MODEL_REGISTER: _platform(_P),
    Permission.ADAPTER_READ: _department(_V, _T, _D, _TA, _G, _I, _B) | _metadata(_A, _P),
    Permission.ADAPTER_DOWNLOAD: _department(_T, _TA, _B) | _own(_W),
    Permission.ADAPTER_DOWNLOAD_APPROVED: _department(_T, _TA, _I, _B),
    Permission.ADAPTER_IMPORT: _department(_T),
    Permission.SIGNING_KEY_READ: _platform(*Role),
    Permission.SHARE_READ: _department(_TA, _G, _B) | _metadata(_A),
    Permission.SHARE_REQUEST: _department(_TA),
    Permission.SHARE_APPROVE: _department(_G),
    # Stopping takes one.
    Permission.SHARE_END: _department(_TA, _G, _B),
    Permission.ADAPTER_DESCRIBE: _department(_T, _TA),
    # Stopping takes one person, and whoever has seen what is wrong may be the one.
    Permission.ADAPTER_REVOKE: _own(_T) | _department(_TA, _G, _B) | _platform(_P),
    Permission.ADAPTER_RETIRE: _own(_T) | _department(_TA),
    # Of a trainer's own what is still a candidate.
    Permission.ADAPTER_DELETE: _own(_T) | _department(_TA),
    Permission.ALIAS_MOVE: _department(_T, _TA),
    Permission.ALIAS_MOVE_PROTECTED: _department(_TA),
    Permission.ALIAS_ROLL_BACK_PROTECTED: _department(_TA, _B),
    Permission.APPROVAL_READ: _department(_V, _T, _D, _TA, _G, _B) | _metadata(_A),
    Permission.APPROVAL_REQUEST: _department(_T, _TA),
    Permission.APPROVAL_WITHDRAW: _own(_T) | _department(_TA),
    Permission.APPROVAL_COMMENT: _department(_T, _TA, _G),
    Permission.APPROVAL_DECIDE: _department(_G),
    Permission.LINEAGE_READ: _department(_V, _T, _D, _TA, _G, _B) | _metadata(_A),
    Permission.DEPLOYMENT_REPORT: _department(_TA, _I),
    Permission.POLICY_READ: _department(_V, _T, _D, _TA, _G, _B) | _platform(_P, _A),
    Permission.POLICY_SET: _department(_TA),
    Permission.POLICY_SET_ORGANISATION: _platform(_P),
    Permission.DEPARTMENT_CREATE: _platform(_P),
    Permission.DEPARTMENT_CLOSE: _platform(_P),
    Permission.DEPARTMENT_LIST: _platform(_P, _A),
    Permission.DEPARTMENT_CHANGE: _department(_TA),
    Permission.DEPARTMENT_READ: _department(_V, _T, _D, _TA, _G, _I, _W, _B) | _platform(_P, _A),
    Permission.QUOTA_READ: _department(_TA, _B) | _platform(_P, _A),
    Permission.QUOTA_SET: _department(_B) | _platform(_P),
    Permission.USAGE_READ: _department(_TA, _B) | _platform(_P, _A),
    Permission.MEMBER_READ: _department(_TA) | _platform(_P, _A),
    Permission.MEMBER_MANAGE: _department(_TA),
    Permission.MEMBER_NAME_FIRST_ADMIN: _department(_TA) | _platform(_P),
    Permission.USER_CREATE: _department(_TA) | _platform(_P),
    Permission.USER_READ: _department(_TA) | _platform(_P, _A),
    Permission.KEY_READ: _department(_TA) | _platform(_P, _A),
    # An approver's own key is the approver's alone to make: who holds it, decides.
    Permission.KEY_MANAGE: _own(_V, _T, _D, _G) | _department(_TA),
    Permission.KEY_MANAGE_FIRST: _platform(_P),
    Permission.SERVICE_ACCOUNT_MANAGE: _department(_TA),
    Permission.ROLE_READ: _department(_TA) | _platform(_P, _A),
    # Approver, operator and auditor: two operators where there are two.
    Permission.ROLE_GRANT: _platform(_P),
    Permission.ROLE_CLAIM: _own(_V, _T, _D, _TA, _G),
    Permission.BREAK_GLASS_READ: _own(_B) | _department(_TA) | _platform(_P, _A),
    Permission.BREAK_GLASS_REQUEST: _platform(_P),
    # By somebody else than the one who asked.
    Permission.BREAK_GLASS_OPEN: _department(_TA) | _platform(_P),
    Permission.BREAK_GLASS_CLOSE: _own(_B) | _department(_TA) | _platform(_P),
    Permission.WORKER_READ: _platform(_P, _A),
    Permission.WORKER_MANAGE: _platform(_P),
    Permission.WEBHOOK_READ: _department(_TA) | _platform(_P, _A),
    Permission.WEBHOOK_MANAGE: _department(_TA) | _platform(_P),
    Permission.AUDIT_READ_ALL: _platform(_A),
    Permission.AUDIT_READ_DEPARTMENT: _department(_TA, _G, _B) | _platform(_A),
    Permission.AUDIT_READ_OWN: _own(_T, _D, _TA, _A),
    Permission.AUDIT_EXPORT: _platform(_A),
    Permission.AUDIT_READ_STATUS: _platform(_P, _A),
}


class PrincipalType(StrEnum):
    """Who stands behind a request; SYSTEM is Tsugiki's own workers and sweeper."""

    USER = "user"
    SERVICE_ACCOUNT = "service_account"
    SYSTEM = "system"


@dataclass(frozen=True)
class Principal:
    """Who acts, in which department, with which roles, in which request.

    department is None for the platform's own keys, unless the request chose one. scopes are what the key was made for;
    None for everything that the roles allow. answered_for_by is the person who answers for a service account.
    """

    type: PrincipalType
    id: UUID | None
    key_id: UUID | None
    department: UUID | None
    roles: frozenset[Role]
    request_id: str | None = None
    source_ip: str | None = None
    scopes: frozenset[Permission] | None = None
    answered_for_by: UUID | None = None
    auth_method: str | None = None
    trace_id: str | None = None
    user_agent_hash: str | None = None

    @property
    def human(self) -> UUID | None:
        """The person behind the key: who must not decide what they asked for. None for the platform's first keys."""
        return self.id if self.type is PrincipalType.USER else self.answered_for_by

    def reach(self, permission: Permission) -> Reach | None:
        """How far one of the roles allows it, within the key's scopes; None where they do not."""
        # What a key is, it may always ask.
        if self.scopes is not None and permission not in {*self.scopes, Permission.PRINCIPAL_READ}:
            return None
        return reach_of(self.roles, permission)

    def may(self, permission: Permission) -> bool:
        """Whether one of the roles, and the key's scopes, allow it at all."""
        return self.reach(permission) is not None

    def may_all(self, permission: Permission) -> bool:
        """Whether it is allowed beyond what is the principal's own or was granted to it."""
        return self.reach(permission) not in {None, Reach.OWN, Reach.GRANTED}


def reach_of(roles: Collection[Role], permission: Permission) -> Reach | None:
    """The furthest that one of the roles goes; None where none of them may."""
    row = MATRIX[permission]
    return max((row[role] for role in roles if role in row), key=tuple(Reach).index, default=None)


def permissions_of(roles: Collection[Role]) -> frozenset[Permission]:
    """Everything that one of the roles may: what scopes of a key are chosen from."""
    return frozenset(permission for permission in Permission if reach_of(roles, permission) is not None)


def require(principal: Principal, permission: Permission) -> None:
    """Raise Denied unless the principal may."""
    if not principal.may(permission):
        raise Denied(f"This key does not have the permission {permission.value}.")


def require_any(principal: Principal, permissions: Collection[Permission]) -> None:
    """Raise Denied unless the principal may one of them."""
    if not any(principal.may(permission) for permission in permissions):
        names = " or ".join(permission.value for permission in permissions)
        raise Denied(f"This key does not have the permission {names}.")


def require_all(principal: Principal, permission: Permission) -> None:
    """Raise Denied unless the principal may, also where it is not their own and was not granted to them."""
    if not principal.may_all(permission):
        raise Denied(f"This key has the permission {permission.value} for what is its own at most.")


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


def parse_scopes(names: Collection[str]) -> frozenset[Permission]:
    """Permissions by name. Raises ScopeUnknown, also for no name at all."""
    if not names or not set(names) <= set(Permission):
        raise ScopeUnknown("Scopes are permissions by name, such as `job.submit`; at least one.", param="scopes")
    return frozenset(Permission(name) for name in names)
