import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Run, Stub

REASON = {"code": "beyond_threshold", "message": "The loss is 2.0000; required: at most 1.", "param": "department:x"}
VERDICT: dict[str, Any] = {
    "object": "policy.verdict", "adapter": "support", "version": 7, "state": "candidate", "digest": "sha256:0",
    "data_class": "internal", "purpose": "approval", "passed": True, "reasons": [], "required_approvals": 1,
    "policies": [], "policy_digest": None,
}  # fmt: skip
FAILED = VERDICT | {"passed": False, "reasons": [REASON, REASON | {"code": "not_servable", "message": "No DoRA."}]}
POLICY: dict[str, Any] = {
    "id": "policy-1", "object": "policy", "scope": "department", "version": 3, "document": "format: 1 # käse\n",
    "digest": "sha256:1", "created_at": 0, "created_by": "user-1",
}  # fmt: skip
QUESTION = "GET /adapters/support/versions/7/verdict"


def test_a_check_passes_with_0(stub: Stub, tsugiki: Run) -> None:
    stub.answer(QUESTION, VERDICT)
    checked = tsugiki("policy", "check", "support", "7")
    assert (checked.status, checked.out) == (0, "support@7 (candidate) passes; approvals needed: 1\n")
    assert stub.requests() == [f"{QUESTION}?purpose=approval"]


def test_a_check_fails_with_1_and_every_reason(stub: Stub, tsugiki: Run) -> None:
    stub.answer(QUESTION, FAILED)
    checked = tsugiki("policy", "check", "support", "7")
    assert checked.status == 1
    assert checked.out.splitlines() == [
        "support@7 (candidate) does not pass; approvals needed: 1",
        "  The loss is 2.0000; required: at most 1. (beyond_threshold, department:x)",
        "  No DoRA. (not_servable, department:x)",
    ]
    in_json = tsugiki("policy", "check", "support", "7", "--json")
    assert (in_json.status, json.loads(in_json.out)) == (1, FAILED)


@pytest.mark.parametrize(("status", "code"), [(404, "not_found"), (403, "permission_denied"), (503, "unavailable")])
def test_a_check_that_cannot_be_made_exits_with_2(stub: Stub, tsugiki: Run, status: int, code: str) -> None:
    stub.refuse(QUESTION, status, "No.", code=code)
    checked = tsugiki("policy", "check", "support", "7")
    assert (checked.status, checked.out, checked.err) == (2, "", f"error: No. (code {code})\n")


def test_a_check_without_a_service_or_a_key_exits_with_2(tsugiki: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSUGIKI_BASE_URL", "http://127.0.0.1:9/v1")
    assert tsugiki("policy", "check", "support", "7").status == 2
    monkeypatch.delenv("TSUGIKI_API_KEY")
    assert tsugiki("policy", "check", "support", "7").status == 2


def test_a_document_is_sent_as_it_is(stub: Stub, tsugiki: Run, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_bytes(b"format: 1 # \xff\r\n")
    stub.answer("POST /organization/policies", POLICY | {"scope": "organisation"})
    put = tsugiki("policy", "put", str(file), "--scope", "organisation")
    assert put.out == "Version 3 of the organisation's policy is in force: sha256:1.\n"
    ((_, headers, body),) = stub.asked
    assert (headers["content-type"], body) == ("application/yaml", b"format: 1 # \xff\r\n")


def test_a_refused_document_is_told_with_its_lines(stub: Stub, tsugiki: Run, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_bytes(b"a: 1\n")
    stub.refuse("POST /policies", 400, "Line 1: no.", code="invalid_policy", param="policy:1")
    refused = tsugiki("policy", "put", str(file))
    assert (refused.status, refused.err) == (1, "error: Line 1: no. (code invalid_policy, param policy:1)\n")


def test_a_trial_tells_each_version_and_sums_up(stub: Stub, tsugiki: Run, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_bytes(b"format: 1\n")
    answer = {"object": "policy.test", "passed": 1, "failed": 1, "data": [VERDICT, FAILED]}
    stub.answer("POST /policies/test", answer)
    tried = tsugiki("policy", "test", str(file), "--limit", "5")
    assert tried.out.splitlines()[0].startswith("support@7 (candidate) passes")
    assert tried.out.splitlines()[-1] == "1 would pass, 1 would not."
    assert len(tried.out.splitlines()) == 5
    assert stub.requests() == ["POST /policies/test?limit=5"]
    assert json.loads(tsugiki("policy", "test", str(file), "--json").out) == answer


def test_a_document_is_shown_byte_for_byte_and_its_history_and_changes(stub: Stub, tsugiki: Run) -> None:
    stub.answer("GET /policies/current", POLICY)
    assert tsugiki("policy", "show").out == "format: 1 # käse\n"
    stub.answer("GET /policies", {"object": "list", "data": [POLICY], "has_more": False, "last_id": "x"})
    assert tsugiki("policy", "history").out.splitlines()[1].split()[:2] == ["3", "sha256:1"]
    changed = {"path": "training.max_rank", "before": "8", "after": None}
    stub.answer("GET /policies/3/diff", {"changes": [changed], "text": "--- a\n+++ b\n-x: \x1b[2J\n"})
    told = tsugiki("policy", "diff", "3", "1").out
    assert "training.max_rank" in told
    assert told.splitlines()[-1] == "-x: \ufffd[2J"
    assert stub.requests()[-1] == "GET /policies/3/diff?against=1"


@pytest.mark.parametrize(
    ("config", "options", "status", "words"),
    [
        ({"r": 16}, [], 0, "vLLM would load it."),
        ({"r": 17}, [], 1, "vLLM loads ranks to 16, and one is up to 17."),
        ({"r": 17}, ["--max-lora-rank", "32"], 0, "vLLM would load it."),
        ({"r": 8, "use_dora": True}, [], 1, "vLLM does not load DoRA."),
        ({"r": 8}, ["--max-lora-rank", "12"], 2, "max_lora_rank must be 1, 8,"),
        ({}, [], 2, "This is not the adapter_config.json of a LoRA adapter."),
        (None, [], 2, "There is no adapter_config.json that can be read."),
    ],
)
def test_a_folder_is_servable_or_not(
    *, tsugiki: Run, tmp_path: Path, config: dict[str, Any] | None, options: list[str], status: int, words: str
) -> None:
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    told = tsugiki("policy", "servable", str(tmp_path), *options)
    assert told.status == status
    assert words in told.out + told.err
