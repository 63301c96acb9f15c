"""Keys: what they may, how long they live, and that an end is an end."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, create_engine, text

from domain.access import Role, permissions_of
from tests.integration.conftest import Database, Department, http, official_client

DAY_S = 86_400


@pytest.fixture(scope="module")
def administrator(database: Database) -> Iterator[Engine]:
    engine = create_engine(database.admin_url)
    yield engine
    engine.dispose()


@pytest.fixture
def make_key(department: Department) -> Callable[..., dict[str, Any]]:
    """A key of the trainer's, made by themselves."""

    def made(**wished: Any) -> dict[str, Any]:
        body = {"user_id": department.trainer.id, "name": "a test's"} | wished
        with department.http() as trainer:
            answer = trainer.post(f"/organization/projects/{department.id}/api_keys", json=body)
            key: dict[str, Any] = answer.raise_for_status().json()
            return key

    return made


def code_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def test_a_key_may_what_its_scopes_and_its_owners_roles_allow(
    department: Department, make_key: Callable[..., dict[str, Any]], api_url: str
) -> None:
    key = make_key(scopes=["job.read", "file.read"])
    assert key["scopes"] == ["file.read", "job.read"]
    with http(api_url, key["value"]) as scoped:
        assert scoped.get("/me").json()["permissions"] == ["file.read", "job.read", "principal.read"]
        assert scoped.get("/fine_tuning/jobs").status_code == 200
        refused = scoped.post("/fine_tuning/jobs", json={"model": "x", "training_file": "x"})
        assert code_of(refused) == (403, "permission_denied", None)
        assert scoped.get("/adapters").status_code == 403
        assert official_client(api_url, key["value"]).files.list().data is not None
    # Without the role the scope is nothing.
    with department.http(department.admin) as admin:
        person = department.member("trainer", "viewer")
        path = f"/organization/projects/{department.id}"
        body = {"user_id": person.id, "name": "x", "scopes": ["job.submit", "job.read"]}
        value = admin.post(f"{path}/api_keys", json=body).raise_for_status().json()["value"]
        with http(api_url, value) as scoped:
            assert scoped.get("/me").json()["permissions"] == ["job.read", "job.submit", "principal.read"]
            admin.post(f"{path}/users/{person.id}", json={"roles": ["viewer"]}).raise_for_status()
            assert scoped.get("/me").json()["permissions"] == ["job.read", "principal.read"]


@pytest.mark.parametrize(
    ("scopes", "refusal"),
    [
        (["member.manage"], (403, "scope_exceeds_owner", "scopes")),
        (["job.read", "audit.read_all"], (403, "scope_exceeds_owner", "scopes")),
        (["everything"], (400, "unknown_scope", "scopes")),
        ([], (400, "unknown_scope", "scopes")),
    ],
)
def test_scopes_beyond_the_owners_permissions_are_refused(
    department: Department, scopes: list[str], refusal: tuple[int, str, str]
) -> None:
    body = {"user_id": department.trainer.id, "name": "x", "scopes": scopes}
    keys = f"/organization/projects/{department.id}/api_keys"
    with department.http() as trainer, department.http(department.admin) as admin:
        assert code_of(trainer.post(keys, json=body)) == refusal
        # Nor does an admin's right go over to whom the key is for.
        assert code_of(admin.post(keys, json=body)) == refusal
        robot = {"name": "robot", "roles": ["trainer", "data_steward"], "scopes": scopes}
        accounts = f"/organization/projects/{department.id}/service_accounts"
        assert code_of(admin.post(accounts, json=robot)) == refusal


def test_a_scoped_key_makes_no_key_that_may_more_than_itself(
    department: Department, make_key: Callable[..., dict[str, Any]], api_url: str
) -> None:
    scopes = ["job.read", "key.manage"]
    keys = f"/organization/projects/{department.id}/api_keys"
    with http(api_url, make_key(scopes=scopes)["value"]) as scoped:
        body = {"user_id": department.trainer.id, "name": "child"}
        assert scoped.post(keys, json=body).raise_for_status().json()["scopes"] == scopes
        assert scoped.post(keys, json=body | {"scopes": ["job.read"]}).is_success
        refused = scoped.post(keys, json=body | {"scopes": ["job.read", "job.submit"]})
        assert code_of(refused) == (403, "scope_exceeds_owner", "scopes")
    with http(api_url, make_key(scopes=["job.read"])["value"]) as scoped:
        assert scoped.post(keys, json=body).status_code == 403


