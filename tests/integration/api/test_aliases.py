"""Aliases: moved under a condition, protected ones by two people, and their whole history kept."""

import httpx

from domain.audit import AuditEvent
from tests.integration.api.governed import Governed, code_of, sent
from tests.integration.conftest import Department, http


def told(governed: Governed, action: AuditEvent, *, limit: int = 1) -> list[dict[str, object]]:
    found = governed("admin").get("/organization/audit_logs", params={"event_types[]": action, "limit": limit})
    return [event["details"] for event in sent(found)["data"]]


def test_an_alias_is_new_or_moves_under_a_condition(governed: Governed) -> None:
    first, second = governed.train("moves"), governed.train("moves")
    created = governed.move("staging", first, by="trainer")
    alias = sent(created)
    assert created.headers["etag"] == f'"{alias["etag"]}"'
    assert (alias["version"], alias["protected"], alias["moved_by"]) == (1, False, governed.person("trainer").id)
    assert code_of(governed.move("staging", second)) == (409, "stale_version")

    moved = sent(governed.move("staging", second, if_match=alias["etag"]))
    assert moved["etag"] != alias["etag"]
    assert code_of(governed.move("staging", first, if_match=alias["etag"])) == (409, "stale_version")
    # Back at the first version: what was read when it stood there before is not true again.
    sent(governed.move("staging", first, if_match=moved["etag"]))
    assert code_of(governed.move("staging", second, if_match=alias["etag"])) == (409, "stale_version")

    assert sent(governed("viewer").get("/adapters/moves"))["aliases"] == {"latest": 2, "staging": 1}
    listed = sent(governed("viewer").get("/adapters/moves/aliases"))["data"]
    assert [(each["name"], each["version"], each["moved_by"] is None) for each in listed] == [
        ("latest", 2, True), ("staging", 1, False),
    ]  # fmt: skip
    details = {"alias": "staging", "from": 2, "number": 1, "kind": "moved", "protected": False}
    assert told(governed, AuditEvent.ALIAS_MOVED) == [details]


def test_a_move_without_a_condition_is_428(governed: Governed) -> None:
    version = governed.train("unconditional")
    path, body = "/adapters/unconditional/aliases/staging", {"version": 1}
    for headers in ({}, {"If-Match": "*"}, {"If-None-Match": '"x"'}):
        answer = governed("trainer").put(path, json=body, headers=headers)
        assert code_of(answer) == (428, "precondition_required"), headers
        assert answer.headers["x-should-retry"] == "false"
    sent(governed.move("staging", version, by="trainer"))
    for etag in ('"x"', 'W/"0"', "0" * 32):
        refused = governed("trainer").put(path, json=body, headers={"If-Match": etag})
        assert code_of(refused) == (409, "stale_version"), etag


def test_a_move_to_where_it_stands_is_no_move(governed: Governed) -> None:
    version = governed.train("still")
    alias = sent(governed.move("staging", version))
    again = sent(governed.move("staging", version, if_match=alias["etag"]))
    assert again == alias
    assert len(sent(governed("viewer").get("/adapters/still/aliases/staging/history"))["data"]) == 1


def test_a_protected_alias_stands_for_approved_versions_and_is_not_moved_by_who_approved(governed: Governed) -> None:
    candidate = governed.train("guarded")
    assert code_of(governed.move("production", candidate)) == (409, "version_not_approved")
    version = governed.approved("guarded")
    assert code_of(governed.move("production", version, by="trainer")) == (403, "permission_denied")
    assert sent(governed.move("production", version))["protected"]
    production = sent(governed("viewer").get("/adapters/guarded/aliases/production"))
    refused = governed.move("production", candidate, if_match=production["etag"])
    assert code_of(refused) == (409, "version_not_approved")


def test_whoever_approved_does_not_put_it_into_service_even_as_an_admin_later(governed: Governed) -> None:
    version = governed.train("turncoat")
    sent(governed.decide(governed.request(version), by="approver 9"))
    people = f"/organization/projects/{governed.department.id}/users"
    sent(governed("admin").post(f"{people}/{governed.person('approver 9').id}", json={"roles": ["department_admin"]}))
    assert code_of(governed.move("production", version, by="approver 9")) == (403, "separation_of_duties")
    sent(governed.move("production", version))


