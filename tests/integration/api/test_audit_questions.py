"""Saved questions, exports and filters of the audit trail: what they answer, to whom, and that asking is recorded."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from domain.audit import AuditEvent
from evidence.export import ExportInvalid, ExportTrail
from evidence.verify import verify
from runtime.wiring import Runtime
from services import sealing
from services.audit_queries import QUERIES
from tests.integration.api.conftest import Finished
from tests.integration.conftest import Database, http, official_client
from workers.exports import ExportWriter


@pytest.fixture(scope="module")
def finished(make_finished: Callable[[str], Finished]) -> Finished:
    made = make_finished("asked")
    with made.department.http() as trainer:
        trainer.get(f"/adapters/{made.adapter}/versions/1/content").raise_for_status()
        assert trainer.get(f"/files/{made.file}/content").is_success
        assert trainer.post("/organization/projects", json={"name": "mine"}).status_code == 403
    return made


@pytest.fixture(scope="module")
def other(make_finished: Callable[[str], Finished]) -> Finished:
    return make_finished("elsewhere")


@pytest.fixture(scope="module")
def auditor(api_url: str, auditor_key: str) -> Iterator[httpx.Client]:
    with http(api_url, auditor_key) as client:
        yield client


def asked(client: httpx.Client, name: str, **told: Any) -> list[dict[str, Any]]:
    headers = {"OpenAI-Project": told.pop("department")} if "department" in told else {}
    answer = client.get(f"/audit/queries/{name}", params=told, headers=headers)
    assert answer.is_success, (name, answer.text)
    said = answer.json()
    return [dict(zip(said["columns"], row, strict=True)) for row in said["rows"]]


def test_every_question_has_an_answer(finished: Finished, auditor: httpx.Client) -> None:
    department = finished.department
    with department.http() as trainer:
        adapter = trainer.get(f"/adapters/{finished.adapter}").json()["id"]
    version = trainer_version = finished.version
    (trained,) = asked(auditor, "trained_on_file", file=finished.file)
    assert (trained["job"], trained["department"]) == (finished.job, department.id)
    downloads = asked(auditor, "downloads_of_version", version=version)
    assert {row["action"] for row in downloads} >= {"adapter.version.downloaded"}
    (moved,) = asked(auditor, "alias_moves", adapter=adapter)
    assert (moved["alias"], moved["version"], moved["to_number"]) == ("latest", version, "1")
    acts = {row["action"] for row in asked(auditor, "acts_of", actor=department.trainer.id)}
    assert acts >= {"job.submitted", "file.created", "file.read", "access.denied"}
    (denied,) = asked(auditor, "not_done", department=department.id)
    assert (denied["action"], denied["reason"]) == ("access.denied", "permission_denied")
    story = [row["action"] for row in asked(auditor, "story_of_version", version=trainer_version)]
    assert set(story) >= {"file.created", "job.submitted", "job.succeeded", "adapter.version.registered", "alias.moved"}
    rights = {row["action"] for row in asked(auditor, "rights", department=department.id)}
    assert rights == {"member.added", "key.created"}
    held = asked(auditor, "holders_of_file", file=finished.file, department=department.id)
    assert {(row["version"], row["model"]) for row in held} == {(version, finished.model)}
    assert {row["actor"] for row in held} == {downloads[0]["actor"]}
    counted = {
        (row["action"], row["outcome"]): row["events"] for row in asked(auditor, "counts", department=department.id)
    }
    assert counted["job.submitted", "success"] == counted["access.denied", "denied"] == 1
    event = auditor.get("/organization/audit_logs", params={"resource_ids[]": finished.job}).json()["data"][-1]
    assert [row["action"] for row in asked(auditor, "of_request", request=event["request_id"])] == ["job.submitted"]
    assert asked(auditor, "unused_keys", department=department.id) == []
    for name in ("own_approvals", "waiting_approvals", "emergencies"):
        assert asked(auditor, name, department=department.id) == []
    assert asked(auditor, "unused_keys", department=department.id) == []
    reads = asked(auditor, "audit_reads")
    assert reads[0]["details"] == {"query": "unused_keys", "rows": 0}
    told = {query["id"] for query in auditor.get("/audit/queries").json()["data"]}
    assert told == set(QUERIES) == {
        "trained_on_file", "downloads_of_version", "alias_moves", "acts_of", "not_done", "story_of_version", "rights",
        "holders_of_file", "counts", "of_request", "unused_keys", "audit_reads", "own_approvals", "waiting_approvals",
        "emergencies",
    }  # fmt: skip


def test_an_admin_asks_of_their_department_and_others_do_not_ask(finished: Finished, other: Finished) -> None:
    department = finished.department
    with department.http(department.admin) as admin, department.http() as trainer:
        for name, query in QUERIES.items():
            theirs = {
                "file": other.file, "version": other.version, "actor": other.department.trainer.id, "request": "req_0",
                "adapter": "adapter-" + "0" * 32,
            }  # fmt: skip
            told = {query.needs.value: theirs[query.needs]} if query.needs else {}
            rows = asked(admin, name, **told)
            assert {row["department"] for row in rows if "department" in row} <= {department.id}
            # Another department's object answers as nobody's.
            assert not query.needs or rows == []
            assert trainer.get(f"/audit/queries/{name}", params=told).status_code == 403


def test_an_approval_of_ones_own_that_came_about_in_spite_of_all_is_named(
    finished: Finished, auditor: httpx.Client, database: Database
) -> None:
    department = finished.department
    engine = create_engine(database.admin_url)
    with engine.begin() as connection:
        # As a superuser could: the application cannot write such an event, and the registry no such decision.
        connection.execute(
            text("""
                INSERT INTO audit_events (xid, department_id, actor_type, actor_id, roles, action, outcome,
                    resource_type, resource_id, refs, details)
                SELECT pg_current_xact_id()::text::bigint, department_id, 'user', submitter_id, '{}',
                    'adapter.version.approved', 'success', 'adapter_version', id, '{}', '{}'
                FROM adapter_versions WHERE id = :version
            """),
            {"version": finished.version.removeprefix("adapterver-")},
        )
    engine.dispose()
    (own,) = asked(auditor, "own_approvals", department=department.id)
    assert (own["told_by"], own["version"]) == ("trail", finished.version)
    assert own["actor"].replace("-", "") == department.trainer.id.removeprefix("user-")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/audit/queries/nothing", 404, "not_found"),
        ("/audit/queries/trained_on_file", 400, "missing_field"),
        ("/audit/queries/unused_keys", 400, "department_required"),
        ("/audit/queries/not_done?days=0", 400, "out_of_range"),
    ],
)
def test_a_wrong_question_is_refused(auditor: httpx.Client, path: str, status: int, code: str) -> None:
    answer = auditor.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


# --- filters of the client --------------------------------------------------------------------------------------------


def test_the_client_finds_people_by_address_and_keys_by_id(
    finished: Finished, api_url: str, auditor_key: str, database: Database
) -> None:
    logs = official_client(api_url, auditor_key).admin.organization.audit_logs
    engine = create_engine(database.admin_url)
    with engine.connect() as connection:
        trainer = finished.department.trainer.id.removeprefix("user-")
        email = connection.execute(text("SELECT email FROM users WHERE id = :id"), {"id": trainer}).scalar_one()
    engine.dispose()
    by_email = [event.id for event in logs.list(actor_emails=[email.upper()], limit=100)]
    by_id = [event.id for event in logs.list(actor_ids=[finished.department.trainer.id], limit=100)]
    assert by_email == by_id != []
    assert list(logs.list(actor_emails=["nobody@example.org"])) == []
    (submitted,) = logs.list(actor_emails=[email], event_types=["job.submitted"])  # type: ignore[list-item]
    assert submitted.actor
    assert submitted.actor.api_key
    by_key = [event.id for event in logs.list(actor_ids=[str(submitted.actor.api_key.id)], limit=100)]
    assert submitted.id in by_key
    assert set(by_key) <= set(by_id)
    platform = list(logs.list(tenant_only=True, limit=100))
    assert platform
    assert all(event.project is None for event in platform)


# --- exports ----------------------------------------------------------------------------------------------------------


def test_the_whole_trail_is_exported_and_proves_itself(
    finished: Finished, auditor: httpx.Client, runtime: Runtime
) -> None:
    assert finished
    with runtime.sealer() as session:
        assert sealing.seal(session)
    answer = auditor.post("/audit/exports", json={})
    assert answer.status_code == 200
    report = verify(ExportTrail.parse(io.StringIO(answer.text)), [])
    assert (report.findings, report.unsealed) == ([], 1)
    assert report.events > 20
    changed = answer.text.replace('"action":"job.submitted"', '"action":"job.cancelled"', 1)
    bad = verify(ExportTrail.parse(io.StringIO(changed)), []).first_bad
    line = next(line for line in answer.text.splitlines() if '"action":"job.submitted"' in line)
    assert bad
    assert bad.number == json.loads(line)["event"]["number"]
    exported = asked(auditor, "audit_reads")[0]
    assert (exported["action"], exported["details"]["scope"]) == ("audit.exported", {})


def test_a_part_is_exported_in_each_format(finished: Finished, auditor: httpx.Client) -> None:
    scope = {"project_ids": [finished.department.id], "event_types": ["job.submitted", "access.denied"]}
    lines = auditor.post("/audit/exports", json=scope).text.splitlines()
    assert json.loads(lines[0])["filters"].keys() == {"departments", "actions"}
    events = [json.loads(line)["event"] for line in lines[1:]]
    assert sorted({event["action"] for event in events}) == ["access.denied", "job.submitted"]
    with pytest.raises(ExportInvalid):
        ExportTrail.parse(io.StringIO("\n".join(lines)))
    table = list(csv.DictReader(io.StringIO(auditor.post("/audit/exports", json=scope | {"format": "csv"}).text)))
    assert [row["action"] for row in table] == [event["action"] for event in events]
    assert [row["id"] for row in table] == [event["id"] for event in events]
    ocsf = auditor.post("/audit/exports", json=scope | {"format": "ocsf"}).text.splitlines()
    said = {each["api"]["operation"]: each for each in map(json.loads, ocsf)}
    submitted, denied = said["job.submitted"], said["access.denied"]
    # What OCSF 1.3.0 requires of API Activity.
    for each in said.values():
        assert each.keys() >= {
            "activity_id", "actor", "api", "category_uid", "class_uid", "metadata", "severity_id", "src_endpoint",
            "time", "type_uid",
        }  # fmt: skip
        assert (each["class_uid"], each["category_uid"], each["metadata"]["version"]) == (6003, 6, "1.3.0")
    assert (submitted["type_uid"], submitted["status_id"]) == (600301, 1)
    assert (denied["type_uid"], denied["status_id"], denied["status_code"]) == (600399, 2, "permission_denied")
    times = [event["occurred_at"] // 1000 for event in events if event["action"] == "job.submitted"]
    assert submitted["time"] in times


def test_a_large_export_is_written_in_the_background(
    finished: Finished, api_with: Callable[..., str], auditor_key: str, runtime: Runtime
) -> None:
    assert finished
    with http(api_with(audit_export_max_rows=5), auditor_key) as auditor:
        begun = auditor.post("/audit/exports", json={"format": "csv"})
        assert (begun.status_code, begun.json()["status"]) == (202, "pending")
        path = f"/audit/exports/{begun.json()['id']}"
        early = auditor.get(f"{path}/content")
        assert (early.status_code, early.json()["error"]["code"]) == (409, "export_not_written")
        writer = ExportWriter(runtime)
        assert writer.write_next()
        assert not writer.write_next()
        done = auditor.get(path).json()
        content = auditor.get(f"{path}/content").content
        lines = gzip.decompress(content).decode().splitlines()
        assert (done["status"], done["rows"], done["bytes"]) == ("done", len(lines), len(content))
        assert len(list(csv.DictReader(lines))) == len(lines) - 1 > 5
        told = [row["resource"] for row in asked(auditor, "acts_of", actor=_self(auditor)) if row["resource"]]
        assert len(told) == 2


def _self(auditor: httpx.Client) -> str:
    me: str = auditor.get("/me").json()["id"]
    return me


def test_exports_are_the_auditors_alone(
    finished: Finished, auditor: httpx.Client, operator_key: str, api_url: str
) -> None:
    department = finished.department
    with department.http(department.admin) as admin, http(api_url, operator_key) as operator:
        for client in (admin, operator):
            assert client.post("/audit/exports", json={}).status_code == 403
            for path in (
                "/audit/exports/audit_export-" + "0" * 32,
                "/audit/exports/audit_export-" + "0" * 32 + "/content",
            ):
                assert client.get(path).status_code == 403
        assert admin.get("/audit/status").status_code == 403
        assert operator.get("/audit/status").json()["alarm"] is False
    missing = auditor.get("/audit/exports/audit_export-" + "0" * 32)
    assert missing.status_code == 404


# --- what is not in it ------------------------------------------------------------------------------------------------


def test_no_name_address_or_content_is_in_the_trail(finished: Finished, other: Finished, database: Database) -> None:
    assert {finished.model, other.model}
    engine = create_engine(database.admin_url)
    with engine.connect() as connection:
        events = connection.execute(text("SELECT to_jsonb(e)::text FROM audit_events e")).scalars().all()
        people = connection.execute(text("SELECT email, name FROM users")).all()
        names = (
            connection.execute(
                text("SELECT name FROM departments UNION SELECT name FROM api_keys WHERE department_id IS NOT NULL")
            )
            .scalars()
            .all()
        )
        files = connection.execute(text("SELECT filename FROM files")).scalars().all()
    engine.dispose()
    secret = [*(part for person in people for part in person), *names, *files, "Is 1 even?", "assistant", "@"]
    assert len(events) > 20
    assert [(word, event) for event in events for word in secret if f'"{word}"' in event or "@" in event] == []
    agents = {json.loads(event)["user_agent_hash"] for event in events} - {None}
    assert agents
    assert all(len(agent) == 16 for agent in agents)
    assert {json.loads(event)["action"] for event in events} <= set(AuditEvent)