def test_every_key_of_a_department_ends_by_itself(
    department: Department, make_key: Callable[..., dict[str, Any]], api_with: Callable[..., str]
) -> None:
    now = datetime.now(UTC).timestamp()
    assert make_key()["expires_at"] == pytest.approx(now + 90 * DAY_S, abs=60)
    assert make_key(expires_in_days=1)["expires_at"] == pytest.approx(now + DAY_S, abs=60)
    body = {"user_id": department.trainer.id, "name": "long", "expires_in_days": 91}
    keys = f"/organization/projects/{department.id}/api_keys"
    with department.http() as trainer:
        assert code_of(trainer.post(keys, json=body)) == (400, "out_of_range", "expires_in_days")
    with http(api_with(key_max_days=91), department.trainer.key) as trainer:
        assert trainer.post(keys, json=body).is_success
    with department.http(department.admin) as admin:
        made = admin.post(f"/organization/projects/{department.id}/service_accounts", json={"name": "robot"}).json()
        robots = admin.get(f"{keys}/{made['api_key']['id']}").json()
    assert robots["expires_at"] == pytest.approx(now + 90 * DAY_S, abs=60)


def test_an_expired_key_is_as_unknown_as_any_and_a_used_one_says_when(
    department: Department, make_key: Callable[..., dict[str, Any]], api_url: str, administrator: Engine
) -> None:
    key = make_key()
    assert key["last_used_at"] is None
    path = f"/organization/projects/{department.id}/api_keys/{key['id']}"
    with http(api_url, key["value"]) as client, department.http(department.admin) as admin:
        assert client.get("/me").is_success
        assert admin.get(path).json()["last_used_at"] == pytest.approx(datetime.now(UTC).timestamp(), abs=60)
        with administrator.begin() as connection:
            ended = text("UPDATE api_keys SET expires_at = now() WHERE prefix = :prefix")
            assert connection.execute(ended, {"prefix": key["value"].split("_")[1]}).rowcount == 1
        unknown = httpx.get(f"{api_url}/me", headers={"Authorization": "Bearer tsk_nobody"})
        expired = client.get("/me")
    assert (expired.status_code, expired.content) == (401, unknown.content)


def test_a_revoked_key_ends_on_every_replica_within_five_seconds(
    department: Department, make_key: Callable[..., dict[str, Any]], api_url: str, api_with: Callable[..., str]
) -> None:
    key = make_key()
    with (
        http(api_url, key["value"]) as here,
        http(api_with(), key["value"]) as there,
        department.http(department.admin) as admin,
    ):
        assert (here.get("/me").status_code, there.get("/me").status_code) == (200, 200)
        revoked_at = time.monotonic()
        admin.delete(f"/organization/projects/{department.id}/api_keys/{key['id']}").raise_for_status()
        assert (here.get("/me").status_code, there.get("/me").status_code) == (401, 401)
        assert time.monotonic() - revoked_at < 5


def test_whoever_makes_a_robot_answers_for_it(department: Department, api_url: str) -> None:
    with department.http(department.admin) as admin:
        accounts = f"/organization/projects/{department.id}/service_accounts"
        made = admin.post(accounts, json={"name": "pipeline", "roles": ["trainer"]}).raise_for_status().json()
        assert made["answered_for_by"] == department.admin.id
        assert admin.get("/me").json()["human"] == department.admin.id
    with http(api_url, made["api_key"]["value"]) as robot:
        me = robot.get("/me").json()
    assert (me["id"], me["human"]) == (made["id"], department.admin.id)
    assert me["permissions"] == sorted(permissions_of([Role.TRAINER]))


def test_the_platforms_first_keys_have_nobody_behind_them(api_url: str, operator_key: str, auditor_key: str) -> None:
    for key in (operator_key, auditor_key):
        with http(api_url, key) as client:
            assert client.get("/me").json()["human"] is None
