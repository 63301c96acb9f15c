"""The commands of the registry: what they ask the service for, and what they say."""

import json
from typing import Any

import pytest

from tests.unit.cli.conftest import Run, Stub

DIGEST = "sha256:" + "0" * 64
ALIAS = {"name": "production", "version": 2, "etag": "ab" * 16, "protected": True, "moved_at": 0, "moved_by": None}
APPROVAL = {
    "id": "approval-1", "adapter": "triage", "version": 3, "state": "pending", "required": 2, "decisions": [],
    "requester": "user-1", "expires_at": 0, "digest": DIGEST, "submitter": "user-2", "note": "n", "evaluation_ids": [],
    "comments": [],
}  # fmt: skip


def body_of(stub: Stub) -> Any:
    return json.loads(stub.asked[-1][2])


def test_an_alias_is_moved_from_where_it_was_seen(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /adapters/triage/aliases/production", ALIAS)
    stub.answer("PUT /adapters/triage/aliases/production", ALIAS | {"version": 3})
    assert tsugiki("adapters", "move", "triage@production", "3").out == (
        "triage@production stands for version 3 (before: 2).\n"
    )
    _request, headers, body = stub.asked[-1]
    assert (headers["if-match"], json.loads(body)) == (f'"{ALIAS["etag"]}"', {"version": 3})
    assert "if-none-match" not in headers


def test_a_new_alias_is_one_that_nobody_made_meanwhile(tsugiki: Run, stub: Stub) -> None:
    stub.refuse("GET /adapters/triage/aliases/staging", 404, "No such alias.", code="not_found")
    stub.answer("PUT /adapters/triage/aliases/staging", ALIAS | {"version": 1})
    assert tsugiki("adapters", "move", "triage@staging", "1").status == 0
    headers = stub.asked[-1][1]
    assert headers["if-none-match"] == "*"
    assert "if-match" not in headers


def test_an_etag_that_was_read_earlier_is_kept_to(tsugiki: Run, stub: Stub) -> None:
    stub.refuse("PUT /adapters/triage/aliases/production", 409, "Somebody was first.", code="stale_version")
    ended = tsugiki("adapters", "move", "triage@production", "3", "--if-match", "cd" * 16)
    assert (ended.status, stub.requests()) == (1, ["PUT /adapters/triage/aliases/production"])
    assert "stale_version" in ended.err
    assert stub.asked[-1][1]["if-match"] == f'"{"cd" * 16}"'


@pytest.mark.parametrize(
    ("command", "request_", "said"),
    [
        (("rollback", "triage@production"), "POST /adapters/triage/aliases/production/rollback", "version 2 again"),
        (("withdraw", "triage@production"), "DELETE /adapters/triage/aliases/production", "withdrawn"),
        (("revoke", "triage@2", "--reason", "x"), "POST /adapters/triage/versions/2/revoke", "triage@2 is revoked"),
        (("retire", "triage@2", "--reason", "x"), "POST /adapters/triage/versions/2/retire", "triage@2 is retired"),
        (("delete", "triage@2"), "DELETE /adapters/triage/versions/2", "Deleted triage@2"),
    ],
)
def test_a_version_or_alias_is_asked_for_by_its_path(
    *, tsugiki: Run, stub: Stub, command: tuple[str, ...], request_: str, said: str
) -> None:
    stub.answer(request_, {"version": 2, "number": 2})
    assert said in tsugiki("adapters", *command).out
    assert stub.requests() == [request_]
    if "--reason" in command:
        assert body_of(stub) == {"reason": "x"}


def test_labels_are_pairs(tsugiki: Run, stub: Stub) -> None:
    stub.answer("POST /adapters/triage/versions/2", {"number": 2})
    tsugiki("adapters", "label", "triage@2", "team=billing", "note=a=b", "--description", "Sorts.")
    assert body_of(stub) == {"labels": {"team": "billing", "note": "a=b"}, "description": "Sorts."}
    tsugiki("adapters", "label", "triage@2", "--description", "")
    assert body_of(stub) == {"description": ""}
    assert "NAME=VALUE" in tsugiki("adapters", "label", "triage@2", "team").err


@pytest.mark.parametrize("reference", ["triage", "@2", "triage@"])
def test_half_a_reference_is_refused_here(tsugiki: Run, stub: Stub, reference: str) -> None:
    ended = tsugiki("adapters", "delete", reference)
    assert (ended.status, stub.requests()) == (1, [])


def test_the_card_is_markdown_or_facts(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /adapters/triage/versions/2/card", b"# triage, version 2\n")
    assert tsugiki("adapters", "card", "triage@2").out == "# triage, version 2\n"
    assert stub.requests() == ["GET /adapters/triage/versions/2/card?format=markdown"]
    stub.answers.clear()
    stub.answer("GET /adapters/triage/versions/2/card", {"number": 2})
    assert tsugiki("adapters", "card", "triage@2", "--json").json == {"number": 2}


def test_a_comparison_shows_what_is_different(tsugiki: Run, stub: Stub) -> None:
    change = {"path": "a.json", "change": "changed", "before": "sha256:1", "after": "sha256:2"}
    loss = {"name": "loss", "before": 2.0, "after": 1.5, "change": -0.5}
    found = {"spec": [], "data": [], "metrics": [loss], "files": [change, change | {"path": "b", "change": "same"}]}
    stub.answer("GET /adapters/triage/compare", found)
    shown = tsugiki("adapters", "compare", "triage", "1").out
    assert stub.requests() == ["GET /adapters/triage/compare?from=1&to=latest"]
    assert "a.json" in shown
    assert "\nb " not in shown
    assert "-0.500" in shown


def test_a_request_names_its_evidence(tsugiki: Run, stub: Stub) -> None:
    stub.answer("POST /approvals", APPROVAL)
    asked = tsugiki("approvals", "request", "triage@3", "--note", "n", "--evaluation", "eval-1")
    assert asked.out == "Asked for triage@3: approval-1\n"
    assert body_of(stub) == {"adapter": "triage", "version": "3", "note": "n", "evaluation_ids": ["eval-1"]}


def test_the_queue_is_what_waits_for_the_caller(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /approvals", {"data": [APPROVAL], "has_more": False})
    assert "triage@3" in tsugiki("approvals", "list", "--waiting").out
    assert "waiting_for=me" in stub.requests()[-1]
    tsugiki("approvals", "list")
    assert "waiting_for" not in stub.requests()[-1]


@pytest.mark.parametrize(
    ("decision", "state", "said"),
    [
        ("approve", "approved", "approved."),
        ("approve", "pending", "others must approve"),
        ("reject", "rejected", "rej"),
    ],
)
def test_a_decision_names_the_digest_that_was_looked_at(
    *, tsugiki: Run, stub: Stub, decision: str, state: str, said: str
) -> None:
    stub.answer("POST /approvals/approval-1/decision", APPROVAL | {"state": state})
    assert tsugiki("approvals", decision, "approval-1").status == 2
    assert stub.requests() == []
    assert said in tsugiki("approvals", decision, "approval-1", "--digest", DIGEST, "--comment", "c").out
    assert body_of(stub) == {"decision": decision, "digest": DIGEST, "comment": "c"}


def test_a_request_is_shown_commented_and_withdrawn(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /approvals/approval-1", APPROVAL)
    stub.answer("POST /approvals/approval-1/comments", APPROVAL)
    stub.answer("POST /approvals/approval-1/withdraw", APPROVAL)
    assert DIGEST in tsugiki("approvals", "show", "approval-1").out
    tsugiki("approvals", "comment", "approval-1", "Why?")
    assert body_of(stub) == {"comment": "Why?"}
    assert "Withdrew" in tsugiki("approvals", "withdraw", "approval-1").out


def test_aliases_and_their_moves_are_listed(tsugiki: Run, stub: Stub) -> None:
    move = {"kind": "moved", "before": 1, "after": 2, "moved_at": 0, "moved_by": "user-1"}
    stub.answer("GET /adapters/triage/aliases", {"data": [ALIAS], "has_more": False})
    stub.answer("GET /adapters/triage/aliases/production/history", {"data": [move], "has_more": False})
    assert "tsugiki" in tsugiki("adapters", "aliases", "triage").out
    assert "user-1" in tsugiki("adapters", "history", "triage@production").out
