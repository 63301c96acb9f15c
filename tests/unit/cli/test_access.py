"""What the command line asks of the service for access: who may what, and by whom it is given."""

import json

import pytest

from domain.access import MATRIX, Permission, Role
from tests.unit.cli.conftest import Run, Stub


def asked(stub: Stub) -> list[tuple[str, object]]:
    return [(request, json.loads(body) if body else None) for request, _headers, body in stub.asked]


def test_the_table_is_printed_without_asking_the_service(tsugiki: Run, stub: Stub) -> None:
    shown = json.loads(tsugiki("access", "--json").out)
    assert {row["permission"] for row in shown} == set(Permission)
    (cancel,) = (row for row in shown if row["permission"] == "job.cancel")
    assert {role: cancel[role] for role in MATRIX[Permission.JOB_CANCEL]} == MATRIX[Permission.JOB_CANCEL]
    assert cancel[Role.VIEWER] == ""
    assert stub.asked == []


ERASURE = {
    "id": "erasure-1", "file_id": "file-1", "state": "requested", "reason": "asked", "running_jobs": "finish",
    "descends": {
        "versions": [{"adapter": "triage", "number": 3, "relation": "trained_on"}], "jobs": [], "evaluations": [],
        "holders": [], "deployments": [], "same_bytes": [],
    },
    "digest": "sha256:0", "requested_at": 1, "requested_by": "user-1", "confirmed_by": None, "ended_at": None,
    "erased": None,
}  # fmt: skip
WEBHOOK = {
    "id": "wh_1", "name": "x", "url": "https://x.example/", "event_types": ["alias.moved"], "created_at": 1,
    "updated_at": 1, "signing_secret": "whsec_x", "signing_secret_hint": "x",
}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "request_line", "body", "answer"),
    [
        (
            ("shares", "ask", "ft:x", "--with", "proj_1", "--days", "3"),
            "POST /fine_tuning/checkpoints/ft:x/permissions", {"project_ids": ["proj_1"], "expires_in_days": 3},
            {"data": []},
        ),
        (("shares", "approve", "cp_1"), "POST /shares/cp_1/approve", None, {"project_id": "p", "expires_at": 1}),
        (("shares", "end", "ft:x", "cp_1"), "DELETE /fine_tuning/checkpoints/ft:x/permissions/cp_1", None, {}),
        (
            ("break-glass", "ask", "wrong rows", "--minutes", "30"), "POST /organization/break_glass",
            {"reason": "wrong rows", "minutes": 30}, {"id": "glass-1"},
        ),
        (("break-glass", "open", "glass-1"), "POST /organization/break_glass/glass-1/open", None, {"expires_at": 1}),
        (("break-glass", "key", "glass-1"), "POST /organization/break_glass/glass-1/key", None, {"value": "tsk_x"}),
        (("break-glass", "close", "glass-1"), "POST /organization/break_glass/glass-1/close", None, {}),
        (
            ("files", "grant", "file-1", "user-1", "--days", "7"), "POST /files/file-1/grants",
            {"user_id": "user-1", "expires_in_days": 7}, {"id": "filegrant-1", "expires_at": 1},
        ),
        (("files", "end-grant", "file-1", "filegrant-1"), "DELETE /files/file-1/grants/filegrant-1", None, {}),
        (
            ("departments", "close", "proj_1", "--yes"), "POST /organization/projects/proj_1/archive", None,
            {"name": "hr", "archived_at": 1},
        ),
        (
            ("departments", "change", "proj_1", "--default-data-class", "restricted"),
            "POST /organization/projects/proj_1", {"default_data_class": "restricted"},
            {"name": "hr", "default_data_class": "restricted"},
        ),
        (
            ("erasures", "request", "file-1", "--reason", "asked", "--running-jobs", "finish"),
            "POST /files/file-1/erasures", {"reason": "asked", "running_jobs": "finish"}, ERASURE,
        ),
        (("erasures", "show", "erasure-1"), "GET /erasures/erasure-1", None, ERASURE),
        (
            ("erasures", "confirm", "erasure-1", "--digest", "sha256:0"), "POST /erasures/erasure-1/confirm",
            {"digest": "sha256:0"}, ERASURE,
        ),
        (("erasures", "withdraw", "erasure-1"), "POST /erasures/erasure-1/withdraw", None, {}),
        (
            ("deployments", "report", "triage@3", "--server", "gpu-1", "--state", "unloaded"), "POST /deployments",
            {"adapter": "triage", "version": "3", "server": "gpu-1", "state": "unloaded"},
            {"state": "unloaded", "adapter": "triage", "version": 3, "must_unload": False},
        ),
        (
            ("webhooks", "create", "https://x.example/", "--name", "x", "--event", "alias.moved"),
            "POST /webhook_endpoints",
            {"name": "x", "url": "https://x.example/", "event_types": ["alias.moved"]}, WEBHOOK,
        ),
        (
            ("webhooks", "test", "wh_1", "--event", "alias.moved"), "POST /webhook_endpoints/wh_1/test",
            {"event_type": "alias.moved"}, {"status_code": 204},
        ),
        (
            ("webhooks", "rotate-secret", "wh_1", "--keep-old"), "POST /webhook_endpoints/wh_1/rotate_secret",
            {"keep_old_secret_active_for_24_hours": True}, WEBHOOK,
        ),
        (("webhooks", "delete", "wh_1"), "DELETE /webhook_endpoints/wh_1", None, {}),
        (("logout",), "DELETE /sessions", None, {}),
    ],
)  # fmt: skip
def test_a_command_asks_for_what_it_says(
    *, tsugiki: Run, stub: Stub, words: tuple[str, ...], request_line: str, body: object, answer: object
) -> None:
    stub.answer(request_line, answer)
    ended = tsugiki(*words)
    assert ended.status == 0, ended
    assert asked(stub)[-1] == (request_line, body)
