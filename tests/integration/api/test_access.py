"""Who may call what, and that a refusal is written down."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from domain.keys import new_key
from tests.integration.conftest import Department, http, official_client, rows


def said(answer: httpx.Response) -> tuple[int, bytes, str | None]:
    return answer.status_code, answer.content, answer.headers.get("www-authenticate")


def test_every_kind_of_bad_key_has_one_answer(department: Department, api_url: str) -> None:
    with department.http(department.admin) as admin:
        keys = f"/organization/projects/{department.id}/api_keys"
        made = admin.post(keys, json={"user_id": department.trainer.id, "name": "lost"}).raise_for_status().json()
        with http(api_url, made["value"]) as client:
            assert client.get("/me").json()["key_id"] == made["id"]
        admin.delete(f"{keys}/{made['id']}").raise_for_status()
    valid = department.trainer.key
    bad = [None, "sk-1234", made["value"], new_key().secret, valid[:-1] + ("0" if valid[-1] != "0" else "1"), "é" * 70]
    answers = set()
    for key in bad:
        headers = {} if key is None else {"Authorization": f"Bearer {key}".encode()}
        answers.add(said(httpx.get(f"{api_url}/me", headers=headers)))
    answers.add(said(httpx.get(f"{api_url}/me", headers={"Authorization": f"Basic {valid}"})))
    ((status, _body, challenge),) = answers
    assert (status, challenge) == (401, "Bearer")


def test_no_route_answers_without_a_key(api_url: str) -> None:
    document = httpx.get(api_url.removesuffix("/v1") + "/openapi.json").json()
    for path, operations in document["paths"].items():
        if path.startswith("/v1/"):
            for method in operations:
                answer = httpx.request(method, api_url + path.removeprefix("/v1"))
                assert answer.status_code == 401, (method, path)


def test_the_key_of_a_removed_person_and_of_a_deleted_robot_ends(department: Department, api_url: str) -> None:
    person = department.member("viewer")
    base = f"/organization/projects/{department.id}"
    with department.http(department.admin) as admin:
        robot = admin.post(f"{base}/service_accounts", json={"name": "robot"}).json()
        for key, path in (
            (person.key, f"users/{person.id}"),
            (robot["api_key"]["value"], f"service_accounts/{robot['id']}"),
        ):
            with http(api_url, key) as client:
                assert client.get("/me").is_success
                admin.delete(f"{base}/{path}").raise_for_status()
                assert client.get("/me").status_code == 401


ROLES = [
    # A role, what it asks for, and the status.
    ("viewer", "GET", "/fine_tuning/jobs", 200),
    ("viewer", "POST", "/fine_tuning/jobs", 403),
    ("viewer", "GET", "/organization/projects/{project}/api_keys", 403),
    ("viewer", "GET", "/organization/audit_logs", 403),
    ("trainer", "GET", "/organization/audit_logs", 200),
    ("trainer", "GET", "/organization/projects/{project}/users", 403),
    ("trainer", "GET", "/organization/projects", 200),
    ("data_steward", "POST", "/fine_tuning/jobs", 403),
    ("data_steward", "GET", "/files", 200),
    ("approver", "GET", "/adapters", 200),
    ("approver", "POST", "/fine_tuning/jobs", 403),
    ("inference", "GET", "/adapters", 200),
    ("inference", "GET", "/files", 403),
    ("inference", "GET", "/fine_tuning/jobs", 403),
    ("department_admin", "POST", "/fine_tuning/jobs", 403),
    ("department_admin", "GET", "/organization/projects/{project}/users", 200),
    ("department_admin", "POST", "/base_models", 403),
]


@pytest.fixture(scope="module")
def people(department: Department) -> dict[str, str]:
    return {role: department.member(role).key for role in sorted({role for role, *_ in ROLES})}


@pytest.mark.parametrize(("role", "method", "path", "status"), ROLES)
def test_a_role_may_what_the_table_says(
    *, department: Department, people: dict[str, str], role: str, method: str, path: str, status: int
) -> None:
    body = {"model": "x", "training_file": "x"} if "jobs" in path else {"id": "x", "source": "x", "files": [
        {"path": "x", "bytes": 1, "digest": "sha256:" + "0" * 64}]}  # fmt: skip
    options = {"json": body} if method == "POST" else {}
    with http(department.api_url, people[role]) as client:
        answer = client.request(method, path.format(project=department.id), **options)
    assert answer.status_code == status, answer.text
    if status == 403:
        assert answer.json()["error"]["type"] == "permission_error"


def test_a_denial_is_told_to_the_auditor_with_its_route(
    department: Department, auditor_key: str, people: dict[str, str]
) -> None:
    with http(department.api_url, people["viewer"]) as client:
        viewer = client.get("/me").json()
        refused = client.post("/fine_tuning/jobs", json={"model": "x", "training_file": "x"})
    with http(department.api_url, auditor_key) as auditor:
        query = {"event_types[]": "access.denied", "outcomes[]": "denied", "actor_ids[]": viewer["id"], "limit": 1}
        (event,) = auditor.get("/organization/audit_logs", params=query).json()["data"]
    assert event["request_id"] == refused.headers["x-request-id"]
    assert event["project"]["id"] == department.id
    assert (event["reason"], event["outcome"]) == ("permission_denied", "denied")
    assert event["details"] == {"route": "/v1/fine_tuning/jobs", "method": "POST"}


def test_a_client_in_a_loop_does_not_fill_the_audit_trail(department: Department, contents: Callable[[], Any]) -> None:
    viewer = department.member("viewer")
    before = contents().events["access.denied"]
    with department.http(viewer) as client:
        for _ in range(40):
            assert client.get("/organization/audit_logs").status_code == 403
    assert 20 <= contents().events["access.denied"] - before < 40


def test_a_platform_key_names_its_department_or_is_asked_to(
    department: Department, api_url: str, operator_key: str
) -> None:
    with http(api_url, operator_key) as operator:
        asked = operator.get("/fine_tuning/jobs")
        assert (asked.status_code, asked.json()["error"]["code"]) == (400, "department_required")
        assert operator.get("/me").json()["department"] is None
    with http(api_url, operator_key, openai_project=department.id) as operator:
        assert operator.get("/fine_tuning/jobs").is_success
        assert operator.get("/files").status_code == 403
        assert operator.get("/me").json()["department"] == department.id
    for unknown in ("proj_" + "0" * 32, "x", "proj_é"):
        headers = {"Authorization": f"Bearer {operator_key}", "OpenAI-Project": unknown.encode()}
        answer = httpx.get(f"{api_url}/fine_tuning/jobs", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_the_operator_names_the_first_admin_and_no_more(
    make_department: Callable[[], Department], api_url: str, operator_key: str
) -> None:
    department = make_department()
    base = f"/organization/projects/{department.id}"
    with http(api_url, operator_key) as operator:
        other = operator.post("/organization/users", json={"email": "second@example.org", "name": "Second"}).json()[
            "id"
        ]
        for path, body in (
            ("users", {"user_id": other, "role": "owner"}),
            ("users", {"user_id": other, "role": "member"}),
            ("api_keys", {"user_id": department.admin.id, "name": "more"}),
        ):
            assert operator.post(f"{base}/{path}", json=body).status_code == 403


def test_nobody_changes_their_own_roles_and_the_last_admin_stays(department: Department) -> None:
    base = f"/organization/projects/{department.id}/users"
    with department.http(department.admin) as admin:
        own = admin.post(f"{base}/{department.admin.id}", json={"roles": ["department_admin", "trainer"]})
        assert (own.status_code, own.json()["error"]["code"]) == (403, "separation_of_duties")
        assert admin.delete(f"{base}/{department.admin.id}").status_code == 403
        mixed = admin.post(f"{base}/{department.trainer.id}", json={"roles": ["approver", "trainer"]})
        assert (mixed.status_code, mixed.json()["error"]["code"]) == (403, "separation_of_duties")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"role": "king"}, "unknown_role"),
        ({"role": "operator"}, "unknown_role"),
        ({"roles": []}, "unknown_role"),
        ({}, "missing_field"),
        ({"role": "member", "roles": ["viewer"]}, "conflicting_fields"),
        ({"roles": ["viewer"] * 9}, "out_of_range"),
    ],
)
def test_roles_that_do_not_exist_are_refused(department: Department, body: dict[str, Any], code: str) -> None:
    with department.http(department.admin) as admin:
        answer = admin.post(f"/organization/projects/{department.id}/users/{department.trainer.id}", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_the_quota_of_unfinished_jobs_is_429_and_is_recorded(
    department: Department, base_model: str, unchanged: Callable[..., Any], api_with: Callable[..., str]
) -> None:
    file = department.upload(rows(4))
    url = api_with(max_unfinished_jobs=1)
    client = official_client(url, department.trainer.key)
    job = client.fine_tuning.jobs.create(model=base_model, training_file=file)
    with unchanged(access_denied=1), pytest.raises(openai.RateLimitError) as refused:
        client.fine_tuning.jobs.create(model=base_model, training_file=file)
    assert (refused.value.code, refused.value.type) == ("quota_exceeded", "rate_limit_error")
    client.fine_tuning.jobs.cancel(job.id)


def test_a_department_sees_itself_in_the_list_and_nobody_else(
    department: Department, make_department: Callable[[], Department], operator_key: str, api_url: str
) -> None:
    other = make_department()
    with department.http() as trainer:
        assert [found["id"] for found in trainer.get("/organization/projects").json()["data"]] == [department.id]
    with http(api_url, operator_key) as operator:
        listed = {found["id"] for found in operator.get("/organization/projects").json()["data"]}
    assert listed >= {department.id, other.id}


def test_an_admin_adds_by_email_who_is_in_the_organisation(
    department: Department, operator_key: str, api_url: str
) -> None:
    people = f"/organization/projects/{department.id}/users"
    with http(api_url, operator_key) as operator:
        known = operator.post("/organization/users", json={"email": "Known@acme.test", "name": "Known"}).json()
    with department.http(department.admin) as admin:
        added = admin.post(people, json={"email": "known@ACME.test", "role": "member"}).raise_for_status().json()
        assert (added["id"], added["email"]) == (known["id"], "known@acme.test")
        assert admin.post(people, json={"email": "nobody@acme.test", "role": "member"}).status_code == 404
        for wrong in ({}, {"email": "known@acme.test", "user_id": known["id"]}):
            refused = admin.post(people, json={"role": "member"} | wrong)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "conflicting_fields")
    with department.http() as trainer:
        assert trainer.post(people, json={"email": "known@acme.test", "role": "member"}).status_code == 403


def test_the_operator_makes_an_admins_key_only_while_no_admin_has_one(
    make_department: Callable[[], Department], operator_key: str, api_url: str
) -> None:
    department = make_department()
    keys = f"/organization/projects/{department.id}/api_keys"
    of_admin = {"user_id": department.admin.id, "name": "again"}
    with http(api_url, operator_key) as operator, department.http(department.admin) as admin:
        assert operator.post(keys, json=of_admin).status_code == 403
        own = admin.get("/me").json()["key_id"]
        admin.delete(f"{keys}/{own}").raise_for_status()
        assert admin.get("/me").status_code == 401

        trainer = {"user_id": department.trainer.id, "name": "again"}
        assert operator.post(keys, json=trainer).status_code == 403
        again = operator.post(keys, json=of_admin).raise_for_status().json()["value"]
        assert operator.post(keys, json=of_admin).status_code == 403
    with http(api_url, again) as admin:
        assert admin.get(keys).is_success


def test_two_admins_who_remove_each_other_leave_one(make_department: Callable[[], Department]) -> None:
    for _ in range(6):
        department = make_department()
        people = f"/organization/projects/{department.id}/users"
        second = department.member("department_admin")
        with department.http(department.admin) as one, department.http(second) as other, ThreadPoolExecutor(2) as both:
            removing = both.submit(one.delete, f"{people}/{second.id}")
            removed = both.submit(other.delete, f"{people}/{department.admin.id}")
            assert 200 in {removing.result().status_code, removed.result().status_code}
            codes = {one.get("/me").status_code, other.get("/me").status_code}
            assert codes == {200, 401}


def test_a_removed_person_is_nobody_here_and_gets_no_key(department: Department) -> None:
    person = department.member("viewer")
    base = f"/organization/projects/{department.id}"
    with department.http(department.admin) as admin:
        admin.delete(f"{base}/users/{person.id}").raise_for_status()
        for call in (
            admin.get(f"{base}/users/{person.id}"),
            admin.delete(f"{base}/users/{person.id}"),
            admin.post(f"{base}/api_keys", json={"user_id": person.id, "name": "late"}),
            admin.get(f"/organization/users/{person.id}"),
        ):
            assert call.status_code == 404


def test_reaching_for_another_department_is_refused_as_missing_and_written_down(
    department: Department, make_department: Callable[[], Department], denials: Callable[[str], int]
) -> None:
    other, before = make_department(), denials("foreign_department")
    with department.http() as trainer:
        assert trainer.get(f"/organization/projects/{other.id}").status_code == 404
        assert trainer.get("/files", headers={"OpenAI-Project": other.id}).status_code == 404
    assert denials("foreign_department") == before + 2


def test_a_robot_decides_nothing(department: Department) -> None:
    accounts = f"/organization/projects/{department.id}/service_accounts"
    with department.http(department.admin) as admin:
        for role in ("approver", "department_admin"):
            assert admin.post(accounts, json={"name": "robot", "roles": [role]}).status_code == 403


@pytest.fixture
def denials(auditor_key: str, api_url: str) -> Callable[[str], int]:
    def counted(reason: str) -> int:
        with http(api_url, auditor_key) as auditor:
            found = auditor.get("/organization/audit_logs", params={"event_types[]": "access.denied", "limit": 100})
            return sum(event["reason"] == reason for event in found.json()["data"])

    return counted


def test_the_trail_keeps_no_text_of_its_readers(department: Department, auditor_key: str, api_url: str) -> None:
    with department.http() as trainer:
        asked = {"event_types[]": ["Jane Doe <jane@acme.test>", "file.created"]}
        assert trainer.get("/organization/audit_logs", params=asked).is_success
    with http(api_url, auditor_key) as auditor:
        queried = {"event_types[]": "audit.queried", "limit": 1}
        (event,) = auditor.get("/organization/audit_logs", params=queried).json()["data"]
    assert event["details"]["actions"] == ["file.created"]


def test_own_acts_page_backwards_past_what_others_did(make_department: Callable[[], Department]) -> None:
    department = make_department()
    department.upload(rows(2, salt=1))
    with department.http() as trainer, department.http(department.admin) as admin:
        oldest = trainer.get("/organization/audit_logs", params={"event_types[]": "file.created"}).json()["last_id"]
        for _ in range(6):
            admin.get("/organization/audit_logs").raise_for_status()
        for salt in (2, 3, 4):
            department.upload(rows(2, salt=salt))
        asked = {"event_types[]": "file.created", "before": oldest, "limit": 2}
        page = trainer.get("/organization/audit_logs", params=asked).json()
        # Three uploads, and two readings of the trail; the admin's six take no place of theirs.
        unfiltered = trainer.get("/organization/audit_logs", params={"before": oldest, "limit": 5}).json()
    assert (len(page["data"]), page["has_more"]) == (2, True)
    assert (len(unfiltered["data"]), unfiltered["has_more"]) == (5, False)
    assert {event["actor"]["api_key"]["user"]["id"] for event in unfiltered["data"]} == {department.trainer.id}


def test_who_sees_metadata_sees_nothing_that_was_written_to_a_job(
    department: Department, base_model: str, operator_key: str, auditor_key: str
) -> None:
    client = department.client()
    job = client.fine_tuning.jobs.create(
        model=base_model, training_file=department.upload(rows(4, salt=11)), metadata={"about": "a secret"}
    )
    assert client.fine_tuning.jobs.retrieve(job.id).metadata == {"about": "a secret"}
    for key in (operator_key, auditor_key):
        with http(department.api_url, key, openai_project=department.id) as platform:
            assert platform.get(f"/fine_tuning/jobs/{job.id}").json()["metadata"] == {}
            listed = platform.get("/fine_tuning/jobs")
            assert job.id in listed.text
            assert "a secret" not in listed.text
            # Nor by asking for it.
            assert platform.get("/fine_tuning/jobs", params={"metadata[about]": "a secret"}).status_code == 403
    client.fine_tuning.jobs.cancel(job.id)
