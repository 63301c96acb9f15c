"""What becomes of a version: described, compared, handed out, retired, revoked, deleted."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from domain.audit import AuditEvent
from domain.digests import digest_of
from services.code_version import code_version
from tests.integration.api.conftest import ADAPTER_FILES
from tests.integration.api.governed import Governed, code_of, sent
from tests.integration.conftest import http, rows


def events_of(governed: Governed, version: dict[str, Any], action: AuditEvent) -> list[dict[str, Any]]:
    query = {"resource_ids[]": version["id"], "event_types[]": action}
    found: list[dict[str, Any]] = sent(governed("admin").get("/organization/audit_logs", params=query))["data"]
    return found


def test_labels_and_description_are_all_that_can_be_edited(governed: Governed) -> None:
    version = governed.train("labelled")
    path = "/adapters/labelled/versions/1"
    sent(governed("trainer").post(path, json={"labels": {"team": "billing"}, "description": "Sorts tickets."}))
    changed = sent(governed("admin").post(path, json={"labels": {"stage": "pilot"}}))
    assert (changed["labels"], changed["description"]) == ({"stage": "pilot"}, "Sorts tickets.")
    assert {**changed, "labels": {}, "description": ""} == version
    assert code_of(governed("viewer").post(path, json={"labels": {}})) == (403, "permission_denied")
    for body, code in (
        ({"state": "approved"}, "unknown_field"),
        ({"digest": digest_of(b"")}, "unknown_field"),
        ({"labels": {"A": "x"}}, "invalid_request"),
        ({"labels": {"a": 1}}, "wrong_type"),
        ({"labels": {f"a{n}": "x" for n in range(17)}}, "out_of_range"),
        ({"description": "x" * 4001}, "out_of_range"),
    ):
        assert code_of(governed("trainer").post(path, json=body)) == (400, code), body
    assert [event["details"]["changed"] for event in events_of(governed, version, AuditEvent.VERSION_CHANGED)] == [
        ["labels"], ["labels", "description"],
    ]  # fmt: skip


def test_the_card_tells_what_was_written_down_when_it_happened(governed: Governed) -> None:
    version = governed.train("carded", data_class="confidential")
    sent(governed.decide(governed.request(version)))
    sent(governed.move("production", version))
    path = "/adapters/carded/versions/1/card"
    card = sent(governed("viewer").get(path))
    base_model = sent(governed("viewer").get("/base_models/tiny"))
    job = sent(governed("viewer").get(f"/fine_tuning/jobs/{version['job_id']}"))
    assert (card["digest"], card["state"], card["data_class"]) == (version["digest"], "approved", "confidential")
    assert card["base_model"] == {"name": "tiny", "digest": base_model["digest"]}
    assert card["training"]["spec"] == job["spec"]
    assert (card["training"]["seed"], card["training"]["trainer"]) == (job["seed"], governed.person("trainer").id)
    assert card["training"]["person"] == governed.person("trainer").id
    # The fixture plays a worker of this name, in this process.
    assert (card["training"]["worker"], card["training"]["code_version"]) == ("a test", code_version())
    assert card["training"]["versions"] == {"python": "3"}
    file = sent(governed("trainer").get(f"/files/{job['training_file']}"))
    facts = {"id": file["id"], "digest": f"sha256:{file['sha256']}", "rows": 8, "data_class": "confidential",
             "deleted": False}  # fmt: skip
    assert card["data"] == [{"role": "training", **facts}, {"role": "evaluation", **facts}]
    assert card["metrics"]["final_train_loss"] == 1.0
    assert card["evaluations"][0]["base"]["loss"] == 2.0
    assert [(each["state"], len(each["decisions"])) for each in card["approvals"]] == [("approved", 1)]
    assert card["aliases"] == ["latest", "production"]
    assert {file["path"]: file["digest"] for file in card["files"]} == {
        path: digest_of(content) for path, content in ADAPTER_FILES.items()
    }

    shown = governed("viewer").get(path, params={"format": "markdown"})
    assert shown.headers["content-type"].startswith("text/markdown")
    for fact in (version["digest"], base_model["digest"], facts["digest"], "approved"):
        assert fact in shown.text
    assert code_of(governed("viewer").get(path, params={"format": "pdf"})) == (400, "invalid_request")
    # A server's account reads the card, and not what people said about it.
    assert sent(governed("inference").get(path))["approvals"] == []


def test_two_versions_are_compared(governed: Governed) -> None:
    before, after = governed.train("compared"), governed.train("compared")
    query = {"from": "1", "to": "latest"}
    found = sent(governed("viewer").get("/adapters/compared/compare", params=query))
    assert (found["before"], found["after"]) == (1, 2)
    jobs = [sent(governed("viewer").get(f"/fine_tuning/jobs/{each['job_id']}")) for each in (before, after)]
    seeds = {"name": "seed", "before": jobs[0]["seed"], "after": jobs[1]["seed"]}
    assert [{**each, "change": None} for each in found["spec"]] == [{**seeds, "change": None}]
    digests = {each["name"]: (each["before"], each["after"]) for each in found["data"]}
    assert digests["training.digest"] == tuple(job["spec"]["data"]["train"] for job in jobs)
    measured = {each["name"]: each for each in found["metrics"]}
    assert measured["evaluation.adapter.loss"] == {
        "name": "evaluation.adapter.loss", "before": 1.0, "after": 1.0, "change": 0.0,
    }  # fmt: skip
    assert {(each["path"], each["change"]) for each in found["files"]} == {(path, "same") for path in ADAPTER_FILES}
    assert governed("viewer").get("/adapters/compared/compare", params={"from": "1", "to": "9"}).status_code == 404
    missing = governed("viewer").get("/adapters/compared/compare", params={"from": "1"})
    assert code_of(missing) == (400, "missing_field")


def test_a_revoked_version_is_handed_to_nobody_and_no_alias_stands_for_it(governed: Governed) -> None:
    first, version = governed.approved("revoked"), governed.approved("revoked")
    sent(governed.move("production", version))
    sent(governed.move("staging", version))
    assert governed.pull(version, by="inference").is_success
    revoked = sent(governed.end(version, by="approver"))
    assert (revoked["state"], revoked["state_reason"]) == ("revoked", "It is not to be served.")
    assert revoked["state_changed_at"] >= version["state_changed_at"]
    for by in ("trainer", "admin", "inference"):
        assert code_of(governed.pull(version, by=by)) == (409, "version_withdrawn")
    # `latest` goes on to what still stands.
    assert sent(governed("viewer").get("/adapters/revoked"))["aliases"] == {"latest": 1}
    assert governed.pull(first).is_success
    history = sent(governed("viewer").get("/adapters/revoked/aliases/production/history"))["data"]
    assert [(each["kind"], each["before"], each["after"]) for each in history] == [
        ("withdrawn", 2, None), ("moved", None, 2),
    ]  # fmt: skip
    (event,) = events_of(governed, version, AuditEvent.VERSION_REVOKED)
    assert event["details"]["before"] == "approved"
    assert event["details"]["aliases"] == ["latest", "production", "staging"]
    assert "It is not" not in str(event)
    # Once more changes nothing, and says nothing.
    assert sent(governed.end(version, by="admin")) == revoked
    assert len(events_of(governed, version, AuditEvent.VERSION_REVOKED)) == 1
    assert code_of(governed.end(version, "retire", by="admin")) == (409, "conflict")


def test_stopping_takes_one_person(governed: Governed, operator_key: str) -> None:
    mine, other = governed.train("stoppable"), governed.train("stoppable", by="trainer 2")
    assert code_of(governed.end(other)) == (403, "permission_denied")
    sent(governed.end(mine))
    department = governed.department
    with http(department.api_url, operator_key, openai_project=department.id) as operator:
        path = f"/adapters/stoppable/versions/{other['number']}"
        sent(operator.post(f"{path}/revoke", json={"reason": "Asked for by the court."}))
        assert code_of(operator.post(f"{path}/retire", json={"reason": "x"})) == (403, "permission_denied")
    for name in ("viewer", "data_steward", "inference"):
        assert code_of(governed.end(governed.train("stoppable"), by=name)) == (403, "permission_denied")
    for body in ({}, {"reason": ""}, {"reason": "x" * 501}):
        answer = governed("admin").post("/adapters/stoppable/versions/latest/revoke", json=body)
        assert answer.status_code == 400, body


def test_a_version_is_retired_when_no_alias_stands_for_it(governed: Governed) -> None:
    version = governed.approved("retired")
    alias = sent(governed.move("production", version))
    assert code_of(governed.end(version, "retire")) == (409, "in_use")
    sent(governed("admin").delete(f"/adapters/retired/aliases/{alias['name']}"))
    assert sent(governed.end(version, "retire"))["state"] == "retired"
    assert code_of(governed.pull(version)) == (409, "version_withdrawn")
    assert sent(governed("viewer").get("/adapters/retired"))["aliases"] == {}
    # What was taken out of service in good order may still turn out to be harmful.
    assert sent(governed.end(version))["state"] == "revoked"


def test_a_server_gets_what_is_approved_and_in_service(governed: Governed) -> None:
    version = governed.train("served")
    assert code_of(governed.pull(version, by="inference")) == (403, "permission_denied")
    sent(governed.decide(governed.request(version)))
    assert code_of(governed.pull(version, by="inference")) == (403, "permission_denied")
    sent(governed.move("production", version))
    assert governed.pull(version, by="inference").is_success
    pulled = governed("inference").get("/adapters/served/versions/production/content")
    assert pulled.headers["x-adapter-digest"] == version["digest"]


def test_a_deleted_version_leaves_its_row_and_its_number(governed: Governed) -> None:
    first, version = governed.train("deleted", by="trainer 2"), governed.train("deleted")
    path = "/adapters/deleted/versions"
    assert code_of(governed("trainer").delete(f"{path}/1")) == (403, "permission_denied")
    assert sent(governed("trainer").delete(f"{path}/2")) == {
        "id": version["id"], "object": "adapter_version", "deleted": True,
    }  # fmt: skip
    for gone in (path + "/2", path + "/2/card", path + "/2/content", "/models/" + version["model"]):
        assert governed("trainer").get(gone).status_code == 404, gone
    assert [each["number"] for each in sent(governed("trainer").get(path))["data"]] == [1]
    assert version["model"] not in governed("trainer").get("/models").text
    assert sent(governed("trainer").get("/adapters/deleted"))["aliases"] == {"latest": 1}
    assert governed("trainer").delete(f"{path}/2").status_code == 404
    assert sent(governed("trainer").get(f"/lineage/{version['id']}"))["edges"]
    assert governed.train("deleted")["number"] == 3
    # The first one's files have the same bytes: they stay.
    assert governed.pull(first, by="admin").is_success
    assert events_of(governed, version, AuditEvent.VERSION_DELETED)


def test_the_files_of_a_deleted_version_go_when_no_other_has_them(
    governed: Governed, contents: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    only = bytes(range(200)) * 99
    monkeypatch.setitem(ADAPTER_FILES, "adapter_model.safetensors", only)
    version = governed.train("erased")
    stored = digest_of(only).removeprefix("sha256:")
    assert [key for key in contents().objects if key.endswith(stored)]
    sent(governed("trainer").delete(f"/adapters/erased/versions/{version['number']}"))
    assert not [key for key in contents().objects if key.endswith(stored)]


def test_a_version_in_use_or_of_others_is_not_deleted(governed: Governed) -> None:
    version = governed.approved("kept")
    path = "/adapters/kept/versions/1"
    assert code_of(governed("trainer").delete(path)) == (403, "permission_denied")
    alias = sent(governed.move("staging", version))
    assert code_of(governed("admin").delete(path)) == (409, "in_use")
    sent(governed("admin").delete(f"/adapters/kept/aliases/{alias['name']}"))
    sent(governed("admin").delete(path))
    for name in ("viewer", "approver", "inference", "data_steward"):
        governed.train("kept")
        assert code_of(governed(name).delete("/adapters/kept/versions/latest")) == (403, "permission_denied")


def go_on_from(governed: Governed, version: dict[str, Any]) -> httpx.Response:
    file = governed.department.upload(rows(8, salt=next(governed.salts)))
    return governed("trainer").post("/fine_tuning/jobs", json={"model": version["model"], "training_file": file})


def test_a_version_that_a_job_goes_on_from_is_not_deleted_before_the_job_has_ended(governed: Governed) -> None:
    version = governed.train("parent")
    path = f"/adapters/parent/versions/{version['number']}"
    job = sent(go_on_from(governed, version))["id"]
    refused = governed("trainer").delete(path)
    assert (code_of(refused), job in refused.text) == ((409, "in_use"), True)
    sent(governed("trainer").post(f"/fine_tuning/jobs/{job}/cancel"))
    sent(governed("trainer").delete(path))


def test_nobody_goes_on_from_a_version_that_was_deleted(governed: Governed) -> None:
    version = governed.train("parent")
    sent(governed("trainer").delete(f"/adapters/parent/versions/{version['number']}"))
    assert code_of(go_on_from(governed, version)) == (409, "parent_unusable")


def test_a_rejected_version_that_is_retired_is_gone_on_from_no_more_than_before(governed: Governed) -> None:
    rejected, retired = governed.train("parent"), governed.train("parent")
    sent(governed.decide(governed.request(rejected), "reject", comment="No."))
    assert code_of(go_on_from(governed, rejected)) == (409, "parent_unusable")
    for version in (rejected, retired):
        sent(governed.end(version, "retire", by="admin"))
    assert code_of(go_on_from(governed, rejected)) == (409, "parent_unusable")
    # The control: to be retired in good order does not make a version unusable.
    sent(go_on_from(governed, retired))
