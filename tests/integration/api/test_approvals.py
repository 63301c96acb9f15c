"""Approval: asked for with evidence, decided by other people, about these bytes and no others."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from domain.audit import AuditEvent
from domain.digests import digest_of
from domain.ids import IdKind, parse_id
from tests.integration.api.governed import Governed, code_of, sent
from tests.integration.conftest import Database, http


def queue(governed: Governed, name: str) -> list[str]:
    return [each["id"] for each in sent(governed(name).get("/approvals", params={"waiting_for": "me"}))["data"]]


def test_another_person_approves_and_the_version_is_approved(governed: Governed) -> None:
    version = governed.train("first")
    evaluation = version["evaluation"][0]["id"]
    asked = governed.request(version, note="Better than the last one.", evaluation_ids=[evaluation])
    assert (asked["state"], asked["required"], asked["digest"]) == ("pending", 1, version["digest"])
    trainer = governed.person("trainer").id
    assert (asked["submitter"], asked["requester"], asked["requested_by"]) == (trainer, trainer, trainer)
    assert asked["evaluation_ids"] == [evaluation]
    assert asked["id"] in queue(governed, "approver")
    assert queue(governed, "trainer") == queue(governed, "viewer") == []

    decided = sent(governed.decide(asked, comment="Agreed."))
    assert decided["state"] == "approved"
    assert decided["closed_at"] >= decided["created_at"]
    assert [(each["approver"], each["decision"], each["comment"]) for each in decided["decisions"]] == [
        (governed.person("approver").id, "approve", "Agreed.")
    ]
    assert asked["id"] not in queue(governed, "approver")
    assert governed.version(version)["state"] == "approved"
    for client in ("viewer", "trainer", "approver", "admin"):
        assert sent(governed(client).get(f"/approvals/{asked['id']}")) == decided


def test_a_page_tells_of_each_request_what_is_told_of_it_alone(governed: Governed) -> None:
    decided, discussed = (governed.request(governed.train(adapter)) for adapter in ("paged", "paged-as-well"))
    sent(governed.decide(decided, comment="Agreed."))
    for remark in ("One word.", "And another."):
        sent(governed("approver").post(f"/approvals/{discussed['id']}/comments", json={"comment": remark}))
    page = {each["id"]: each for each in sent(governed("viewer").get("/approvals"))["data"]}
    for asked in (decided, discussed):
        assert page[asked["id"]] == sent(governed("viewer").get(f"/approvals/{asked['id']}"))
    assert [each["comment"] for each in page[discussed["id"]]["comments"]] == ["One word.", "And another."]
    assert (page[decided["id"]]["adapter"], page[discussed["id"]]["adapter"]) == ("paged", "paged-as-well")


def test_one_rejection_is_enough_and_final(governed: Governed) -> None:
    version = governed.train("bad")
    staging = sent(governed.move("staging", version))
    assert staging["version"] == 1
    assert sent(governed.decide(governed.request(version), "reject", comment="No."))["state"] == "rejected"
    assert governed.version(version)["state"] == "rejected"
    assert sent(governed("viewer").get("/adapters/bad"))["aliases"] == {}
    assert code_of(governed.pull(version)) == (409, "version_withdrawn")
    again = governed("trainer").post("/approvals", json={"adapter": "bad", "version": "1"})
    assert code_of(again) == (409, "already_decided")


def test_nobody_decides_about_their_own_version_or_request(governed: Governed) -> None:
    """Roles change: who trained it may be an approver by the time somebody else asks."""
    version = governed.train("own", by="trainer 2")
    governed.now_approves("trainer 2")
    asked = governed.request(version)
    assert asked["id"] not in queue(governed, "trainer 2")
    assert code_of(governed.decide(asked, by="trainer 2")) == (403, "separation_of_duties")
    assert code_of(governed.decide(asked, "reject", by="trainer 2")) == (403, "separation_of_duties")

    # Nor does who asked.
    other = governed.train("asked")
    asked = governed.request(other, by="trainer 3")
    governed.now_approves("trainer 3")
    assert code_of(governed.decide(asked, by="trainer 3")) == (403, "separation_of_duties")
    assert sent(governed.decide(asked))["state"] == "approved"


def test_a_decision_is_made_once_and_about_the_bytes_that_were_looked_at(governed: Governed) -> None:
    version = governed.train("bytes")
    asked = governed.request(version)
    other = governed.decide(asked, digest=digest_of(b"other bytes"))
    assert code_of(other) == (409, "digest_changed")
    assert governed.version(version)["state"] == "candidate"
    sent(governed.decide(asked))
    for decision in ("approve", "reject"):
        for by in ("approver", "approver 2"):
            assert code_of(governed.decide(asked, decision, by=by)) == (409, "already_decided")


def test_restricted_rows_need_two_people(governed: Governed) -> None:
    version = governed.train("secret", data_class="restricted")
    assert version["data_class"] == "restricted"
    asked = governed.request(version)
    assert asked["required"] == 2
    assert sent(governed.decide(asked))["state"] == "pending"
    assert governed.version(version)["state"] == "candidate"
    assert code_of(governed.decide(asked)) == (409, "already_decided")
    assert asked["id"] not in queue(governed, "approver")
    assert asked["id"] in queue(governed, "approver 2")
    assert sent(governed.decide(asked, by="approver 2"))["state"] == "approved"
    assert governed.version(version)["state"] == "approved"


def test_a_departments_own_default_makes_rows_restricted(governed: Governed) -> None:
    project = f"/organization/projects/{governed.department.id}"
    assert sent(governed("admin").get(project))["default_data_class"] == "internal"
    assert code_of(governed("trainer").post(project, json={"default_data_class": "restricted"}))[0] == 403
    assert code_of(governed("admin").post(project, json={"default_data_class": "public"})) == (400, "invalid_request")
    sent(governed("admin").post(project, json={"default_data_class": "restricted"}))
    try:
        assert governed.train("by-default")["data_class"] == "restricted"
        # The fixture's trainer is a data steward as well; who is not cannot make rows less confidential.
        assert governed.train("lowered", data_class="public")["data_class"] == "public"
        form = {"purpose": "fine-tune", "data_class": "internal"}
        refused = governed("trainer 5").post("/files", data=form, files={"file": ("x.jsonl", b"{}")})
        assert refused.status_code in {400, 403}
    finally:
        sent(governed("admin").post(project, json={"default_data_class": "internal"}))
    bad = governed("trainer").post(
        "/files", data={"purpose": "fine-tune", "data_class": "x"}, files={"file": ("x", b"")}
    )
    assert bad.json()["error"]["param"] == "data_class"


def test_what_is_behind_a_key_is_a_person(governed: Governed) -> None:
    """A robot's version is that of the person who answers for the robot."""
    accounts = f"/organization/projects/{governed.department.id}/service_accounts"
    made = sent(governed("admin").post(accounts, json={"name": "ci", "roles": ["trainer", "data_steward"]}))
    with http(governed.department.api_url, made["api_key"]["value"]) as robot:
        governed.clients["robot"] = robot
        version = governed.train("robots", by="robot")
        asked = governed.request(version, by="robot")
    del governed.clients["robot"]
    admin = governed.person("admin").id
    assert (asked["submitter"], asked["requester"]) == (admin, admin)
    assert asked["requested_by"] == made["id"]
    assert sent(governed.decide(asked))["state"] == "approved"


