from uuid import uuid4

import pytest

from domain.access import (
    DEPARTMENT_ROLES,
    MATRIX,
    PASSING_ROLES,
    PLATFORM_ROLES,
    Permission,
    Principal,
    PrincipalType,
    Reach,
    Role,
    parse_roles,
    parse_scopes,
    permissions_of,
    require,
    require_all,
    system,
)
from domain.refusals import Denied, Refusal


def principal(*roles: Role, scopes: set[Permission] | None = None) -> Principal:
    limits = None if scopes is None else frozenset(scopes)
    return Principal(PrincipalType.USER, uuid4(), uuid4(), uuid4(), frozenset(roles), scopes=limits)


def test_every_permission_is_in_the_table_and_somebodys() -> None:
    assert set(MATRIX) == set(Permission)
    assert all(MATRIX.values())


def test_the_auditor_changes_nothing_and_the_operator_sees_no_content() -> None:
    reading = {permission for permission in Permission if ".read" in permission or permission.endswith(".list")}
    # An export is a long reading.
    reading |= {Permission.AUDIT_EXPORT}
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
    assert set(Role) == PLATFORM_ROLES | DEPARTMENT_ROLES | PASSING_ROLES
    assert not PLATFORM_ROLES & DEPARTMENT_ROLES


def test_the_furthest_of_several_roles_counts() -> None:
    both = principal(Role.TRAINER, Role.DEPARTMENT_ADMIN)
    assert both.reach(Permission.JOB_CANCEL) is Reach.DEPARTMENT
    assert principal(Role.TRAINER).reach(Permission.JOB_CANCEL) is Reach.OWN
    assert principal(Role.VIEWER).reach(Permission.JOB_CANCEL) is None


def test_what_is_allowed_for_ones_own_is_not_allowed_for_all() -> None:
    trainer = principal(Role.TRAINER)
    require(trainer, Permission.JOB_CANCEL)
    for permission in (Permission.JOB_CANCEL, Permission.FILE_READ_CONTENT, Permission.WORKER_MANAGE):
        with pytest.raises(Denied, match=permission.value):
            require_all(trainer, permission)
    require_all(principal(Role.DATA_STEWARD), Permission.FILE_READ_CONTENT)
    require_all(principal(Role.AUDITOR), Permission.JOB_READ)


def test_a_key_may_what_roles_and_scopes_both_allow() -> None:
    scoped = principal(Role.TRAINER, scopes={Permission.JOB_READ, Permission.FILE_DELETE})
    allowed = {permission for permission in Permission if scoped.may(permission)}
    assert allowed == {Permission.JOB_READ, Permission.PRINCIPAL_READ}
    with pytest.raises(Denied):
        require(scoped, Permission.JOB_SUBMIT)


def test_a_person_stands_behind_every_key_but_the_first_ones() -> None:
    human = uuid4()
    robot = Principal(PrincipalType.SERVICE_ACCOUNT, uuid4(), uuid4(), uuid4(), frozenset(), answered_for_by=human)
    first = Principal(PrincipalType.SERVICE_ACCOUNT, uuid4(), uuid4(), None, frozenset({Role.OPERATOR}))
    person = principal(Role.TRAINER)
    assert (robot.human, first.human, person.human) == (human, None, person.id)


def test_what_several_roles_may_is_the_sum_of_what_each_may() -> None:
    one, other = ({permission for permission in Permission if role in MATRIX[permission]} for role in (
        Role.INFERENCE, Role.DATA_STEWARD))  # fmt: skip
    assert permissions_of([Role.INFERENCE, Role.DATA_STEWARD]) == one | other
    assert permissions_of([]) == frozenset()


@pytest.mark.parametrize("names", [[], ["job"], ["job.read", "job.everything"], ["JOB.READ"]])
def test_scopes_that_are_no_permissions_are_refused(names: list[str]) -> None:
    with pytest.raises(Refusal) as refused:
        parse_scopes(names)
    assert (refused.value.code, refused.value.param) == ("unknown_scope", "scopes")
