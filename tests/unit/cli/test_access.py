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
