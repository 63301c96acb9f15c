"""What the command line says and how it ends, against a service that answers as told."""

import json
import socket
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cli import jobs
from cli.main import hoisted
from tests.unit.cli.conftest import Run, Stub

PROJECT = "proj_0193" + "0" * 28
JOB: dict[str, Any] = {
    "id": "ftjob-1", "object": "fine_tuning.job", "status": "running", "model": "smollm2", "adapter": None,
    "user_provided_suffix": "triage", "progress": {"step": 3, "total_steps": 9, "loss": 1.5, "phase": "training"},
    "created_at": 1_790_000_000, "finished_at": None, "fine_tuned_model": None, "error": None,
}  # fmt: skip


def listed(*items: dict[str, Any], has_more: bool = False) -> dict[str, Any]:
    last = items[-1]["id"] if items else None
    return {"object": "list", "data": list(items), "has_more": has_more, "first_id": None, "last_id": last}


# --- refusals and exit statuses ---------------------------------------------------------------------------------------


def test_a_refusal_is_one_line_with_message_code_and_param(tsugiki: Run, stub: Stub) -> None:
    stub.refuse(
        "POST /organization/projects", 409, "There is a department of that name.", code="name_taken", param="name"
    )
    ended = tsugiki("departments", "create", "hr")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == "error: There is a department of that name. (code name_taken, param name)\n"


def test_the_official_clients_refusals_read_the_same(tsugiki: Run, stub: Stub) -> None:
    stub.refuse("GET /fine_tuning/jobs/ftjob-9", 404, "No such fine-tuning job.", code="not_found")
    ended = tsugiki("jobs", "show", "ftjob-9")
    assert (ended.status, ended.err) == (1, "error: No such fine-tuning job. (code not_found)\n")


