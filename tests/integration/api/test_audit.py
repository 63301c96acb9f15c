"""The audit trail through the official client: an auditor sees all, an admin the department, others their own acts."""

from collections.abc import Callable

import httpx
import openai
import pytest

from tests.integration.api.conftest import Finished
from tests.integration.conftest import http, official_client


@pytest.fixture(scope="module")
def finished(make_finished: Callable[[str], Finished]) -> Finished:
    return make_finished("told")


@pytest.fixture(scope="module")
def auditor(api_url: str, auditor_key: str) -> openai.OpenAI:
    return official_client(api_url, auditor_key)


def test_the_client_administers_a_department(
    *, finished: Finished, api_url: str, operator_key: str, auditor: openai.OpenAI
) -> None:
    operator = official_client(api_url, operator_key)
    project = operator.admin.organization.projects.create(name="through-the-client")
    assert (project.object, project.status) == ("organization.project", "active")
    assert operator.admin.organization.projects.retrieve(project.id).name == "through-the-client"
    assert {found.id for found in operator.admin.organization.projects.list()} >= {project.id, finished.department.id}
    with pytest.raises(openai.ConflictError) as taken:
        operator.admin.organization.projects.create(name="through-the-client")
    assert taken.value.code == "name_taken"

    department = finished.department
    admin = official_client(api_url, department.admin.key)
    projects = admin.admin.organization.projects
    made = projects.service_accounts.create(department.id, name="nightly")
    assert made.api_key
    robot = official_client(api_url, made.api_key.value)
    assert robot.fine_tuning.jobs.retrieve(finished.job).status == "succeeded"
    assert [account.name for account in projects.service_accounts.list(department.id)] == ["nightly"]
    keys = {key.id: key for key in projects.api_keys.list(department.id)}
    key = keys[made.api_key.id]
    assert key.owner.service_account
    assert (key.owner.service_account.name, key.redacted_value) == ("nightly", made.api_key.value[:13] + "…")
    assert made.api_key.value not in projects.api_keys.retrieve(made.api_key.id, project_id=department.id).to_json()
    assert projects.api_keys.delete(made.api_key.id, project_id=department.id).deleted
    with pytest.raises(openai.AuthenticationError):
        robot.models.list()
    assert projects.service_accounts.delete(made.id, project_id=department.id).deleted
    members = {user.id: user.role for user in projects.users.list(department.id)}
    assert members == {department.admin.id: "owner", department.trainer.id: "member"}
    told = auditor.admin.organization.audit_logs.list(resource_ids=[made.id, made.api_key.id], limit=10)
    assert [event.type for event in told.data] == [
        "service_account.deleted", "key.revoked", "key.created", "service_account.created",
    ]  # fmt: skip
    actor = told.data[0].actor
    assert actor
    assert actor.api_key
    assert actor.api_key.user
    assert actor.api_key.user.id == department.admin.id


def test_the_story_of_a_job_is_one_question(finished: Finished, auditor: openai.OpenAI) -> None:
    logs = auditor.admin.organization.audit_logs
    story = [event.type for event in logs.list(resource_ids=[finished.job], limit=1)]
    assert story[0] == "job.succeeded"
    assert story[-1] == "job.submitted"
    assert "adapter.version.registered" in story
    assert [e.type for e in logs.list(resource_ids=[finished.version], event_types=["alias.moved"])] == ["alias.moved"]  # type: ignore[list-item]
    everything = list(logs.list(project_ids=[finished.department.id], limit=7))
    assert len({event.id for event in everything}) == len(everything) > 14
    before = logs.list(project_ids=[finished.department.id], before=everything[5].id, limit=3)
    assert [event.id for event in before.data] == [event.id for event in everything[2:5]]
    assert before.has_more
    assert list(logs.list(resource_ids=["no id of ours"])) == []


def test_times_are_compared_in_whole_seconds(finished: Finished, auditor: openai.OpenAI) -> None:
    logs = auditor.admin.organization.audit_logs
    (event,) = logs.list(resource_ids=[finished.job], event_types=["job.submitted"])  # type: ignore[list-item]
    second = event.effective_at

    def found(**bounds: int) -> bool:
        return bool(logs.list(resource_ids=[finished.job], event_types=["job.submitted"], effective_at=bounds).data)  # type: ignore[arg-type,list-item]

    assert found(gte=second, lte=second)
    assert found(gt=second - 1, lt=second + 1)
    assert not found(gt=second)
    assert not found(lt=second)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "effective_at[gt]=-1", "effective_at[gt]=99999999999999"])
def test_a_wrong_bound_is_refused(api_url: str, auditor_key: str, query: str) -> None:
    with http(api_url, auditor_key) as client:
        answer = client.get(f"/organization/audit_logs?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "out_of_range")


def test_who_asks_decides_what_is_seen_and_asking_is_recorded(
    finished: Finished, make_finished: Callable[[str], Finished]
) -> None:
    make_finished("elsewhere")
    department = finished.department

    def events(client: httpx.Client) -> list[dict[str, object]]:
        found: list[dict[str, object]] = client.get("/organization/audit_logs?limit=100").json()["data"]
        return found

    with department.http(department.admin) as admin, department.http() as trainer:
        assert {event["project"]["id"] for event in events(admin)} == {department.id}  # type: ignore[index]
        own = {event["actor"]["api_key"]["user"]["id"] for event in events(trainer)}  # type: ignore[index]
        assert own == {department.trainer.id}
        assert events(admin)[0]["type"] == "audit.queried"