def test_a_request_waits_once_and_only_so_long(governed: Governed, database: Database) -> None:
    version = governed.train("slow")
    asked = governed.request(version)
    body = {"adapter": "slow", "version": "1"}
    assert code_of(governed("trainer").post("/approvals", json=body)) == (409, "approval_pending")
    assert asked["expires_at"] - asked["created_at"] == timedelta(days=14).total_seconds()
    _let_expire(database, asked)
    assert sent(governed("trainer").get(f"/approvals/{asked['id']}"))["state"] == "expired"
    assert asked["id"] not in queue(governed, "approver")
    assert [each["id"] for each in sent(governed("trainer").get("/approvals?state=expired"))["data"]] == [asked["id"]]
    assert code_of(governed.decide(asked)) == (409, "approval_expired")
    assert governed.version(version)["state"] == "candidate"
    again = governed.request(version)
    assert sent(governed.decide(again))["state"] == "approved"
    assert sent(governed("trainer").get(f"/approvals/{asked['id']}"))["state"] == "expired"


def _let_expire(database: Database, asked: dict[str, Any]) -> None:
    engine = create_engine(database.admin_url)
    with engine.begin() as connection:
        over = text("UPDATE approval_requests SET expires_at = now() WHERE id = :id")
        connection.execute(over, {"id": parse_id(IdKind.APPROVAL, asked["id"])})
    engine.dispose()


