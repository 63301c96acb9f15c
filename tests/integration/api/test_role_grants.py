"""Roles that operators give, and what may not meet in one person, asked of the API and of the database itself."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import count
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import IntegrityError

from domain.access import Principal, PrincipalType, Role
from domain.ids import IdKind, parse_id
from runtime.wiring import Runtime
from services import members
from tests.integration.conftest import Database, Department, http

GRANTS = "/organization/role_grants"
_people = count(1)


@pytest.fixture(scope="module")
def administrator(database: Database) -> Iterator[Engine]:
    engine = create_engine(database.admin_url)
    yield engine
    engine.dispose()


@pytest.fixture
def person(api_url: str, operator_key: str) -> Callable[[], str]:
    """Enter somebody new into the organisation."""

    def entered() -> str:
        body = {"email": f"rg{next(_people)}@example.org", "name": "Somebody"}
        with http(api_url, operator_key) as operator:
            user: str = operator.post("/organization/users", json=body).raise_for_status().json()["id"]
            return user

    return entered


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def key_of(grant: str, holder: str, api_url: str) -> str:
    """The key of a platform's role, made by whom it was given to."""
    with http(api_url, holder) as client:
        value: str = client.post(f"{GRANTS}/{grant}/key", json={}).raise_for_status().json()["value"]
        return value


def test_a_departments_admin_makes_nobody_an_approver(department: Department, person: Callable[[], str]) -> None:
    users = f"/organization/projects/{department.id}/users"
    with department.http(department.admin) as admin:
        for body in ({"user_id": person(), "role": "approver"}, {"user_id": person(), "roles": ["viewer", "approver"]}):
            assert code_of(admin.post(users, json=body)) == (403, "permission_denied")
        assert code_of(admin.post(GRANTS, json={"user_id": person(), "role": "approver"})) == (403, "permission_denied")


def test_an_approvers_key_is_not_the_admins_to_make(department: Department) -> None:
    approver = department.member("approver")
    keys = f"/organization/projects/{department.id}/api_keys"
    body = {"user_id": approver.id, "name": "second"}
    with department.http(department.admin) as admin, http(department.api_url, department.operator_key) as operator:
        assert code_of(admin.post(keys, json=body)) == (403, "permission_denied")
        # Nor the operator's, once there is one.
        assert code_of(operator.post(keys, json=body)) == (403, "permission_denied")
    with department.http(approver) as own:
        assert own.post(keys, json=body).is_success


def test_the_first_operator_decides_alone_and_from_the_second_on_it_takes_two(
    *, make_department: Callable[[], Department], api_url: str, operator_key: str, person: Callable[[], str]
) -> None:
    department = make_department()
    ada, bob = department.member("viewer"), department.member("viewer")
    with http(api_url, operator_key) as first:
        given = first.post(GRANTS, json={"user_id": ada.id, "role": "operator"}).raise_for_status().json()
        assert (given["needed"], given["status"]) == (1, "granted")
        second_key = key_of(given["id"], ada.key, api_url)
        with http(api_url, second_key) as second:
            me = second.get("/me").json()
            assert (me["roles"], me["department"], me["human"]) == (["operator"], None, ada.id)

            asked = first.post(GRANTS, json={"user_id": bob.id, "role": "auditor"}).raise_for_status().json()
            assert (asked["needed"], asked["status"]) == (2, "requested")
            confirm = f"{GRANTS}/{asked['id']}/confirm"
            assert code_of(first.post(confirm)) == (403, "separation_of_duties")
            with http(api_url, bob.key) as not_yet:
                assert code_of(not_yet.post(f"{GRANTS}/{asked['id']}/key", json={})) == (404, "not_found")
            assert second.post(confirm).raise_for_status().json()["status"] == "granted"
            assert code_of(second.post(confirm)) == (409, "already_decided")
            auditor = key_of(asked["id"], bob.key, api_url)
            with http(api_url, auditor) as reading:
                assert reading.get("/organization/audit_logs").is_success
            # Nobody gives themselves a role, not even as one of two.
            own = second.post(GRANTS, json={"user_id": ada.id, "role": "auditor"})
            assert code_of(own) == (403, "separation_of_duties")
            for_ada = first.post(GRANTS, json={"user_id": ada.id, "role": "operator"}).raise_for_status().json()
            assert code_of(second.post(f"{GRANTS}/{for_ada['id']}/confirm")) == (403, "separation_of_duties")
            # One is enough to stop.
            second.delete(f"{GRANTS}/{asked['id']}").raise_for_status()
            with http(api_url, auditor) as reading:
                assert reading.get("/me").status_code == 401
        first.delete(f"{GRANTS}/{given['id']}").raise_for_status()
        with http(api_url, second_key) as second:
            assert second.get("/me").status_code == 401
        alone = first.post(GRANTS, json={"user_id": person(), "role": "auditor"}).raise_for_status().json()
        assert (alone["needed"], alone["status"]) == (1, "granted")


