"""Policies through the API: who puts which, what they refuse, and what they say of a version."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import openai
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from domain.digests import digest_of
from domain.ids import IdKind, parse_id
from domain.verdicts import Purpose
from models_db.adapters import AdapterVersion
from models_db.policies import StoredPolicy
from runtime.wiring import Runtime
from services import policies
from tests.integration.api.conftest import Finished
from tests.integration.api.test_imports import bundle, send
from tests.integration.conftest import Department, http, rows

STRICT = b"""\
format: 1
training: {base_models: [other], methods: [dora], max_rank: 4}
release:
  evaluations: [{measure: loss, at_most: 0.5, better_than_base_by: 1}, {measure: accuracy}]
  servable_by: {vllm: {max_lora_rank: 1}}
"""
OPEN = b"format: 1\n"


PATHS = {"department": "/policies", "organisation": "/organization/policies"}


def put(client: httpx.Client, document: bytes, scope: str = "department", path: str = "") -> httpx.Response:
    return client.post(f"{PATHS[scope]}{path}", content=document, headers={"content-type": "application/yaml"})


def problem(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


@pytest.fixture(scope="module")
def finished(make_finished: Callable[[str], Finished]) -> Finished:
    return make_finished("ruled")


@pytest.fixture
def admin(department: Department) -> Iterator[httpx.Client]:
    with department.http(department.admin) as client:
        yield client


@pytest.fixture
def operator(api_url: str, operator_key: str) -> Iterator[httpx.Client]:
    with http(api_url, operator_key) as client:
        yield client


@contextmanager
def ruled(client: httpx.Client, document: bytes, scope: str = "department") -> Iterator[dict[str, Any]]:
    """A block in which a document is in force; after it one that rules nothing is."""
    made: dict[str, Any] = put(client, document, scope).raise_for_status().json()
    yield made
    put(client, OPEN, scope).raise_for_status()


# --- documents --------------------------------------------------------------------------------------------------------


def test_versions_are_numbered_kept_and_compared(
    make_department: Callable[[], Department], unchanged: Callable[..., Any]
) -> None:
    department = make_department()
    texts = [b"format: 1 # first\ntraining: {max_rank: 8}\n", b"format: 1\ntraining: {max_rank: 4}\n"]
    with department.http(department.admin) as admin, department.http() as trainer:
        assert problem(admin.get("/policies/current")) == (404, "not_found", None)
        made = [put(admin, each).raise_for_status().json() for each in texts]
        assert [each["version"] for each in made] == [1, 2]
        assert [each["digest"] for each in made] == [digest_of(each) for each in texts]
        assert {(each["scope"], each["created_by"]) for each in made} == {("department", department.admin.id)}
        with unchanged():
            assert put(admin, texts[1]).json() == made[1]
        # Whoever is in the department reads them.
        assert trainer.get("/policies").json()["data"] == made[::-1]
        assert trainer.get("/policies/1").json()["document"].encode() == texts[0]
        assert trainer.get("/policies/current").json() == made[1]
        found = trainer.get("/policies/2/diff").json()
        assert (found["before"], found["after"]) == (1, 2)
        assert found["changes"] == [{"path": "training.max_rank", "before": "8", "after": "4"}]
        assert found["text"].splitlines()[3:] == [
            "-format: 1 # first", "-training: {max_rank: 8}", "+format: 1", "+training: {max_rank: 4}",
        ]  # fmt: skip
        assert trainer.get("/policies/1/diff", params={"against": "2"}).json()["after"] == 1
        assert trainer.get("/policies/1/diff").json()["before"] is None
        for missing in ("3", "0", "01x", "99999999999999999999", "latest"):
            assert trainer.get(f"/policies/{missing}").status_code == 404
        after = trainer.get("/policies", params={"after": made[1]["id"]}).json()
        assert after["data"] == made[:1]
    with department.http(department.admin) as admin:
        (second, first) = admin.get("/organization/audit_logs", params={"event_types[]": "policy.changed"}).json()[
            "data"
        ]
        assert first["details"] == {"scope": "department", "number": 1, "digest": digest_of(texts[0]), "before": None}
        assert second["resource"]["id"] == made[1]["id"]
        assert (second["details"]["before"], second["details"]["number"]) == (digest_of(texts[0]), 2)


def test_who_may_put_which(department: Department, operator: httpx.Client) -> None:
    with department.http() as trainer, department.http(department.admin) as admin:
        assert problem(put(trainer, OPEN))[:2] == (403, "permission_denied")
        assert problem(put(admin, OPEN, "organisation"))[:2] == (403, "permission_denied")
        in_department = {"openai-project": department.id, "content-type": "application/yaml"}
        refused = operator.post("/policies", content=OPEN, headers=in_department)
        assert problem(refused)[:2] == (403, "permission_denied")
        made = put(operator, b"format: 1 # of all\n", "organisation").raise_for_status().json()
        assert made["scope"] == "organisation"
        for reader in (trainer, admin, operator):
            assert reader.get("/organization/policies/current").json() == made
        assert trainer.get("/organization/policies").json()["data"][0] == made
    with department.http(department.member("inference")) as server:
        assert server.get("/organization/policies/current").status_code == 403


@pytest.mark.parametrize(
    ("document", "line"),
    [
        (b"format: 1\ntraining: !!python/object/apply:os.system [id]\n", "policy:2"),
        (b"format: 1\na: &a [x]\nb: [*a, *a]\n", "policy:2"),
        (b"format: 1\ntraining:\n  max_rank: 8\n  max_rank: 9\n", "policy:4"),
        (b"format: 1\ntraining:\n  max_rnak: 8\n", "policy:3"),
        (b"format: 1\n# \xff\n", "policy:2"),
        (b"", "policy:1"),
        (b"format: 1\n#" + b"x" * 70_000, "policy"),
        (b"format: 1\nretention:\n  checkpoint_days: 0\n", "policy:3"),
    ],
)
def test_a_hostile_document_is_refused_with_its_line_and_nothing_is_kept(
    admin: httpx.Client, document: bytes, line: str, unchanged: Callable[..., Any]
) -> None:
    with unchanged():
        for path in ("", "/test"):
            answer = put(admin, document, path=path)
            assert problem(answer) == (400, "invalid_policy", line)
            assert answer.headers["x-should-retry"] == "false"


def test_a_body_that_is_no_yaml_or_too_large_is_refused(admin: httpx.Client) -> None:
    assert problem(admin.post("/policies", json={"format": 1}))[:2] == (415, "unsupported_media_type")
    packed = {"content-type": "application/yaml", "content-encoding": "gzip"}
    assert admin.post("/policies", content=OPEN, headers=packed).status_code == 415
    assert problem(put(admin, b"#" * (2 << 20)))[:2] == (413, "body_too_large")


def test_a_department_only_narrows(admin: httpx.Client, operator: httpx.Client) -> None:
    above = b"format: 1\ntraining: {max_rank: 16}\nrelease: {approvals: {internal: 2}}\n"
    with ruled(operator, above, "organisation"):
        wider = b"format: 1\ntraining:\n  max_rank: 17\nrelease:\n  approvals: {internal: 1}\n"
        for path in ("", "/test"):
            answer = put(admin, wider, path=path)
            assert problem(answer) == (400, "policy_widens", "policy:3")
            assert [each["param"] for each in answer.json()["error"]["details"]] == ["policy:3", "policy:5"]
        assert put(admin, b"format: 1\ntraining: {max_rank: 16}\n").is_success
    # What the installation keeps for 30 days is not kept for longer by the organisation either.
    too_long = put(operator, b"format: 1\nretention: {checkpoint_days: 31}\n", "organisation")
    assert problem(too_long) == (400, "policy_widens", "policy:2")
    put(admin, OPEN).raise_for_status()


def test_two_at_once_leave_no_gap(make_department: Callable[[], Department]) -> None:
    department = make_department()
    documents = [f"format: 1 # {number}\n".encode() for number in range(12)]
    with department.http(department.admin) as admin, ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda each: put(admin, each), documents):
            answer.raise_for_status()
        kept = admin.get("/policies", params={"limit": 100}).json()["data"]
    assert [each["version"] for each in kept] == list(range(12, 0, -1))
    assert {each["document"].encode() for each in kept} == set(documents)


def test_the_database_itself_keeps_documents_and_numbers(finished: Finished, runtime: Runtime) -> None:
    department = parse_id(IdKind.DEPARTMENT, finished.department.id)
    with finished.department.http(finished.department.admin) as admin:
        put(admin, OPEN).raise_for_status()
    for statement in ("UPDATE policies SET document = 'format: 1'", "DELETE FROM policies"):
        with pytest.raises(ProgrammingError, match="permission denied"), runtime.department(department) as session:
            session.execute(text(statement))
    with pytest.raises(IntegrityError, match="without gaps"), runtime.department(department) as session:
        session.add(_stored(department, number=7))
    # The organisation's is not a department's to write.
    with pytest.raises(ProgrammingError, match="row-level security"), runtime.department(department) as session:
        session.add(_stored(None, number=1))


def _stored(department: UUID | None, *, number: int) -> StoredPolicy:
    return StoredPolicy(
        department_id=department, number=number, document="format: 1\n", digest=digest_of(OPEN),
        created_by=UUID(int=1), created_by_type="user",
    )  # fmt: skip


# --- asked before a job -----------------------------------------------------------------------------------------------


def test_a_submit_against_the_policy_is_refused_with_every_reason_and_leaves_nothing(
    department: Department, admin: httpx.Client, base_model: str, unchanged: Callable[..., Any]
) -> None:
    file = department.upload(rows(4))
    client = department.client()
    codes = ["base_model_not_allowed", "method_not_allowed", "rank_not_allowed"]
    with ruled(admin, STRICT), department.http() as trainer:
        with unchanged(access_denied=1), pytest.raises(openai.BadRequestError) as refused:
            client.fine_tuning.jobs.create(model=base_model, training_file=file)
        assert refused.value.code == "policy_violation"
        assert isinstance(refused.value.body, dict)
        assert [each["code"] for each in refused.value.body["details"]] == codes
        estimate = trainer.post("/estimates", json={"model": base_model, "training_file": file}).json()
        assert estimate["allowed_to_proceed"] is False
        assert [each["code"] for each in estimate["reasons"]] == ["policy_violation"] * 3
        assert [each["param"] for each in estimate["reasons"]] == [
            each["param"] for each in refused.value.body["details"]
        ]
    job = client.fine_tuning.jobs.create(model=base_model, training_file=file)
    with department.http() as trainer:
        asked = {"event_types[]": "job.submitted", "resource_ids[]": job.id}
        (event,) = trainer.get("/organization/audit_logs", params=asked).json()["data"]
        (document,) = trainer.get("/policies", params={"limit": 1}).json()["data"]
        documents = {"department": document}
        if (organisation := trainer.get("/organization/policies/current")).is_success:
            documents = {"organisation": organisation.json(), **documents}
    lines = "".join(f"{scope} {each['version']} {each['digest']}\n" for scope, each in documents.items())
    assert event["details"]["policy"] == digest_of(lines.encode())


def test_the_organisations_policy_holds_in_every_department(
    department: Department, operator: httpx.Client, base_model: str
) -> None:
    file = department.upload(rows(4))
    with ruled(operator, b"format: 1\ntraining: {data_classes: [public]}\n", "organisation"):
        with pytest.raises(openai.BadRequestError) as refused:
            department.client().fine_tuning.jobs.create(model=base_model, training_file=file)
        assert refused.value.param == "organisation:training.data_classes"


# --- asked of versions ------------------------------------------------------------------------------------------------


def test_a_version_is_judged_with_every_reason(finished: Finished) -> None:
    path = f"/adapters/{finished.adapter}/versions/1/verdict"
    # The fixture's evaluation: loss 2.0 and 1.0, no choices, on the rows that it was trained on.
    expected = [
        "base_model_not_allowed", "method_not_allowed", "rank_not_allowed", "not_held_out", "beyond_threshold",
        "not_evaluated", "not_servable",
    ]  # fmt: skip
    department = finished.department
    with department.http(department.admin) as admin, department.http(department.member("viewer")) as robot:
        before = robot.get(path).json()
        assert (before["passed"], before["reasons"], before["required_approvals"]) == (True, [], 1)
        tried = put(admin, STRICT, path="/test").raise_for_status().json()
        assert (tried["passed"], tried["failed"]) == (0, 1)
        assert [each["code"] for each in tried["data"][0]["reasons"]] == expected
        assert tried["data"][0]["policies"][-1] == {
            "scope": "department", "version": None, "digest": digest_of(STRICT),
        }  # fmt: skip
        # Nothing was put by that.
        assert robot.get(path).json() == before
        with ruled(admin, STRICT) as made:
            found = robot.get(path).json()
            assert found["passed"] is False
            assert [each["code"] for each in found["reasons"]] == expected
            assert found["policies"][-1]["version"] == made["version"]
            assert (found["adapter"], found["version"], found["state"]) == (finished.adapter, 1, "candidate")
        assert robot.get(path).json()["passed"] is True
        assert robot.get(f"/adapters/{finished.adapter}/versions/9/verdict").status_code == 404
        assert problem(robot.get(path, params={"purpose": "fun"}))[0] == 400


def test_another_departments_policy_is_nobodys_business(
    finished: Finished, make_finished: Callable[[str], Finished]
) -> None:
    other = make_finished("unruled")
    ours, theirs = finished.department, other.department
    with ours.http(ours.admin) as admin, theirs.http() as them:
        with ruled(admin, STRICT) as made:
            verdict = them.get(f"/adapters/{other.adapter}/versions/1/verdict").json()
            assert verdict["passed"] is True
            assert "department" not in {each["scope"] for each in verdict["policies"]}
            answers = [them.get("/policies", params={"after": f"policy-{key}"})
                       for key in (made["id"].removeprefix("policy-"), "0" * 32)]  # fmt: skip
            assert [each.status_code for each in answers] == [404, 404]
            assert answers[0].json() == answers[1].json()
        assert them.get("/policies").json()["data"] == []


def test_the_contract_that_approvals_and_aliases_use(finished: Finished, runtime: Runtime) -> None:
    department, key = finished.department, parse_id(IdKind.DEPARTMENT, finished.department.id)
    document = b"format: 1\nrelease: {approvals: {internal: 3}, evaluations: [{measure: accuracy}]}\n"
    with department.http(department.admin) as admin, ruled(admin, document), runtime.department(key) as session:
        version = session.get_one(AdapterVersion, parse_id(IdKind.ADAPTER_VERSION, finished.version))
        assert policies.required_approvals(session, version) == 3
        verdicts = [policies.judge(session, version, purpose) for purpose in Purpose]
        assert [verdict.passed for verdict in verdicts] == [True, False, False, False]
        assert {verdict.policy.digest for verdict in verdicts} == {policies.in_force(session).digest}


def test_checkpoints_live_no_longer_than_the_policy_says(finished: Finished, runtime: Runtime) -> None:
    department, path = finished.department, f"/fine_tuning/jobs/{finished.job}/checkpoints"
    with department.http(department.admin) as admin, department.http() as trainer:
        (before,) = trainer.get(path).json()["data"]
        with ruled(admin, b"format: 1\nretention: {checkpoint_days: 2}\n"):
            (shortened,) = trainer.get(path).json()["data"]
            with runtime.department(parse_id(IdKind.DEPARTMENT, department.id)) as session:
                assert policies.checkpoint_ttl(session, timedelta(days=30)) == timedelta(days=2)
    assert before["expires_at"] - shortened["expires_at"] == timedelta(days=28).total_seconds()


def test_an_adapter_made_elsewhere_is_judged_by_its_configuration(
    make_department: Callable[[], Department], base_model: str
) -> None:
    department = make_department()
    ruling = b"format: 1\ntraining: {methods: [lora]}\nrelease: {servable_by: {vllm: {max_lora_rank: 1}}}\n"
    with department.http(department.admin) as admin, department.http() as trainer:
        brought = send(trainer, "brought", bundle(use_rslora=True)).raise_for_status().json()
        assert brought["base_model"] == base_model
        with ruled(admin, ruling):
            found = trainer.get("/adapters/brought/versions/1/verdict").json()
    assert [each["code"] for each in found["reasons"]] == ["method_not_allowed", "not_servable"]


def test_a_pipeline_asks_with_the_command_line_and_is_told_by_exit_statuses(finished: Finished, tmp_path: Path) -> None:
    department, strict = finished.department, tmp_path / "strict.yaml"
    strict.write_text("format: 1\nrelease: {evaluations: [{measure: token_accuracy, min_rows: 1000}]}\n")
    with department.http(department.admin) as admin:
        account = f"/organization/projects/{department.id}/service_accounts"
        robot = admin.post(account, json={"name": "gate", "roles": ["viewer"]}).raise_for_status().json()
        environment = os.environ | {
            "TSUGIKI_BASE_URL": department.api_url, "TSUGIKI_API_KEY": robot["api_key"]["value"],
        }  # fmt: skip

        def tsugiki(*words: str) -> tuple[int, str]:
            command = [sys.executable, "-m", "cli.main", "policy", *words]
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
            return ended.returncode, ended.stdout + ended.stderr

        status, told = tsugiki("test", str(strict))
        assert status == 0
        assert "required: 1000. (too_few_rows, department:release.evaluations[0])" in told
        assert tsugiki("check", finished.adapter, "1")[0] == 0
        with ruled(admin, strict.read_bytes()):
            status, told = tsugiki("check", finished.adapter, "1")
            assert status == 1
            assert "too_few_rows" in told
    # Neither one nor the other: there is no such version.
    status, told = tsugiki("check", finished.adapter, "9")
    assert status == 2
    assert told == "error: No such adapter version. (code not_found)\n"