def test_a_request_is_taken_back_by_who_asked_or_by_an_admin(governed: Governed) -> None:
    version = governed.train("regretted")
    for by in ("trainer", "admin"):
        asked = governed.request(version)
        assert code_of(governed("trainer 6").post(f"/approvals/{asked['id']}/withdraw")) == (403, "permission_denied")
        assert sent(governed(by).post(f"/approvals/{asked['id']}/withdraw"))["state"] == "withdrawn"
        assert code_of(governed.decide(asked)) == (409, "already_decided")
        assert code_of(governed(by).post(f"/approvals/{asked['id']}/withdraw")) == (409, "already_decided")


def test_what_is_revoked_is_not_decided_about_any_more(governed: Governed) -> None:
    version = governed.train("gone")
    asked = governed.request(version)
    sent(governed.end(version))
    assert sent(governed("viewer").get(f"/approvals/{asked['id']}"))["state"] == "withdrawn"
    assert code_of(governed.decide(asked)) == (409, "already_decided")
    assert code_of(governed("trainer").post("/approvals", json={"adapter": "gone", "version": "1"}))[1] == (
        "already_decided"
    )


def test_people_say_something_to_a_request(governed: Governed) -> None:
    asked = governed.request(governed.train("discussed"))
    path = f"/approvals/{asked['id']}/comments"
    sent(governed("approver").post(path, json={"comment": "Which rows are these?"}))
    said = sent(governed("trainer").post(path, json={"comment": "Those of May."}))["comments"]
    assert [(each["author"], each["comment"]) for each in said] == [
        (governed.person("approver").id, "Which rows are these?"), (governed.person("trainer").id, "Those of May."),
    ]  # fmt: skip
    assert code_of(governed("viewer").post(path, json={"comment": "I too"})) == (403, "permission_denied")
    found = governed("admin").get("/organization/audit_logs", params={"resource_ids[]": asked["version_id"]})
    assert "May" not in found.text


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"version": "9"}, (404, "not_found"), None),
        ({"adapter": "nobody"}, (404, "not_found"), None),
        ({"evaluation_ids": ["eval-" + "0" * 32]}, (400, "unknown_evaluation"), "evaluation_ids"),
        ({"evaluation_ids": ["x"]}, (400, "unknown_evaluation"), "evaluation_ids"),
        ({"evaluation_ids": ["x"] * 33}, (400, "out_of_range"), "evaluation_ids"),
        ({"note": "x" * 4001}, (400, "out_of_range"), "note"),
        ({"version": 1}, (400, "wrong_type"), "version"),
        ({"approver": "me"}, (400, "unknown_field"), "approver"),
    ],
)
def test_a_request_that_says_something_else_is_refused(
    governed: Governed, body: dict[str, object], code: tuple[int, str], param: str | None
) -> None:
    governed.version(governed.train("checked"))
    refused = governed("trainer").post("/approvals", json={"adapter": "checked", "version": "1"} | body)
    assert code_of(refused) == code
    assert refused.json()["error"]["param"] == param