def test_further_findings_are_listed_to_the_tenth(tsugiki: Run, stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{")
    findings = [{"message": "Bad row.", "param": f"rows.jsonl:{line}", "code": "bad_row"} for line in range(1, 14)]
    error = findings[0] | {"type": "invalid_request_error", "details": findings}
    stub.answer("POST /files", {"error": error}, 400)
    lines = tsugiki("files", "upload", "rows.jsonl").err.splitlines()
    assert lines[0] == "error: Bad row. (code bad_row, param rows.jsonl:1)"
    assert lines[1] == "  Bad row. (code bad_row, param rows.jsonl:2)"
    assert lines[10:] == ["  Bad row. (code bad_row, param rows.jsonl:11)", "  and 2 more"]


@pytest.mark.parametrize("arguments", [("whoami",), ("files", "show", "file-1")])
def test_a_base_url_without_v1_is_named_where_nothing_is_found(
    tsugiki: Run, stub: Stub, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("TSUGIKI_BASE_URL", stub.base_url.removesuffix("/v1"))
    for path in ("/me", "/files/file-1"):
        stub.refuse(f"GET {path}", 404, "No such path.", code="not_found")
    ended = tsugiki(*arguments)
    assert ended.err == "error: No such path. A base URL ends in /v1, and this one does not. (code not_found)\n"


def test_a_missing_department_names_the_option(tsugiki: Run, stub: Stub) -> None:
    stub.refuse("GET /adapters", 400, "Choose one with a header.", code="department_required", param="OpenAI-Project")
    assert "say which with --department" in tsugiki("adapters", "list").err


def test_a_wrong_key_is_told_plainly(tsugiki: Run, stub: Stub) -> None:
    stub.refuse("GET /me", 401, "Incorrect API key provided.", code="invalid_api_key")
    ended = tsugiki("whoami")
    assert (ended.status, ended.err) == (1, "error: Incorrect API key provided. (code invalid_api_key)\n")


@pytest.mark.parametrize("arguments", [("whoami",), ("files", "show", "file-1")])
def test_nobody_there_is_one_line(bare: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("TSUGIKI_BASE_URL", f"http://127.0.0.1:{port}/v1")
    monkeypatch.setenv("TSUGIKI_API_KEY", "tsk_mine")
    ended = bare(*arguments)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == "error: Nothing answers there. Is the service running?\n"


def test_an_answer_that_is_not_the_services_is_not_repeated(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /me", b"<html>a proxy\x1b[2J</html>", status=502)
    ended = tsugiki("whoami")
    assert (ended.status, ended.err) == (1, "error: The answer was HTTP 502, and not from Tsugiki.\n")


@pytest.mark.parametrize("url", ["localhost:8000/v1", "file:///etc/passwd", "http://[::1/v1"])
def test_a_base_url_that_is_none_is_told_plainly(bare: Run, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TSUGIKI_BASE_URL", url)
    monkeypatch.setenv("TSUGIKI_API_KEY", "tsk_mine")
    ended = bare("whoami")
    assert ended.status == 1
    assert ended.err.startswith("error: The base URL is not one")


@pytest.mark.parametrize("arguments", [("jobs", "lst"), ("jobs", "show"), ("audit", "--action", "nonsense")])
def test_a_wrong_command_ends_with_2(tsugiki: Run, stub: Stub, arguments: tuple[str, ...]) -> None:
    ended = tsugiki(*arguments)
    assert (ended.status, stub.asked) == (2, [])


def test_a_servers_message_cannot_steer_the_terminal(tsugiki: Run, stub: Stub) -> None:
    stub.refuse("GET /me", 400, "bad \x1b]0;owned\x07\nsecond line", code="bad")
    assert tsugiki("whoami").err == "error: bad \ufffd]0;owned\ufffd\ufffdsecond line (code bad)\n"


def test_the_version_is_the_packages(bare: Run) -> None:
    ended = bare("--version")
    assert (ended.status, ended.out) == (0, f"tsugiki {metadata.version('tsugiki')}\n")


def test_the_help_names_the_variables(bare: Run) -> None:
    shown = bare("--help").out
    assert all(f"TSUGIKI_{name}" in shown for name in ("BASE_URL", "API_KEY", "DEPARTMENT"))


# --- which service, whose key -----------------------------------------------------------------------------------------


def endpoint_file(folder: Path, stub: Stub) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "endpoint.json"
    keys = {"admin_key": "tsk_operator", "auditor_key": "tsk_auditor"}
    file.write_text(json.dumps({"base_url": stub.base_url} | keys))
    return file


def test_without_an_endpoint_it_says_what_to_set(bare: Run) -> None:
    ended = bare("whoami")
    assert ended.status == 1
    assert "TSUGIKI_BASE_URL" in ended.err


def test_a_local_services_file_is_found_and_its_operators_key_used(bare: Run, stub: Stub, tmp_path: Path) -> None:
    endpoint_file(tmp_path / ".tsugiki", stub)
    stub.answer("GET /base_models", listed())
    assert bare("base-models", "list").status == 0
    assert stub.asked[0][1]["authorization"] == "Bearer tsk_operator"


def test_the_audit_trail_is_read_with_the_files_auditor_key(bare: Run, stub: Stub, tmp_path: Path) -> None:
    file = endpoint_file(tmp_path / "elsewhere", stub)
    stub.answer("GET /organization/audit_logs", listed())
    assert bare("--endpoint", str(file), "audit").status == 0
    assert stub.asked[0][1]["authorization"] == "Bearer tsk_auditor"


def test_a_files_key_is_never_sent_to_another_base_url(
    bare: Run, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint_file(tmp_path / ".tsugiki", stub)
    monkeypatch.setenv("TSUGIKI_BASE_URL", stub.base_url)
    ended = bare("whoami")
    assert (ended.status, stub.asked) == (1, [])
    assert ended.err == "error: TSUGIKI_BASE_URL is set but TSUGIKI_API_KEY is not.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--department", "hr", "jobs", "list"),
        ("jobs", "list", "--department", "hr"),
        ("jobs", "--department=hr", "list"),
    ],
)
def test_a_key_acts_in_the_department_named(tsugiki: Run, stub: Stub, arguments: tuple[str, ...]) -> None:
    stub.answer("GET /organization/projects", listed({"id": PROJECT, "name": "hr", "created_at": 0}))
    stub.answer("GET /fine_tuning/jobs", listed())
    assert tsugiki(*arguments).status == 0
    assert stub.asked[-1][1]["openai-project"] == PROJECT


@pytest.mark.parametrize("key", ["tsk_schlüssel", "tsk a", "tsk\n"])
def test_a_key_that_is_none_is_one_line(tsugiki: Run, stub: Stub, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("TSUGIKI_API_KEY", key)
    ended = tsugiki("whoami")
    assert (ended.status, stub.asked) == (1, [])
    assert ended.err == "error: The key (TSUGIKI_API_KEY) is empty, or holds a character that it cannot have.\n"


# --- output -----------------------------------------------------------------------------------------------------------


def test_a_waiting_job_tells_why_in_the_list_and_alone(stub: Stub, tsugiki: Run) -> None:
    waiting = {"code": "workers_busy", "message": "Every worker is at work.", "position": 4}
    job = JOB | {"status": "queued", "waiting": waiting}
    stub.answer("GET /fine_tuning/jobs", listed(job, JOB))
    rows = tsugiki("jobs", "list").out.splitlines()
    assert ["workers_busy" in row for row in rows] == [False, True, False]
    stub.answer("GET /fine_tuning/jobs/ftjob-1", job)
    assert "Every worker is at work." in tsugiki("jobs", "show", "ftjob-1").out


@pytest.mark.parametrize("arguments", [("--json", "jobs", "show", "ftjob-1"), ("jobs", "show", "ftjob-1", "--json")])
def test_json_prints_the_apis_object_before_and_after_the_command(
    tsugiki: Run, stub: Stub, arguments: tuple[str, ...]
) -> None:
    stub.answer("GET /fine_tuning/jobs/ftjob-1", JOB | {"added_later": 1})
    assert tsugiki(*arguments).json == JOB | {"added_later": 1}


def test_json_behind_a_double_dash_is_an_argument() -> None:
    assert hoisted(["lineage", "--", "--json"]) == ["lineage", "--", "--json"]
    assert hoisted(["jobs", "--json", "list"]) == ["--json", "jobs", "list"]


def test_the_audit_trails_departments_are_its_own() -> None:
    arguments = ["--endpoint", "file", "audit", "--department", "a", "--department", "b"]
    assert hoisted(arguments) == arguments
    assert hoisted(["keys", "create", "--name", "audit", "--department", "a"]) == [
        "--department", "a", "keys", "create", "--name", "audit",
    ]  # fmt: skip


def test_a_list_is_read_to_its_end(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /adapters", listed({"id": "adapter-2"}, has_more=True))
    stub.answer("GET /adapters", listed({"id": "adapter-1"}))
    assert [item["id"] for item in tsugiki("adapters", "list", "--json").json] == ["adapter-2", "adapter-1"]
    assert "after=adapter-2" in stub.requests()[1]


def test_an_id_is_whole_in_a_pipe(tsugiki: Run, stub: Stub) -> None:
    job = JOB | {"id": "ftjob-" + "0123456789abcdef" * 2}
    stub.answer("GET /fine_tuning/jobs", listed(job))
    assert job["id"] in tsugiki("jobs", "list").out


def test_a_new_keys_secret_stands_alone_on_standard_output(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /me", {"department": PROJECT})
    stub.answer(f"POST /organization/projects/{PROJECT}/api_keys", {"id": "key_1", "value": "tsk_secret"})
    assert tsugiki("keys", "create", "--user", "user-1").out == "tsk_secret\n"


def test_a_key_without_a_user_is_for_oneself(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /me", {"type": "user", "id": "user-me", "department": PROJECT})
    stub.answer(f"POST /organization/projects/{PROJECT}/api_keys", {"id": "key_1", "value": "tsk_secret"})
    assert tsugiki("keys", "create").out == "tsk_secret\n"
    assert json.loads(stub.asked[-1][2])["user_id"] == "user-me"


def test_a_robots_key_must_say_whom_a_new_one_is_for(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /me", {"type": "service_account", "id": "svc_acct_1", "department": PROJECT})
    ended = tsugiki("keys", "create")
    assert (ended.status, "--user" in ended.err) == (1, True)


def test_a_keys_owner_is_found_among_the_departments_people(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /me", {"type": "user", "id": "user-me", "department": PROJECT})
    stub.answer(f"GET /organization/projects/{PROJECT}/users", listed({"id": "user-7", "email": "ada@hr.example"}))
    stub.answer(f"POST /organization/projects/{PROJECT}/api_keys", {"id": "key_1", "value": "tsk_secret"})
    assert tsugiki("keys", "create", "--user", "Ada@hr.example").status == 0
    assert json.loads(stub.asked[-1][2])["user_id"] == "user-7"
    ended = tsugiki("keys", "create", "--user", "bob@hr.example")
    assert (ended.status, ended.err) == (1, "error: Nobody in the department has the e-mail address bob@hr.example.\n")


def test_ones_own_e_mail_address_needs_no_list(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /me", {"type": "user", "id": "user-me", "email": "ada@hr.example", "department": PROJECT})
    stub.answer(f"POST /organization/projects/{PROJECT}/api_keys", {"id": "key_1", "value": "tsk_secret"})
    assert tsugiki("keys", "create", "--user", "Ada@hr.example").out == "tsk_secret\n"
    assert json.loads(stub.asked[-1][2])["user_id"] == "user-me"


def test_who_may_not_list_people_is_told_how_to_make_a_key_for_oneself(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /me", {"type": "user", "id": "user-me", "department": PROJECT})
    stub.refuse(f"GET /organization/projects/{PROJECT}/users", 403, "No.", code="permission_denied")
    ended = tsugiki("keys", "create", "--user", "ada@hr.example")
    assert (ended.status, "without --user" in ended.err) == (1, True)


def test_a_new_member_is_named_by_e_mail_to_the_service(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /me", {"type": "user", "id": "user-me", "department": PROJECT})
    stub.answer(f"POST /organization/projects/{PROJECT}/users", {})
    assert tsugiki("members", "add", "ada@hr.example", "--role", "trainer").out == "ada@hr.example is now trainer.\n"
    assert json.loads(stub.asked[-1][2]) == {"email": "ada@hr.example", "roles": ["trainer"]}


def test_a_name_is_quoted_into_the_path(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /base_models/a%2F..%2Fb", {})
    tsugiki("base-models", "show", "a/../b", "--json")
    assert stub.requests() == ["GET /base_models/a%2F..%2Fb"]


def test_lineage_is_drawn_from_a_version_to_what_it_came_from(tsugiki: Run, stub: Stub) -> None:
    edge = {"subject": "adapterver-1", "relation": "trained_on", "object": "file-1", "object_name": "rows.jsonl"}
    stub.answer("GET /lineage/adapterver-1", {"id": "adapterver-1", "edges": [edge | {"subject_name": "triage@1"}]})
    shown = tsugiki("lineage", "adapterver-1").out
    assert shown.splitlines() == ["adapterver-1", "└── trained on  rows.jsonl  file-1"]


def test_lineage_of_a_version_that_is_named_by_its_number(tsugiki: Run, stub: Stub) -> None:
    edge = {"subject": "adapterver-1", "relation": "trained_on", "object": "file-1", "object_name": "rows.jsonl"}
    stub.answer("GET /adapters/triage/versions/1", {"id": "adapterver-1"})
    stub.answer("GET /lineage/adapterver-1", {"id": "adapterver-1", "edges": [edge | {"subject_name": "triage@1"}]})
    shown = tsugiki("lineage", "triage@1").out
    assert shown.splitlines() == ["adapterver-1", "└── trained on  rows.jsonl  file-1"]


def test_lineage_is_drawn_from_a_file_to_what_came_from_it(tsugiki: Run, stub: Stub) -> None:
    edge = {"subject": "adapterver-1", "relation": "trained_on", "object": "file-1", "object_name": "rows.jsonl"}
    stub.answer("GET /lineage/file-1", {"id": "file-1", "edges": [edge | {"subject_name": "triage@1"}]})
    shown = tsugiki("lineage", "file-1").out
    assert shown.splitlines() == ["file-1", "└── trained  triage@1  adapterver-1"]


def test_a_base_model_asked_for_by_name_is_the_base_of_its_versions(tsugiki: Run, stub: Stub) -> None:
    edge = {"subject": "adapterver-1", "relation": "grafted_on", "object": "base-1", "object_name": "smollm2"}
    stub.answer("GET /lineage/smollm2", {"id": "smollm2", "edges": [edge | {"subject_name": "triage@1"}]})
    assert tsugiki("lineage", "smollm2").out.splitlines() == ["smollm2", "└── base of  triage@1  adapterver-1"]


def test_a_job_shows_what_it_made_and_what_that_came_from(tsugiki: Run, stub: Stub) -> None:
    job = {"object": "ftjob-1", "object_name": None}
    made = job | {"subject": "adapterver-1", "subject_name": "triage@1", "relation": "produced_by"}
    used = {
        "subject": "ftjob-1", "subject_name": None, "relation": "trains_on", "object": "file-1",
        "object_name": "rows.jsonl",
    }  # fmt: skip
    taken = {
        "subject": "download-1", "subject_name": "user-1", "relation": "took", "object": "adapterver-1",
        "object_name": "triage@1",
    }  # fmt: skip
    stub.answer("GET /lineage/ftjob-1", {"id": "ftjob-1", "edges": [made, used, taken], "is_cut": True})
    assert tsugiki("lineage", "ftjob-1").out.splitlines() == [
        "ftjob-1", "├── trains on  rows.jsonl  file-1", "└── made  triage@1  adapterver-1",
        "    └── taken by  user-1  download-1", "There is more: ask about something nearer to it.",
    ]  # fmt: skip


def test_what_nothing_descends_from_says_so(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /lineage/file-1", {"id": "file-1", "edges": []})
    assert tsugiki("lineage", "file-1").out == "Nothing descends from it yet.\n"


def test_audit_filters_become_the_clients_query(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /organization/audit_logs", listed())
    tsugiki("audit", "--action", "job.submitted", "--action", "file.read", "--outcome", "denied",
            "--since", "2026-11-25T00:00:00", "--department", PROJECT, "--limit", "7")  # fmt: skip
    query = stub.requests()[0].partition("?")[2]
    assert query.count("event_types%5B%5D=") == 2
    assert f"project_ids%5B%5D={PROJECT}" in query
    # 2026-11-25T00:00:00Z, by `date -u -d 2026-11-25 +%s`.
    assert "effective_at%5Bgte%5D=1795564800" in query
    assert "limit=7" in query


def test_the_audit_table_says_what_was_denied_and_why(tsugiki: Run, stub: Stub) -> None:
    event = {
        "id": "audit_log-1", "effective_at": 1_795_564_800, "type": "access.denied", "outcome": "denied",
        "actor": {"type": "system", "api_key": None}, "resource": None, "project": None,
        "reason": "permission_denied", "details": {"method": "POST", "route": "/v1/files"},
    }  # fmt: skip
    stub.answer("GET /organization/audit_logs", listed(event))
    assert "permission_denied POST /v1/files" in tsugiki("audit").out


def test_a_version_is_not_asked_for_where_it_cannot_be_written(tsugiki: Run, stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "afile").touch()
    ended = tsugiki("adapters", "pull", "triage", "--out", "afile/inside/out")
    assert (ended.status, stub.asked) == (1, [])
    assert ended.err == f"error: {tmp_path / 'afile'} is not a folder.\n"


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_submit_uploads_local_files_and_sends_only_what_was_said(tsugiki: Run, stub: Stub, tmp_path: Path) -> None:
    rows = tmp_path / "train.jsonl"
    rows.write_text('{"messages": []}\n')
    stub.answer("GET /files", listed())
    stub.answer("POST /files", {"id": "file-7", "object": "file"})
    stub.answer("POST /fine_tuning/jobs", JOB)
    ended = tsugiki("jobs", "submit", "--model", "smollm2", "--train", str(rows), "--evaluation", "file-8",
                    "--max-steps", "9", "--learning-rate", "0.001", "--weight-decay", "0.1", "--clip-norm", "0",
                    "--checkpoint-every-steps", "3", "--validate-every-steps", "2")  # fmt: skip
    assert ended.out.splitlines() == [
        "Uploaded train.jsonl: file-7", "Submitted ftjob-1. Watch it: tsugiki jobs watch ftjob-1",
    ]  # fmt: skip
    assert json.loads(stub.asked[-1][2]) == {
        "model": "smollm2",
        "training_file": "file-7",
        "evaluation_file": "file-8",
        "lora": {
            "max_steps": 9, "learning_rate": 0.001, "weight_decay": 0.1, "clip_norm": 0,
            "checkpoint_every_steps": 3, "validate_every_steps": 2,
        },
    }  # fmt: skip


def test_submit_uploads_the_same_bytes_once(tsugiki: Run, stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"abc")
    # FIPS 180-2, B.1.
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    stub.answer("GET /files", listed({"id": "file-3", "object": "file", "sha256": sha256}))
    stub.answer("POST /fine_tuning/jobs", JOB)
    ended = tsugiki("jobs", "submit", "--model", "smollm2", "--train", "rows.jsonl", "--evaluation", "rows.jsonl")
    assert ended.out.splitlines()[0] == "rows.jsonl is there already: file-3"
    assert [request.partition("?")[0] for request in stub.requests()] == [
        "GET /files",
        "POST /estimates",
        "POST /fine_tuning/jobs",
    ]
    assert json.loads(stub.asked[-1][2])["training_file"] == "file-3"


def test_who_may_not_list_files_submits_all_the_same(tsugiki: Run, stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"abc")
    stub.refuse("GET /files", 403, "No.", code="permission_denied")
    stub.answer("POST /files", {"id": "file-7", "object": "file"})
    stub.answer("POST /fine_tuning/jobs", JOB)
    assert tsugiki("jobs", "submit", "--model", "smollm2", "--train", "rows.jsonl").status == 0


FIGURES: dict[str, Any] = {
    "made_at": 1_795_564_800, "steps": 39, "trained_tokens": 15_000, "supervised_tokens": 3000, "seconds": 170.0,
    "gpu_seconds": 340.0, "peak_memory_bytes": 3_000_000_000, "adapter_bytes": 9_000_000, "cost": 0.68,
    "currency": "EUR", "queue_position": 2, "expected_start": 1_795_564_860, "expected_finish": 1_795_565_030,
    "device": "cuda", "ranks": 2, "measured_runs": 5, "gaps": [],
}  # fmt: skip
ESTIMATE: dict[str, Any] = {
    "id": "estimate-1", "object": "estimate", "status": "ready", "model": "smollm2", "allowed_to_proceed": True,
    "reasons": [], "estimate": FIGURES,
}  # fmt: skip
DESCRIBED = ("--model", "smollm2", "--train", "file-1", "--rank", "4", "--evaluation", "file-2")


def test_submit_tells_the_estimate_that_is_at_hand(tsugiki: Run, stub: Stub) -> None:
    stub.answer("POST /estimates", ESTIMATE)
    stub.answer("POST /fine_tuning/jobs", JOB)
    lines = tsugiki("jobs", "submit", *DESCRIBED).out.splitlines()
    told = "Estimate: 39 steps, 15,000 tokens, about 2 min 50 s on cuda, to begin in about 1 min 00 s, 0.68 EUR."
    assert lines == [told, "Submitted ftjob-1. Watch it: tsugiki jobs watch ftjob-1"]
    # Both were asked the same.
    assert json.loads(stub.asked[0][2]) == json.loads(stub.asked[1][2])
    stub.asked.clear()
    assert tsugiki("jobs", "submit", *DESCRIBED, "--json").json == JOB
    assert stub.requests() == ["POST /fine_tuning/jobs"]


def test_submit_does_not_wait_for_an_estimate(tsugiki: Run, stub: Stub) -> None:
    stub.answer("POST /estimates", ESTIMATE | {"status": "pending"})
    stub.answer("POST /fine_tuning/jobs", JOB)
    assert tsugiki("jobs", "submit", *DESCRIBED).out == "Submitted ftjob-1. Watch it: tsugiki jobs watch ftjob-1\n"


def test_estimate_waits_until_the_rows_are_counted(tsugiki: Run, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "EVERY_S", 0)
    gap = {"figure": "cost", "code": "no_price", "message": "There is no price."}
    reason = {"code": "quota_exceeded", "message": "The department has 9 unfinished jobs.", "param": None}
    stub.answer("POST /estimates", ESTIMATE | {"status": "pending"})
    stub.answer("GET /estimates/estimate-1", ESTIMATE | {"status": "pending"})
    stub.answer("GET /estimates/estimate-1", ESTIMATE | {
        "allowed_to_proceed": False, "reasons": [reason], "estimate": FIGURES | {"cost": None, "gaps": [gap]},
    })  # fmt: skip
    ended = tsugiki("jobs", "estimate", *DESCRIBED)
    shown = [" ".join(line.split()) for line in ended.out.splitlines()]
    for line in (
        "status ready", "allowed no", "because The department has 9 unfinished jobs. (code quota_exceeded)", "steps 39",
        "tokens 15,000", "time 2 min 50 s", "memory of a rank 3.0 GB", "adapter 9.0 MB", "cost -",
        "place in the queue 2", "starts 2026-11-25 00:01:00Z", "not known cost: There is no price.",
    ):  # fmt: skip
        assert line in shown, line
    assert json.loads(stub.asked[0][2])["lora"] == {"rank": 4}
    assert stub.requests() == ["POST /estimates", "GET /estimates/estimate-1", "GET /estimates/estimate-1"]


def test_every_command_that_takes_a_job_has_the_same_options(tsugiki: Run) -> None:
    def options(command: str) -> set[str]:
        return {word for word in tsugiki("jobs", command, "--help").out.split() if word.startswith("--")}

    assert options("submit") - options("estimate") == {"--watch"}
    assert options("estimate") >= {"--rank-pattern", "--model", "--no-dora", "--seed"}
    assert not options("estimate") - options("submit")


def test_how_far_off_estimates_were_is_a_table(tsugiki: Run, stub: Stub) -> None:
    found = {"model": "smollm2", "device": "cpu", "figure": "seconds", "jobs": 7, "median_error": 0.125, "p90_error": 1}
    stub.answer("GET /estimates/accuracy", {"object": "estimate.accuracy", "data": [found]})
    assert tsugiki("jobs", "accuracy").out.splitlines()[1].split() == ["smollm2", "cpu", "time", "7", "12.5%", "100.0%"]


def test_a_job_shows_its_estimate_beside_what_came(tsugiki: Run, stub: Stub) -> None:
    settings = dict.fromkeys(("lora", "seed", "training_file", "validation_file", "evaluation_file", "trained_tokens"))
    actual = {"seconds": 200.0, "trained_tokens": 15_000, "relative_errors": {"seconds": -0.15, "trained_tokens": 0.0}}
    stub.answer("GET /fine_tuning/jobs/ftjob-1", JOB | settings | {"estimate": FIGURES, "actual": actual})
    shown = [" ".join(line.split()) for line in tsugiki("jobs", "show", "ftjob-1").out.splitlines()]
    assert "time 2 min 50 s estimated, 3 min 20 s in fact (-15.0%)" in shown
    assert "tokens 15,000 estimated, 15,000 in fact (+0.0%)" in shown
    assert "adapter 9.0 MB estimated" in shown


@pytest.mark.parametrize(("state", "shown"), [("running", "1 min 15 s"), ("queued", "-"), ("cancelled", "-")])
def test_only_a_running_job_has_time_left(tsugiki: Run, stub: Stub, state: str, shown: str) -> None:
    job = JOB | {"status": state, "progress": JOB["progress"] | {"eta_s": 75.0}, "id": "ftjob-1"}
    settings = dict.fromkeys(("lora", "seed", "training_file", "validation_file", "evaluation_file", "trained_tokens"))
    stub.answer("GET /fine_tuning/jobs/ftjob-1", job | settings)
    lines = tsugiki("jobs", "show", "ftjob-1").out.splitlines()
    (left,) = [line for line in lines if line.startswith("time left")]
    assert left.removeprefix("time left").strip() == shown


@pytest.mark.parametrize(
    ("erased_at", "expires_at", "kept_until"),
    [
        (None, None, ["-"]),
        (None, 1_795_651_200, ["2026-11-26", "00:00:00Z"]),
        (1_795_564_801, None, ["erased"]),
    ],
)
def test_a_jobs_checkpoints_are_listed(
    *, tsugiki: Run, stub: Stub, erased_at: int | None, expires_at: int | None, kept_until: list[str]
) -> None:
    point = {"id": "ftckpt_1", "created_at": 1_795_564_800, "step_number": 40, "metrics": {"train_loss": 1.5},
             "erased_at": erased_at, "expires_at": expires_at}  # fmt: skip
    stub.answer("GET /fine_tuning/jobs/ftjob-1/checkpoints", listed(point))
    shown = tsugiki("jobs", "checkpoints", "ftjob-1").out.splitlines()[1]
    assert shown.split() == ["40", "2026-11-25", "00:00:00Z", *kept_until, "train_loss=1.5", "ftckpt_1"]


def test_submit_sends_the_method_of_the_adapter(tsugiki: Run, stub: Stub) -> None:
    stub.answer("POST /fine_tuning/jobs", JOB)
    tsugiki("jobs", "submit", "--model", "smollm2", "--train", "file-1", "--dora", "--init", "pissa", "--bias", "all",
            "--rank-pattern", "layers.(0|1).self_attn.q_proj=16", "--rank-pattern", "v_proj=2",
            "--alpha-pattern", "v_proj=0.5")  # fmt: skip
    assert json.loads(stub.asked[-1][2])["lora"] == {
        "use_dora": True, "init": "pissa", "bias": "all",
        "rank_pattern": {"layers.(0|1).self_attn.q_proj": 16, "v_proj": 2}, "alpha_pattern": {"v_proj": 0.5},
    }  # fmt: skip


@pytest.mark.parametrize(
    "option", [("--rank-pattern", "q_proj"), ("--rank-pattern", "q_proj=1.5"), ("--alpha-pattern", "q_proj=x")]
)
def test_a_pattern_that_is_none_is_a_wrong_command(tsugiki: Run, stub: Stub, option: tuple[str, str]) -> None:
    ended = tsugiki("jobs", "submit", "--model", "smollm2", "--train", "file-1", *option)
    assert (ended.status, stub.asked) == (2, [])


def event(step: int, **measured: float) -> dict[str, Any]:
    data = {"step": step, "total_steps": 9, **measured}
    return {"id": f"ftevent-{step}", "object": "fine_tuning.job.event", "type": "metrics", "data": data}


def test_plot_draws_the_jobs_course_into_a_file(tsugiki: Run, stub: Stub, tmp_path: Path) -> None:
    stub.answer("GET /fine_tuning/jobs/ftjob-1", JOB)
    stub.answer("GET /fine_tuning/jobs/ftjob-1/events", listed(event(2, train_loss=1.5), event(1, train_loss=2.0)))
    assert tsugiki("jobs", "plot", "ftjob-1").out == "Drew ftjob-1.svg.\n"
    drawn = (tmp_path / "ftjob-1.svg").read_text()
    assert "triage on smollm2" in drawn
    assert "ftjob-1 · running · step 2 of 9" in drawn
    assert tsugiki("jobs", "plot", "ftjob-1", "-o", "own.svg", "--json").json == {"job": "ftjob-1", "path": "own.svg"}
    assert (tmp_path / "own.svg").read_text() == drawn


def test_a_job_that_has_not_begun_is_not_drawn(tsugiki: Run, stub: Stub, tmp_path: Path) -> None:
    stub.answer("GET /fine_tuning/jobs/ftjob-1", JOB | {"status": "queued", "progress": None})
    stub.answer("GET /fine_tuning/jobs/ftjob-1/events", listed())
    ended = tsugiki("jobs", "plot", "ftjob-1")
    assert (ended.status, ended.err) == (1, "error: The job is queued and has told of no step yet.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_job_shows_its_figures(tsugiki: Run, stub: Stub) -> None:
    settings = dict.fromkeys(("lora", "seed", "training_file", "validation_file", "evaluation_file", "trained_tokens"))
    measured = {"validation_loss": 1.25, "tokens_per_s": 321.4, "mfu": 0.41, "memory_bytes": 2_100_000_000}
    stub.answer("GET /fine_tuning/jobs/ftjob-1", JOB | settings | {"progress": JOB["progress"] | measured})
    shown = [" ".join(line.split()) for line in tsugiki("jobs", "show", "ftjob-1").out.splitlines()]
    for line in ("loss 1.500", "validation loss 1.250", "tokens/s 321", "of peak 41.0%", "memory 2.1 GB"):
        assert line in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "submit", "--model", "smollm2", "--train", "rows.jsonl"),
        ("files", "upload", "rows.jsonl"),
        ("base-models", "add", "smollm2", "--from", "no such folder"),
    ],
)
def test_what_is_not_here_ends_with_1(tsugiki: Run, stub: Stub, arguments: tuple[str, ...]) -> None:
    ended = tsugiki(*arguments)
    assert (ended.status, stub.asked, len(ended.err.splitlines())) == (1, [], 1)


def test_ctrl_c_ends_the_watching_and_not_the_job(tsugiki: Run, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "follow", interrupt)
    stub.answer("GET /fine_tuning/jobs/ftjob-1", JOB)
    ended = tsugiki("jobs", "watch", "ftjob-1")
    assert (ended.status, ended.err) == (130, "The job goes on: tsugiki jobs watch ftjob-1\n")


@pytest.mark.parametrize(("state", "status"), [("succeeded", 0), ("failed", 1), ("cancelled", 1)])
def test_watch_ends_with_0_only_if_the_job_succeeded(tsugiki: Run, stub: Stub, state: str, status: int) -> None:
    error = {"message": "The loss is not finite.", "code": "non_finite_loss", "param": None}
    stub.answer("GET /fine_tuning/jobs/ftjob-1", JOB | {"status": state, "error": error if state == "failed" else None})
    stub.answer("GET /fine_tuning/jobs/ftjob-1/events", listed())
    ended = tsugiki("jobs", "watch", "ftjob-1")
    assert ended.status == status
    assert ("The loss is not finite. (code non_finite_loss)" in ended.err) == (state == "failed")


def test_watch_with_json_prints_the_job_alone(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /fine_tuning/jobs/ftjob-1", JOB | {"status": "succeeded"})
    stub.answer("GET /fine_tuning/jobs/ftjob-1/events", listed())
    assert tsugiki("jobs", "watch", "ftjob-1", "--json").json["status"] == "succeeded"


# --- base models ------------------------------------------------------------------------------------------------------


def model_folder(folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).write_text(name)
    return folder


def test_add_sends_only_the_files_that_are_missing(tsugiki: Run, stub: Stub, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "base")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (folder / "modeling.py").write_text("import os")
    files = [
        {"path": "config.json", "bytes": 11, "uploaded": True},
        {"path": "model.safetensors", "bytes": 17, "uploaded": False},
    ]
    stub.answer("POST /base_models", {"id": "base", "files": files})
    stub.answer("PUT /base_models/base/files/model.safetensors", {})
    stub.answer("GET /base_models/base", {"id": "base", "status": "ready", "digest": "sha256:1"})
    assert tsugiki("base-models", "add", "base", "--from", str(folder)).status == 0
    proposed = json.loads(stub.asked[0][2])
    assert [file["path"] for file in proposed["files"]] == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert [request for request in stub.requests() if request.startswith("PUT")] == [
        "PUT /base_models/base/files/model.safetensors"
    ]
    assert stub.asked[1][2] == b"model.safetensors"


def test_a_folder_without_weights_is_refused_before_anything_is_sent(tsugiki: Run, stub: Stub, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    ended = tsugiki("base-models", "add", "base", "--from", str(folder))
    assert (ended.status, stub.asked) == (1, [])
    assert "(code invalid_request, param files)" in ended.err