def test_a_platforms_key_is_made_by_whom_the_role_is_for_and_one_at_a_time(
    department: Department, api_url: str, operator_key: str
) -> None:
    holder, other = department.member("viewer"), department.member("viewer")
    with http(api_url, operator_key) as operator:
        grant = operator.post(GRANTS, json={"user_id": holder.id, "role": "auditor"}).raise_for_status().json()["id"]
        assert code_of(operator.post(f"{GRANTS}/{grant}/key", json={})) == (403, "permission_denied")
    with department.http(other) as client:
        assert code_of(client.post(f"{GRANTS}/{grant}/key", json={})) == (404, "not_found")
    one = key_of(grant, holder.key, api_url)
    another = key_of(grant, holder.key, api_url)
    with http(api_url, one) as ended, http(api_url, another) as alive:
        assert (ended.get("/me").status_code, alive.get("/me").status_code) == (401, 200)


def test_a_key_from_before_decides_for_nobody(department: Department, auditor_key: str) -> None:
    person = department.member("viewer")
    with http(department.api_url, department.operator_key, openai_project=department.id) as operator:
        operator.post(GRANTS, json={"user_id": person.id, "role": "approver"}).raise_for_status()
        # Whoever made that key may have kept it.
        with department.http(person) as former:
            assert former.get("/me").status_code == 401
        keys = f"/organization/projects/{department.id}/api_keys"
        made = operator.post(keys, json={"user_id": person.id, "name": "first"}).raise_for_status().json()["value"]
    with http(department.api_url, made) as approver:
        assert approver.get("/me").json()["roles"] == ["approver", "viewer"]
    with http(department.api_url, auditor_key) as auditor:
        events = auditor.get("/organization/audit_logs", params={"limit": 10}).json()["data"]
    assert [event["type"] for event in events if event["type"].startswith(("key", "role"))][:4] == [
        "key.created", "role_grant.granted", "key.revoked", "role_grant.requested",
    ]  # fmt: skip


def test_a_robot_does_not_claim_its_makers_role(department: Department, operator_key: str) -> None:
    maker = department.member("department_admin")
    with department.http(maker) as admin:
        path = f"/organization/projects/{department.id}/service_accounts"
        robot = admin.post(path, json={"name": "robot", "roles": ["trainer"]}).raise_for_status().json()["api_key"]
    with http(department.api_url, operator_key) as operator:
        grant = operator.post(GRANTS, json={"user_id": maker.id, "role": "operator"}).raise_for_status().json()["id"]
    with http(department.api_url, robot["value"]) as held:
        assert code_of(held.post(f"{GRANTS}/{grant}/key", json={})) == (404, "not_found")
    own = key_of(grant, maker.key, department.api_url)
    with http(department.api_url, own) as theirs:
        assert theirs.get("/me").json()["human"] == maker.id
        # Nor does an operator name themselves: not even as the first admin of a department that they make.
        made = theirs.post("/organization/projects", json={"name": f"own-{grant[-8:]}"}).raise_for_status().json()["id"]
        body = {"user_id": maker.id, "roles": ["department_admin"]}
        named = theirs.post(f"/organization/projects/{made}/users", json=body)
        assert code_of(named) == (403, "separation_of_duties")
    with http(department.api_url, operator_key) as operator:
        operator.delete(f"{GRANTS}/{grant}").raise_for_status()


def test_a_role_that_is_taken_back_does_not_come_again_with_another_change(
    department: Department, runtime: Runtime
) -> None:
    person = department.member("approver", "viewer")
    user, key = parse_id(IdKind.USER, person.id), parse_id(IdKind.DEPARTMENT, department.id)
    admin = Principal(
        PrincipalType.USER, parse_id(IdKind.USER, department.admin.id), None, key, frozenset({Role.DEPARTMENT_ADMIN})
    )
    with http(department.api_url, department.operator_key, openai_project=department.id) as operator:
        grant = operator.get(GRANTS).json()["data"][0]["id"]
        with ThreadPoolExecutor(1) as beside:
            with runtime.department(key) as session:
                members.set_roles(session, admin, user, ["approver", "data_steward"])
                withdrawn = beside.submit(operator.delete, f"{GRANTS}/{grant}")
                assert wait([withdrawn], timeout=0.5).not_done
            withdrawn.result().raise_for_status()
    with department.http(department.admin) as reading:
        found = reading.get(f"/organization/projects/{department.id}/users/{person.id}").json()
    assert found["roles"] == ["data_steward"]


@pytest.mark.parametrize(
    ("held", "given"),
    [
        ("trainer", "auditor"), ("data_steward", "auditor"), ("department_admin", "auditor"), ("approver", "auditor"),
        ("approver", "operator"), ("trainer", "approver"), ("department_admin", "approver"),
    ],
)  # fmt: skip
def test_roles_that_may_not_meet_are_refused(department: Department, operator_key: str, held: str, given: str) -> None:
    person = department.member(held)
    chosen = {"openai_project": department.id} if given == "approver" else {}
    with http(department.api_url, operator_key, **chosen) as operator:
        refused = operator.post(GRANTS, json={"user_id": person.id, "role": given})
    assert code_of(refused) == (403, "separation_of_duties")


