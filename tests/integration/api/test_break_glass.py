"""Access in an emergency: two people, a few hours, and a trail that the auditor reads."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import IntegrityError

from domain.ids import IdKind, parse_id
from runtime.wiring import Runtime
from tests.integration.conftest import Database, Department, http, rows
from workers.sweeper import sweep

GLASS = "/organization/break_glass"


@pytest.fixture(scope="module")
def administrator(database: Database) -> Iterator[Engine]:
    engine = create_engine(database.admin_url)
    yield engine
    engine.dispose()


@pytest.fixture
def operator(department: Department) -> Iterator[httpx.Client]:
    with http(department.api_url, department.operator_key, openai_project=department.id) as client:
        yield client


@pytest.fixture
def opened(department: Department, operator: httpx.Client) -> dict[str, Any]:
    asked = operator.post(GLASS, json={"reason": "wrong rows", "minutes": 30}).raise_for_status().json()
    with department.http(department.admin) as admin:
        answer: dict[str, Any] = admin.post(f"{GLASS}/{asked['id']}/open").raise_for_status().json()
        return answer


@pytest.fixture
def told(auditor_key: str, department: Department) -> Callable[[str], list[dict[str, Any]]]:
    """The trail's events about one access, oldest first."""

    def read(glass: str) -> list[dict[str, Any]]:
        with http(department.api_url, auditor_key) as auditor:
            query = {"resource_ids[]": glass, "project_ids[]": department.id}
            found: list[dict[str, Any]] = auditor.get("/organization/audit_logs", params=query).json()["data"]
            return found[::-1]

    return read


def test_nothing_is_open_before_somebody_else_agrees(department: Department, operator: httpx.Client) -> None:
    asked = operator.post(GLASS, json={"reason": "wrong rows"}).raise_for_status().json()
    assert (asked["status"], asked["expires_at"]) == ("requested", None)
    assert operator.post(f"{GLASS}/{asked['id']}/key").status_code == 409
    own = operator.post(f"{GLASS}/{asked['id']}/open")
    assert (own.status_code, own.json()["error"]["code"]) == (403, "separation_of_duties")
    with department.http() as trainer:
        assert trainer.post(f"{GLASS}/{asked['id']}/open").status_code == 403


def test_an_open_one_reads_the_departments_data_and_changes_no_role(
    *, department: Department, operator: httpx.Client, opened: dict[str, Any], told: Callable[..., Any]
) -> None:
    file = department.upload(rows(3))
    assert operator.get(f"/files/{file}/content").status_code == 403
    key = operator.post(f"{GLASS}/{opened['id']}/key").raise_for_status().json()
    assert key["expires_at"] == opened["expires_at"] == opened["opened_at"] + 30 * 60
    with http(department.api_url, key["value"]) as glass:
        assert glass.get(f"/files/{file}/content").content == rows(3)
        assert glass.get("/me").json()["roles"] == ["break_glass"]
        for method, path in (("POST", "/fine_tuning/jobs"), ("DELETE", f"/files/{file}"), ("POST", GLASS)):
            assert glass.request(method, path).status_code == 403, path
    with department.http(department.admin) as admin:
        admin.post(f"{GLASS}/{opened['id']}/close").raise_for_status()
    with http(department.api_url, key["value"]) as glass:
        assert glass.get("/me").status_code == 401
    events = told(opened["id"])
    assert [event["type"] for event in events] == [
        "breakglass.requested", "breakglass.opened", "breakglass.closed",
    ]  # fmt: skip
    # The reading, and the three denials.
    assert events[-1]["details"] == {"why": "closed", "acts": 4}


def test_it_ends_with_the_role_of_the_operator_who_asked(department: Department, operator_key: str) -> None:
    person = department.member("viewer")
    roles = "/organization/role_grants"
    with http(department.api_url, operator_key) as first, department.http(person) as own:
        grant = first.post(roles, json={"user_id": person.id, "role": "operator"}).raise_for_status().json()["id"]
        theirs = own.post(f"{roles}/{grant}/key", json={}).raise_for_status().json()["value"]
        with http(department.api_url, theirs, openai_project=department.id) as second:
            asked = second.post(GLASS, json={"reason": "wrong rows"}).raise_for_status().json()["id"]
            with department.http(department.admin) as admin:
                admin.post(f"{GLASS}/{asked}/open").raise_for_status()
            key = second.post(f"{GLASS}/{asked}/key").raise_for_status().json()["value"]
        with http(department.api_url, key) as glass:
            assert glass.get("/me").json()["roles"] == ["break_glass"]
            first.delete(f"{roles}/{grant}").raise_for_status()
            assert glass.get("/me").status_code == 401


def test_it_ends_by_itself_and_the_auditor_is_told(
    *, department: Department, operator: httpx.Client, opened: dict[str, Any], runtime: Runtime,
    administrator: Engine, told: Callable[..., Any],
) -> None:  # fmt: skip
    key = operator.post(f"{GLASS}/{opened['id']}/key").raise_for_status().json()["value"]
    values = {"id": parse_id(IdKind.BREAK_GLASS, opened["id"])}
    with administrator.begin() as connection:
        # Its half hour passes.
        past = "opened_at = opened_at - interval '31 minutes', expires_at = expires_at - interval '31 minutes'"
        connection.execute(text(f"UPDATE break_glass SET {past} WHERE id = :id"), values)  # noqa: S608
        account = "SELECT account_id FROM break_glass WHERE id = :id"
        ended = "UPDATE api_keys SET expires_at = expires_at - interval '31 minutes'"
        connection.execute(text(f"{ended} WHERE service_account_id = ({account})"), values)
    with http(department.api_url, key) as glass:
        # Before anybody has swept.
        assert glass.get("/me").status_code == 401
    assert operator.post(f"{GLASS}/{opened['id']}/key").status_code == 409
    sweep(runtime)
    sweep(runtime)
    assert [event["details"] for event in told(opened["id"]) if event["type"] == "breakglass.closed"] == [
        {"why": "expired", "acts": 0}
    ]
    assert [found["status"] for found in operator.get(GLASS).json()["data"] if found["id"] == opened["id"]] == [
        "closed"
    ]


def test_it_is_opened_once_and_its_key_is_for_who_asked(
    *, department: Department, operator: httpx.Client, opened: dict[str, Any]
) -> None:
    with department.http(department.admin) as admin:
        again = admin.post(f"{GLASS}/{opened['id']}/open")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "already_decided")
        assert admin.post(f"{GLASS}/{opened['id']}/key").status_code == 403
    first = operator.post(f"{GLASS}/{opened['id']}/key").json()["value"]
    second = operator.post(f"{GLASS}/{opened['id']}/key").json()["value"]
    with http(department.api_url, first) as ended, http(department.api_url, second) as alive:
        assert (ended.get("/me").status_code, alive.get("/me").status_code) == (401, 200)


@pytest.mark.parametrize(
    "change",
    [
        "opened_by = requested_by",
        "expires_at = opened_at + interval '4 hours 1 second'",
        "opened_at = NULL",
    ],
)
def test_the_database_keeps_two_people_and_four_hours(
    opened: dict[str, Any], administrator: Engine, change: str
) -> None:
    values = {"id": parse_id(IdKind.BREAK_GLASS, opened["id"])}
    with pytest.raises(IntegrityError, match="ck_break_glass"), administrator.begin() as connection:
        connection.execute(text(f"UPDATE break_glass SET {change} WHERE id = :id"), values)  # noqa: S608
