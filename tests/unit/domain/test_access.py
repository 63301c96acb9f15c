from uuid import uuid4

import pytest

from domain.access import (
    DEPARTMENT_ROLES,
    MATRIX,
    PLATFORM_ROLES,
    Permission,
    Principal,
    PrincipalType,
    Role,
    parse_roles,
    require,
    system,
)
from domain.refusals import Denied, Refusal


def principal(*roles: Role) -> Principal:
    return Principal(PrincipalType.USER, uuid4(), uuid4(), uuid4(), frozenset(roles))


def test_every_permission_is_in_the_table_and_somebodys() -> None:
    assert set(MATRIX) == set(Permission)
    assert all(MATRIX.values())


def test_the_auditor_changes_nothing_and_the_operator_sees_no_content() -> None:
    reading = {permission for permission in Permission if ".read" in permission or permission.endswith(".list")}
    assert {permission for permission, roles in MATRIX.items() if Role.AUDITOR in roles} <= reading
    for permission in (Permission.FILE_READ_CONTENT, Permission.ADAPTER_DOWNLOAD, Permission.JOB_SUBMIT,
                       Permission.AUDIT_READ_ALL, Permission.AUDIT_READ_DEPARTMENT):  # fmt: skip
        assert not principal(Role.OPERATOR).may(permission)


def test_nobody_without_a_role_may_anything_and_roles_add_up() -> None:
    assert not any(principal().may(permission) for permission in Permission)
    assert not any(system(None).may(permission) for permission in Permission)
    both = principal(Role.TRAINER, Role.DATA_STEWARD)
    assert both.may(Permission.JOB_SUBMIT)
    assert both.may(Permission.FILE_DELETE)


def test_a_missing_permission_is_denied_by_name() -> None:
    require(principal(Role.TRAINER), Permission.JOB_SUBMIT)
    with pytest.raises(Denied, match=r"job\.submit"):
        require(principal(Role.VIEWER), Permission.JOB_SUBMIT)


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (["owner"], {Role.DEPARTMENT_ADMIN}),
        (["member"], {Role.TRAINER, Role.DATA_STEWARD}),
        (["viewer", "viewer"], {Role.VIEWER}),
        (["approver", "viewer"], {Role.APPROVER, Role.VIEWER}),
    ],
)
def test_roles_are_read_in_the_clients_words_and_in_ours(names: list[str], roles: set[Role]) -> None:
    assert parse_roles(names) == roles


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ([], "unknown_role"),
        (["king"], "unknown_role"),
        (["Owner"], "unknown_role"),
        *(([role], "unknown_role") for role in sorted(PLATFORM_ROLES)),
        (["approver", "trainer"], "separation_of_duties"),
        (["approver", "owner"], "separation_of_duties"),
        (["approver", "member"], "separation_of_duties"),
    ],
)
def test_roles_that_are_not_or_may_not_meet_are_refused(names: list[str], code: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_roles(names)
    assert refused.value.code == code


def test_department_and_platform_roles_are_apart() -> None:
    assert set(Role) == PLATFORM_ROLES | DEPARTMENT_ROLES
    assert not PLATFORM_ROLES & DEPARTMENT_ROLES