@pytest.mark.parametrize(("given", "then"), [("auditor", "trainer"), ("auditor", "data_steward")])
def test_nor_do_they_meet_the_other_way_round(department: Department, operator_key: str, given: str, then: str) -> None:
    person = department.member("viewer")
    with http(department.api_url, operator_key) as operator:
        operator.post(GRANTS, json={"user_id": person.id, "role": given}).raise_for_status()
    with department.http(department.admin) as admin:
        refused = admin.post(f"/organization/projects/{department.id}/users/{person.id}", json={"role": then})
        assert code_of(refused) == (403, "separation_of_duties")


@pytest.mark.parametrize(
    ("role", "chosen", "answer"),
    [
        ("trainer", True, (400, "unknown_role")), ("break_glass", True, (400, "unknown_role")),
        ("approver", False, (400, "department_required")), ("operator", True, (400, "invalid_request")),
    ],
)  # fmt: skip
def test_a_role_is_given_where_it_is_held(
    *, department: Department, operator_key: str, person: Callable[[], str], role: str, chosen: bool,
    answer: tuple[int, str],
) -> None:  # fmt: skip
    header = {"openai_project": department.id} if chosen else {}
    with http(department.api_url, operator_key, **header) as operator:
        assert code_of(operator.post(GRANTS, json={"user_id": person(), "role": role})) == answer


# --- the database's own word ------------------------------------------------------------------------------------------

ROLES = "UPDATE memberships SET roles = string_to_array('{}', ',') WHERE user_id = {{user}}"
ACCOUNT = (
    "INSERT INTO service_accounts (department_id, name, roles, answered_for_by) "
    "VALUES ({}, 'x', string_to_array('{}', ','), {})"
)
GRANT = "INSERT INTO role_grants (department_id, role, user_id, requested_by) VALUES ({department}, 'approver', {}, {})"


@pytest.fixture(scope="module")
def alone(make_department: Callable[[], Department]) -> Department:
    """A department with one admin."""
    return make_department()


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        (ROLES.format("approver,trainer"), "ck_memberships_roles_apart"),
        (ROLES.format("approver,department_admin"), "ck_memberships_roles_apart"),
        (ROLES.format("operator"), "ck_memberships_roles_of_people"),
        (ROLES.format("worker"), "ck_memberships_roles_of_people"),
        (ROLES.format("viewer"), "last_admin"),
        (ACCOUNT.format("NULL", "auditor", "{user}"), "roles_apart"),
        (ACCOUNT.format("NULL", "operator,auditor", "NULL"), "ck_service_accounts_roles_apart"),
        (ACCOUNT.format("{department}", "worker", "NULL"), "ck_service_accounts_roles_of_robots"),
        (ACCOUNT.format("{department}", "approver", "NULL"), "ck_service_accounts_roles_of_robots"),
        (GRANT.replace("{}", "{user}"), "ck_role_grants_not_oneself"),
    ],
)
def test_the_database_refuses_it_too(alone: Department, administrator: Engine, statement: str, constraint: str) -> None:
    user, key = parse_id(IdKind.USER, alone.admin.id), parse_id(IdKind.DEPARTMENT, alone.id)
    with pytest.raises(IntegrityError) as refused, administrator.begin() as connection:
        connection.execute(text(statement.format(user=f"'{user}'", department=f"'{key}'")))
    assert isinstance(refused.value.orig, psycopg.Error)
    assert refused.value.orig.diag.constraint_name == constraint


def test_the_database_counts_the_operators_itself_and_wants_another_to_decide(
    *, department: Department, administrator: Engine, api_url: str, operator_key: str
) -> None:
    holder = department.member("viewer")
    with http(api_url, operator_key) as operator:
        given = operator.post(GRANTS, json={"user_id": holder.id, "role": "operator"}).raise_for_status().json()["id"]
    asking = uuid4()
    insert = text(
        "INSERT INTO role_grants (department_id, role, user_id, requested_by, needed) "
        "VALUES (:department, 'approver', :user, :by, 1) RETURNING id, needed"
    )
    values: dict[str, UUID] = {
        "department": parse_id(IdKind.DEPARTMENT, department.id), "by": asking,
        "user": parse_id(IdKind.USER, department.trainer.id),
    }  # fmt: skip
    with administrator.begin() as connection:
        made = connection.execute(insert, values).one()
    assert made.needed == 2
    decide = text("UPDATE role_grants SET decided_by = :by, decided_at = now() WHERE id = :id")
    with pytest.raises(IntegrityError, match="two_people"), administrator.begin() as connection:
        connection.execute(decide, {"by": asking, "id": made.id})
    with http(api_url, operator_key) as operator:
        operator.delete(f"{GRANTS}/{given}").raise_for_status()