def test_an_alias_stands_for_no_version_that_is_stopped_nor_for_another_adapters(governed: Governed) -> None:
    revoked, retired, rejected = (governed.train("stopped") for _ in range(3))
    sent(governed.end(revoked))
    sent(governed.end(retired, "retire"))
    sent(governed.decide(governed.request(rejected), "reject"))
    for version in (revoked, retired, rejected):
        assert code_of(governed.move("staging", version)) == (409, "version_not_approved")
    other, ours = governed.train("others"), governed.train("stopped")
    path = "/adapters/stopped/aliases/staging"
    condition = {"If-None-Match": "*"}
    answers = [
        governed("admin").put(path, json={"version": wanted}, headers=condition)
        for wanted in (other["id"], "adapterver-" + "0" * 32, 99, ours["id"])
    ]
    assert [answer.status_code for answer in answers] == [409, 404, 404, 200]
    assert code_of(answers[0]) == (409, "version_not_approved")


def test_latest_and_names_that_are_numbers_are_nobodys_to_move(governed: Governed) -> None:
    version = governed.train("reserved")
    assert code_of(governed.move("latest", version)) == (400, "reserved_alias")
    assert code_of(governed.move("7", version)) == (400, "invalid_request")
    base = "/adapters/reserved/aliases/latest"
    assert code_of(governed("admin").delete(base)) == (400, "reserved_alias")
    assert code_of(governed("admin").post(f"{base}/rollback")) == (400, "reserved_alias")


def test_a_rollback_goes_back_one_version_at_a_time_in_one_call(governed: Governed) -> None:
    versions = [governed.approved("back") for _ in range(3)]
    etag = None
    for version in versions:
        etag = sent(governed.move("production", version, if_match=etag))["etag"]
    path = "/adapters/back/aliases/production"
    assert code_of(governed("trainer").post(f"{path}/rollback")) == (403, "permission_denied")
    assert sent(governed("admin").post(f"{path}/rollback"))["version"] == 2
    assert sent(governed("admin").post(f"{path}/rollback"))["version"] == 1
    assert code_of(governed("admin").post(f"{path}/rollback")) == (409, "no_earlier_version")
    stale = governed("admin").post(f"{path}/rollback", headers={"If-Match": f'"{etag}"'})
    assert code_of(stale) == (409, "stale_version")

    history = sent(governed("viewer").get(f"{path}/history"))["data"]
    assert [(each["kind"], each["before"], each["after"]) for each in history] == [
        ("rolled_back", 2, 1), ("rolled_back", 3, 2), ("moved", 2, 3), ("moved", 1, 2), ("moved", None, 1),
    ]  # fmt: skip
    assert {each["person"] for each in history} == {governed.person("admin").id}
    page = sent(governed("viewer").get(f"{path}/history", params={"limit": 2}))
    rest = sent(governed("viewer").get(f"{path}/history", params={"after": page["last_id"]}))
    assert (page["has_more"], page["data"] + rest["data"]) == (True, history)


def test_a_rollback_passes_over_what_may_not_be_served_and_brings_a_withdrawn_alias_back(governed: Governed) -> None:
    versions = [governed.approved("over") for _ in range(3)]
    etag = None
    for version in versions:
        etag = sent(governed.move("production", version, if_match=etag))["etag"]
    path = "/adapters/over/aliases/production"
    sent(governed.end(versions[2]))
    assert governed("viewer").get(path).status_code == 404
    sent(governed.end(versions[1]))
    assert sent(governed("admin").post(f"{path}/rollback"))["version"] == 1

    sent(governed("admin").delete(path))
    assert governed("viewer").get(path).status_code == 404
    assert sent(governed("admin").post(f"{path}/rollback"))["version"] == 1
    kinds = [each["kind"] for each in sent(governed("viewer").get(f"{path}/history"))["data"]]
    assert kinds == ["rolled_back", "withdrawn", "rolled_back", "withdrawn", "moved", "moved", "moved"]


def test_which_aliases_are_protected_is_the_installations_to_say(
    governed: Governed, department: Department, api_with: object
) -> None:
    version = governed.train("elsewhere")
    url = api_with(protected_aliases="live,staging")  # type: ignore[operator]
    with http(url, department.admin.key) as admin:

        def move(alias: str) -> httpx.Response:
            path = f"/adapters/elsewhere/aliases/{alias}"
            return admin.put(path, json={"version": version["number"]}, headers={"If-None-Match": "*"})

        assert code_of(move("live")) == code_of(move("staging")) == (409, "version_not_approved")
        assert sent(move("production"))["protected"] is False
