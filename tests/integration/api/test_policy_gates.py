"""What a policy holds up on a version's way: asking, deciding, going into production, and coming back from there."""

from typing import Any

import httpx
import pytest

from domain.digests import digest_of
from tests.integration.api.governed import Governed, code_of, sent
from tests.integration.conftest import rows

OPEN = b"format: 1\n"
# The versions of the tests are evaluated on the rows that they were trained on, and come from a run of rank 8.
GATE = b"format: 1\nrelease: {evaluations: [{measure: loss, at_most: 2}], servable_by: {vllm: {max_lora_rank: 1}}}\n"
REASONS = ["not_held_out", "not_servable"]


def put(governed: Governed, document: bytes) -> dict[str, Any]:
    return sent(governed("admin").post("/policies", content=document, headers={"content-type": "application/yaml"}))


def digest_in_force(stored: dict[str, Any]) -> str:
    return digest_of(f"department {stored['version']} {stored['digest']}\n".encode())


def reasons(answer: httpx.Response) -> list[str]:
    assert code_of(answer) == (400, "policy_violation")
    assert answer.headers["x-should-retry"] == "false"
    return [each["code"] for each in answer.json()["error"]["details"]]


def ask(governed: Governed, version: dict[str, Any]) -> httpx.Response:
    return governed("trainer").post("/approvals", json={"adapter": version["adapter"], "version": "1"})


@pytest.fixture(autouse=True)
def nothing_ruled(governed: Governed) -> None:
    put(governed, OPEN)


def test_what_fails_the_gate_is_not_even_asked_for(governed: Governed) -> None:
    version = governed.train("gated")
    put(governed, GATE)
    assert reasons(ask(governed, version)) == REASONS
    asked = {"event_types[]": "access.denied", "limit": 1}
    (denied,) = sent(governed("admin").get("/organization/audit_logs", params=asked))["data"]
    assert (denied["reason"], denied["details"]["route"]) == ("policy_violation", "/v1/approvals")
    assert sent(governed("admin").get("/approvals", params={"version_id": version["id"]}))["data"] == []
    stored = put(governed, OPEN)
    assert sent(ask(governed, version))["policy_digest"] == digest_in_force(stored)


def test_a_policy_that_came_since_holds_up_the_approval_and_not_the_rejection(governed: Governed) -> None:
    first, second = (governed.request(governed.train(name)) for name in ("since", "since-2"))
    stored = put(governed, GATE)
    assert reasons(governed.decide(first)) == REASONS
    assert sent(governed("trainer").get(f"/approvals/{first['id']}"))["decisions"] == []
    rejected = sent(governed.decide(first, "reject"))
    assert (rejected["state"], rejected["decisions"][0]["policy_digest"]) == ("rejected", digest_in_force(stored))
    stored = put(governed, OPEN)
    approved = sent(governed.decide(second))
    assert (approved["state"], approved["decisions"][0]["policy_digest"]) == ("approved", digest_in_force(stored))
    asked = {"event_types[]": "adapter.version.approved", "limit": 1}
    (event,) = sent(governed("admin").get("/organization/audit_logs", params=asked))["data"]
    assert event["details"]["policy"] == digest_in_force(stored)


def test_a_policy_may_ask_for_more_people_also_after_the_request(governed: Governed) -> None:
    asked = governed.request(governed.train("many"))
    assert asked["required"] == 1
    put(governed, b"format: 1\nrelease: {approvals: {internal: 2}}\n")
    assert governed.request(governed.train("many-2"))["required"] == 2
    assert sent(governed.decide(asked))["state"] == "pending"
    assert sent(governed.decide(asked, by="approver 2"))["state"] == "approved"


def test_a_policy_that_asks_for_fewer_since_does_not_undo_what_was_asked_for(governed: Governed) -> None:
    put(governed, b"format: 1\nrelease: {approvals: {internal: 2}}\n")
    asked = governed.request(governed.train("fewer"))
    put(governed, OPEN)
    assert sent(governed.decide(asked))["state"] == "pending"
    assert sent(governed.decide(asked, by="approver 2"))["state"] == "approved"