def test_another_versions_evaluation_is_no_evidence(governed: Governed) -> None:
    other, version = governed.train("evidence"), governed.train("evidence")
    body = {"adapter": "evidence", "version": str(version["number"]),
            "evaluation_ids": [other["evaluation"][0]["id"]]}  # fmt: skip
    assert code_of(governed("trainer").post("/approvals", json=body)) == (400, "unknown_evaluation")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"decision": "maybe"}, "invalid_request"),
        ({"decision": None}, "invalid_request"),
        ({"digest": "x"}, "invalid_request"),
        ({"comment": 1}, "wrong_type"),
    ],
)
def test_a_decision_says_what_and_about_which_bytes(governed: Governed, body: dict[str, object], code: str) -> None:
    version = governed.train("odd")
    asked = governed.request(version)
    assert code_of(governed.decide(asked, **({"decision": "approve"} | body)))[1] == code  # type: ignore[arg-type]
    for missing in ("decision", "digest"):
        whole = {"decision": "approve", "digest": asked["digest"]}
        del whole[missing]
        assert code_of(governed("approver").post(f"/approvals/{asked['id']}/decision", json=whole))[1] == (
            "missing_field"
        )


def test_only_who_holds_the_right_decides_and_each_step_is_in_the_trail(governed: Governed) -> None:
    version = governed.train("told", data_class="restricted")
    asked = governed.request(version)
    for name in ("trainer", "admin", "viewer", "data_steward", "inference"):
        assert code_of(governed.decide(asked, by=name)) == (403, "permission_denied")
    sent(governed("approver").post(f"/approvals/{asked['id']}/comments", json={"comment": "?"}))
    sent(governed.decide(asked))
    sent(governed.decide(asked, by="approver 2"))
    found = governed("admin").get("/organization/audit_logs", params={"resource_ids[]": version["id"], "limit": 100})
    told = [event for event in sent(found)["data"] if "approv" in event["type"]]
    assert [event["type"] for event in told[::-1]] == [
        AuditEvent.VERSION_APPROVAL_REQUESTED, AuditEvent.VERSION_APPROVAL_COMMENTED,
        AuditEvent.VERSION_APPROVAL_GIVEN, AuditEvent.VERSION_APPROVED,
    ]  # fmt: skip
    people = [event["actor"]["api_key"]["user"]["id"] for event in told]
    assert people[:2] == [governed.person("approver 2").id, governed.person("approver").id]
    assert all(event["details"]["digest"] == version["digest"] for event in told)


def test_who_sees_metadata_sees_nothing_that_was_written(governed: Governed, auditor_key: str) -> None:
    version = governed.train("private")
    path = "/adapters/private/versions/1"
    sent(governed("trainer").post(path, json={"labels": {"about": "a secret"}, "description": "a secret"}))
    asked = governed.request(version, note="a secret")
    sent(governed("approver").post(f"/approvals/{asked['id']}/comments", json={"comment": "a secret"}))
    sent(governed.decide(asked, "reject", comment="a secret"))
    sent(governed("admin").post(f"{path}/revoke", json={"reason": "a secret"}))
    department = governed.department
    with http(department.api_url, auditor_key, openai_project=department.id) as auditor:
        for seen in (path, f"{path}/card", f"{path}/card?format=markdown", "/adapters/private/versions",
                     f"/approvals/{asked['id']}", "/approvals"):  # fmt: skip
            assert "a secret" in governed("viewer").get(seen).text, seen
            assert "a secret" not in auditor.get(seen).raise_for_status().text, seen
        decided = sent(auditor.get(f"/approvals/{asked['id']}"))
    assert [each["decision"] for each in decided["decisions"]] == ["reject"]
