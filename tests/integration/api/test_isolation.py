"""Another department's id answers as one that nobody has, and whoever names it changes nothing.

`test_access_matrix` asks every route as every role, and takes each request back; here they stay.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import uuid4

import httpx
import pytest

from domain.ids import IdKind, public_id
from tests.integration.api.conftest import Finished
from tests.integration.conftest import http, rows

# They say everything by their path.
BODILESS = ("/cancel", "/pause", "/resume", "/open", "/close", "/approve", "/rollback", "/withdraw")
QUERIES = {"GET /v1/adapters/{name}/compare": {"from": "1", "to": "1"}}
BODIES: dict[str, dict[str, object]] = {
    "POST /v1/adapters/{name}/versions/{reference}": {"labels": {}},
    "POST /v1/adapters/{name}/versions/{reference}/revoke": {"reason": "x"},
    "POST /v1/adapters/{name}/versions/{reference}/retire": {"reason": "x"},
    "PUT /v1/adapters/{name}/aliases/{alias}": {"version": 1},
    "POST /v1/approvals/{approval_id}/comments": {"comment": "x"},
    "POST /v1/organization/projects/{project_id}": {"default_data_class": "restricted"},
    "POST /v1/organization/projects/{project_id}/users/{user_id}": {"role": "member"},
    "POST /v1/organization/projects/{project_id}/service_accounts": {"name": "robot"},
    "POST /v1/organization/projects/{project_id}/limits": {"max_running_jobs": 1},
    "POST /v1/organization/projects/{project_id}/spend_limit": {
        "currency": "USD",
        "interval": "month",
        "threshold_amount": 1,
    },
    "POST /v1/files/{file_id}/grants": {"user_id": public_id(IdKind.USER, uuid4())},
    "POST /v1/files/{file_id}/erasures": {"reason": "a test"},
    "POST /v1/erasures/{erasure_id}/confirm": {"digest": "sha256:" + "0" * 64},
    "POST /v1/webhook_endpoints/{endpoint_id}": {"name": "other"},
    "POST /v1/webhook_endpoints/{endpoint_id}/rotate_secret": {},
    "POST /v1/webhook_endpoints/{endpoint_id}/test": {"event_type": "fine_tuning.job.failed"},
}


@dataclass(frozen=True)
class Side:
    """Ids by the name of their path parameter."""

    ids: dict[str, str]

    def path(self, template: str, **chosen: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: (self.ids | chosen)[match[1]], template).removeprefix("/v1")


@dataclass(frozen=True)
class Neighbours:
    ours: Finished
    caller: httpx.Client
    theirs: Side
    nobodys: Side
    finished: Finished


def ids_of(finished: Finished) -> dict[str, str]:
    department = finished.department
    with department.http(department.admin) as admin:
        base = f"/organization/projects/{department.id}"
        account = admin.post(f"{base}/service_accounts", json={"name": "robot"}).raise_for_status().json()
        # Nothing is sent to it: no deliverer runs.
        hook = {"name": "ours", "url": "https://93.184.215.14/", "event_types": ["fine_tuning.job.failed"]}
        endpoint = admin.post("/webhook_endpoints", json=hook).raise_for_status().json()
    return {
        "file_id": finished.file, "job_id": finished.job, "estimate_id": estimate_of(finished),
        "name": finished.adapter, "reference": "1", "alias": "staging", "approval_id": governed_in(finished),
        "object_id": finished.version, "model": finished.model, "project_id": department.id,
        "user_id": department.trainer.id, "service_account_id": account["id"], "key_id": account["api_key"]["id"],
        "endpoint_id": endpoint["id"],
    }  # fmt: skip


def governed_in(finished: Finished) -> str:
    """The id of a request to approve the version, for which an alias stands."""
    with finished.department.http() as client:
        asked = client.post("/approvals", json={"adapter": finished.adapter, "version": "1"}).raise_for_status().json()
        path, headers = f"/adapters/{finished.adapter}/aliases/staging", {"If-None-Match": "*"}
        client.put(path, json={"version": 1}, headers=headers).raise_for_status()
        return str(asked["id"])


def estimate_of(finished: Finished) -> str:
    """The id of an estimate that waits: of rows that nobody has had counted."""
    with finished.department.http() as client:
        body = {"model": "tiny", "training_file": finished.department.upload(rows(3, salt=7))}
        asked: str = client.post("/estimates", json=body).raise_for_status().json()["id"]
        return asked


def invented() -> dict[str, str]:
    kinds = {
        "file_id": IdKind.FILE, "job_id": IdKind.JOB, "estimate_id": IdKind.ESTIMATE,
        "object_id": IdKind.ADAPTER_VERSION,
        "project_id": IdKind.DEPARTMENT, "user_id": IdKind.USER, "service_account_id": IdKind.SERVICE_ACCOUNT,
        "key_id": IdKind.API_KEY, "endpoint_id": IdKind.WEBHOOK_ENDPOINT, "approval_id": IdKind.APPROVAL,
    }  # fmt: skip
    made = {name: public_id(kind, uuid4()) for name, kind in kinds.items()}
    made |= {"name": "nobody", "reference": "1", "alias": "staging"}
    return made | {"model": f"ft:tiny:acme:nobody:{uuid4().hex}"}


@pytest.fixture(scope="module")
def neighbours(make_finished: Callable[[str], Finished], api_url: str) -> Iterator[Neighbours]:
    ours, finished = make_finished("ours"), make_finished("theirs")
    strongest = ours.department.member("department_admin", "trainer", "data_steward", "inference")
    with http(api_url, strongest.key) as caller:
        yield Neighbours(ours, caller, Side(ids_of(finished)), Side(invented()), finished)


@pytest.fixture(scope="module")
def routes(neighbours: Neighbours, api_url: str) -> list[str]:
    """Those that the caller may use, and that name by their path what the neighbour has."""
    document = httpx.get(api_url.removesuffix("/v1") + "/openapi.json", timeout=60).raise_for_status().json()
    allowed = set(neighbours.caller.get("/me").json()["permissions"])
    return [
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if (named := re.findall(r"\{(\w+)\}", path)) and set(named) <= set(neighbours.theirs.ids)
        if allowed & set(operation.get("x-permissions", ()))
        # The name of an adapter that it makes where there is none: the caller's own, whoever else has one of that name.
        and path != "/v1/adapters/{name}/imports"
    ]


def said(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    headers = {name: value for name, value in answer.headers.items() if name not in {"x-request-id", "date"}}
    return answer.status_code, answer.content, headers


def test_another_departments_id_in_a_path_answers_as_nobodys(neighbours: Neighbours, routes: list[str]) -> None:
    ours = neighbours.ours.department.id
    assert len(routes) >= 28
    for route in routes:
        method, _, template = route.partition(" ")
        body = BODIES.get(route, {"user_id": neighbours.theirs.ids["user_id"], "name": "x"})
        if template.endswith("/users"):
            body = {"user_id": body["user_id"], "role": "member"}
        options = {} if method not in {"POST", "PUT"} or template.endswith(BODILESS) else {"json": body}
        options |= {"params": QUERIES.get(route, {})}
        variants: list[dict[str, str]] = [{}]
        if "{project_id}" in template and template.count("{") > 1:
            variants.append({"project_id": ours})
        for chosen in variants:
            theirs = neighbours.caller.request(method, neighbours.theirs.path(template, **chosen), **options)
            nobodys = neighbours.caller.request(method, neighbours.nobodys.path(template, **chosen), **options)
            assert said(theirs) == said(nobodys), route
            assert theirs.status_code == 404, (route, theirs.text)


def test_nothing_of_theirs_was_changed_by_all_that(neighbours: Neighbours) -> None:
    with neighbours.finished.department.http() as them:
        ids = neighbours.theirs.ids
        assert them.get(f"/files/{ids['file_id']}").is_success
        assert them.get(f"/fine_tuning/jobs/{ids['job_id']}").json()["status"] == "succeeded"
        assert them.get(f"/approvals/{ids['approval_id']}").json()["state"] == "pending"
        assert them.get(f"/adapters/{ids['name']}").json()["aliases"] == {"latest": 1, "staging": 1}
        assert them.get(f"/adapters/{ids['name']}/versions/1").json()["state"] == "candidate"
    with neighbours.finished.department.http(neighbours.finished.department.admin) as admin:
        base = f"/organization/projects/{ids['project_id']}"
        for path in (f"users/{ids['user_id']}", f"service_accounts/{ids['service_account_id']}",
                     f"api_keys/{ids['key_id']}"):  # fmt: skip
            assert admin.get(f"{base}/{path}").is_success


@pytest.mark.parametrize("param", ["training_file", "validation_file", "evaluation_file"])
def test_another_departments_file_in_an_estimate_is_as_unknown_as_nobodys(neighbours: Neighbours, param: str) -> None:
    told = []
    for side in (neighbours.theirs, neighbours.nobodys):
        body = {"model": "tiny", "training_file": neighbours.ours.file} | {param: side.ids["file_id"]}
        told.append(neighbours.caller.post("/estimates", json=body).json() | {"created_at": 0})
    assert told[0] == told[1]
    assert [(reason["code"], reason["param"]) for reason in told[0]["reasons"]] == [("unknown_file", param)]


@pytest.mark.parametrize("param", ["training_file", "validation_file", "evaluation_file"])
def test_another_departments_file_in_a_job_answers_as_nobodys(neighbours: Neighbours, param: str) -> None:
    answers = []
    for side in (neighbours.theirs, neighbours.nobodys):
        body = {"model": "tiny", "training_file": neighbours.ours.file} | {param: side.ids["file_id"]}
        answers.append(neighbours.caller.post("/fine_tuning/jobs", json=body))
    assert said(answers[0]) == said(answers[1])
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (400, "unknown_file")


def test_another_departments_person_gets_no_key_here(neighbours: Neighbours) -> None:
    path = f"/organization/projects/{neighbours.ours.department.id}/api_keys"
    answers = [
        neighbours.caller.post(path, json={"user_id": side.ids["user_id"], "name": "x"})
        for side in (neighbours.theirs, neighbours.nobodys)
    ]
    assert said(answers[0]) == said(answers[1])
    assert answers[0].status_code == 404


def test_another_departments_cursor_answers_as_nobodys(neighbours: Neighbours) -> None:
    job, ours = neighbours.finished.job, f"/fine_tuning/jobs/{neighbours.ours.job}"
    with neighbours.finished.department.http() as them:
        cursors = {
            "/files": neighbours.finished.file,
            "/fine_tuning/jobs": job,
            "/adapters": them.get("/adapters").json()["last_id"],
            f"{ours}/events": them.get(f"/fine_tuning/jobs/{job}/events").json()["last_id"],
            f"{ours}/checkpoints": (them.get(f"/fine_tuning/jobs/{job}/checkpoints").json()["last_id"]),
            f"/adapters/{neighbours.ours.adapter}/versions": neighbours.finished.version,
            "/approvals": neighbours.theirs.ids["approval_id"],
            f"/adapters/{neighbours.ours.adapter}/aliases/latest/history": them.get(
                f"/adapters/{neighbours.finished.adapter}/aliases/latest/history"
            ).json()["last_id"],
        }
    for path, theirs in cursors.items():
        prefix = re.match(r"[a-z]+[-_]", theirs)
        assert prefix
        nobodys = prefix[0] + uuid4().hex
        answers = [neighbours.caller.get(path, params={"after": cursor}) for cursor in (theirs, nobodys)]
        assert said(answers[0]) == said(answers[1]), path
        assert answers[0].status_code == 404, path


def test_lists_and_filters_show_nothing_of_theirs(neighbours: Neighbours) -> None:
    theirs = {value for name, value in neighbours.theirs.ids.items() if name not in {"reference", "name", "alias"}}
    for path in ("/approvals", "/approvals?waiting_for=me",
                 "/files", "/fine_tuning/jobs", "/adapters", "/models", "/organization/users",
                 f"/organization/projects/{neighbours.ours.department.id}/users",
                 f"/organization/projects/{neighbours.ours.department.id}/api_keys",
                 f"/organization/projects/{neighbours.ours.department.id}/service_accounts",
                 "/organization/audit_logs?limit=100", "/usage?group_by[]=department&group_by[]=user&group_by[]=job",
                 f"/organization/costs?start_time={int(time.time())}&group_by[]=project_id",
                 f"/organization/costs?start_time={int(time.time())}&group_by[]=user_id"):  # fmt: skip
        answer = neighbours.caller.get(path)
        assert answer.is_success, path
        assert not [found for found in theirs if found in answer.text], path
    for name in ("project_ids", "actor_ids", "resource_ids"):
        for value in theirs:
            found = neighbours.caller.get("/organization/audit_logs", params={f"{name}[]": value})
            assert found.json()["data"] == [], (name, value)


def test_a_departments_key_cannot_choose_another_department(neighbours: Neighbours, api_url: str) -> None:
    key = neighbours.ours.department.trainer.key
    answers = []
    for side in (neighbours.theirs, neighbours.nobodys):
        with http(api_url, key, openai_project=side.ids["project_id"]) as client:
            answers.append(client.get("/files"))
    assert said(answers[0]) == said(answers[1])
    assert answers[0].status_code == 404


def test_equal_bytes_of_two_departments_are_two_files(neighbours: Neighbours) -> None:
    ours = neighbours.ours.department.upload(rows(8, salt=99))
    theirs = neighbours.finished.department.upload(rows(8, salt=99))
    assert neighbours.ours.department.client().files.delete(ours).deleted
    assert neighbours.finished.department.client().files.content(theirs).read() == rows(8, salt=99)


def test_another_departments_version_and_evaluation_in_a_body_answer_as_nobodys(neighbours: Neighbours) -> None:
    adapter = neighbours.ours.adapter
    with neighbours.finished.department.http() as them:
        version = them.get(f"/adapters/{neighbours.finished.adapter}/versions/1").json()
    evaluations = (version["evaluation"][0]["id"], public_id(IdKind.EVALUATION, uuid4()))
    asked = [
        neighbours.caller.post("/approvals", json={"adapter": adapter, "version": "1", "evaluation_ids": [each]})
        for each in evaluations
    ]
    assert said(asked[0]) == said(asked[1])
    assert (asked[0].status_code, asked[0].json()["error"]["code"]) == (400, "unknown_evaluation")
    versions = (neighbours.finished.version, public_id(IdKind.ADAPTER_VERSION, uuid4()))
    moved = [
        neighbours.caller.put(
            f"/adapters/{adapter}/aliases/new", json={"version": each}, headers={"If-None-Match": "*"}
        )
        for each in versions
    ]
    assert said(moved[0]) == said(moved[1])
    assert moved[0].status_code == 404