def test_production_is_held_up_and_other_names_are_not(governed: Governed) -> None:
    version = governed.approved("moved")
    put(governed, GATE)
    assert reasons(governed.move("production", version)) == REASONS
    assert sent(governed.move("staging", version, by="trainer"))["version"] == 1
    stored = put(governed, OPEN)
    sent(governed.move("production", version))
    (move,) = sent(governed("trainer").get("/adapters/moved/aliases/production/history"))["data"]
    assert (move["protected"], move["policy_digest"]) == (True, digest_in_force(stored))
    (move,) = sent(governed("trainer").get("/adapters/moved/aliases/staging/history"))["data"]
    assert (move["protected"], move["policy_digest"]) == (False, None)


def test_a_rollback_is_not_asked_to_be_better_than_what_it_takes_back(governed: Governed) -> None:
    held_out = governed.department.upload(rows(8, salt=4711))
    versions = [train_apart(governed, held_out) for _ in range(2)]
    for version in versions:
        sent(governed.decide(governed.request(version)))
    first, second = versions
    standing = sent(governed.move("production", first))
    standing = sent(governed.move("production", second, if_match=standing["etag"]))
    # Both came to the same loss: neither is better than the other.
    put(governed, b"format: 1\nrelease: {evaluations: [{measure: loss, better_than_production_by: 0.1}]}\n")
    assert reasons(governed.move("production", first, if_match=standing["etag"])) == ["worse_than_production"]
    path = "/adapters/apart/aliases/production/rollback"
    comparing = sent(governed("admin").get("/policies/current"))["document"].encode()
    # What it may not be at all, it may not be again.
    put(governed, b"format: 1\ntraining: {max_rank: 4}\n")
    assert reasons(governed("admin").post(path)) == ["rank_not_allowed"]
    put(governed, comparing)
    assert sent(governed("admin").post(path))["version"] == 1


def train_apart(governed: Governed, held_out: str) -> dict[str, Any]:
    """A version that was evaluated on rows that it has not learned from."""
    file = governed.department.upload(rows(8, salt=next(governed.salts)))
    body = {"model": governed.base_model, "training_file": file, "suffix": "apart", "evaluation_file": held_out}
    job = sent(governed("trainer").post("/fine_tuning/jobs", json=body))["id"]
    governed.finish(governed.department, job)
    return sent(governed("trainer").get("/adapters/apart/versions/latest"))


def test_a_class_of_data_that_is_not_allowed_stops_the_job_and_what_is_made_of_it(
    governed: Governed, base_model: str
) -> None:
    secret = governed.train("secret", data_class="confidential")
    put(governed, b"format: 1\ntraining: {data_classes: [public, internal]}\n")
    assert reasons(ask(governed, secret)) == ["data_class_not_allowed"]
    form = {"purpose": "fine-tune", "data_class": "confidential"}
    content = rows(8, salt=next(governed.salts))
    file = sent(governed("trainer").post("/files", data=form, files={"file": ("rows.jsonl", content)}))["id"]
    harmless = governed.department.upload(rows(4, salt=next(governed.salts)))
    for learned_from in ({"training_file": file}, {"training_file": harmless, "validation_file": file}):
        refused = governed("trainer").post("/fine_tuning/jobs", json={"model": base_model} | learned_from)
        assert reasons(refused) == ["data_class_not_allowed"]
    # A version remembers it for all that go on from it, whatever they learn beside.
    going_on = {"model": secret["model"], "training_file": harmless}
    assert reasons(governed("trainer").post("/fine_tuning/jobs", json=going_on)) == ["data_class_not_allowed"]
    # Held-out rows teach nothing.
    held_out = {"model": base_model, "training_file": harmless, "evaluation_file": file}
    assert governed("trainer").post("/fine_tuning/jobs", json=held_out).is_success
