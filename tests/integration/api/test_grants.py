"""What is granted beyond roles: a file's content for a member, a version for another department."""

import io
import tarfile
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest
from sqlalchemy import Engine, create_engine, text

from domain.attestations import ATTESTATION_FILES
from domain.ids import IdKind, parse_id, public_id
from tests.integration.api.conftest import ADAPTER_FILES, Finished
from tests.integration.conftest import Database, Department, Person, http, rows


@pytest.fixture(scope="module")
def administrator(database: Database) -> Iterator[Engine]:
    engine = create_engine(database.admin_url)
    yield engine
    engine.dispose()


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# --- a file's content -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainer(department: Department) -> Person:
    """One who is no data steward."""
    return department.member("trainer")


def test_a_trainer_reads_what_was_granted_and_as_long_as_it_is(
    department: Department, trainer: Person, administrator: Engine
) -> None:
    file, other = department.upload(rows(3)), department.upload(rows(4))
    with department.http() as steward, department.http(trainer) as client:
        assert code_of(client.get(f"/files/{file}/content")) == (403, "permission_denied")
        grants = f"/files/{file}/grants"
        first = steward.post(grants, json={"user_id": trainer.id, "expires_in_days": 1}).raise_for_status().json()
        assert client.get(f"/files/{file}/content").content == rows(3)
        assert client.get(f"/files/{other}/content").status_code == 403
        # Ended by somebody.
        steward.delete(f"{grants}/{first['id']}").raise_for_status()
        assert client.get(f"/files/{file}/content").status_code == 403
        # Ended by itself.
        second = steward.post(grants, json={"user_id": trainer.id}).raise_for_status().json()
        assert [grant["id"] for grant in steward.get(grants).json()["data"]] == [second["id"]]
        assert client.get(f"/files/{file}/content").is_success
        with administrator.begin() as connection:
            over = text("UPDATE file_grants SET expires_at = now() WHERE id = :id")
            connection.execute(over, {"id": parse_id(IdKind.FILE_GRANT, second["id"])})
        assert client.get(f"/files/{file}/content").status_code == 403
        assert steward.get(grants).json()["data"] == []


def test_a_grant_is_for_another_member_of_the_department_alone(
    department: Department, make_department: Callable[[], Department], trainer: Person
) -> None:
    file = department.upload(rows(3, salt=1))
    grants = f"/files/{file}/grants"
    outsider = make_department().trainer
    with department.http() as steward:
        own = steward.post(grants, json={"user_id": department.trainer.id})
        assert code_of(own) == (403, "separation_of_duties")
        outside = steward.post(grants, json={"user_id": outsider.id})
        nobody = steward.post(grants, json={"user_id": public_id(IdKind.USER, uuid4())})
        assert (outside.status_code, outside.content) == (nobody.status_code, nobody.content)
        assert outside.status_code == 404
        too_long = steward.post(grants, json={"user_id": trainer.id, "expires_in_days": 91})
        assert code_of(too_long) == (400, "out_of_range")
        gone = department.member("trainer")
        steward.post(grants, json={"user_id": gone.id}).raise_for_status()
    with department.http(department.admin) as admin:
        admin.delete(f"/organization/projects/{department.id}/users/{gone.id}").raise_for_status()


# --- a version for another department ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def owner(make_finished: Callable[[str], Finished]) -> Finished:
    return make_finished("shared")


@pytest.fixture(scope="module")
def approver(owner: Finished) -> Person:
    return owner.department.member("approver")


@pytest.fixture
def approved(owner: Finished, administrator: Engine) -> Iterator[None]:
    """Its version is approved for the length of a test."""
    set_state(administrator, owner, "approved")
    yield
    set_state(administrator, owner, "candidate")


def set_state(administrator: Engine, owner: Finished, state: str) -> None:
    with administrator.begin() as connection:
        # Who approves what, and what a version may become, is another test's.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        changed = text("UPDATE adapter_versions SET state = :state WHERE id = :id")
        connection.execute(changed, {"state": state, "id": parse_id(IdKind.ADAPTER_VERSION, owner.version)})


@pytest.fixture
def other(make_department: Callable[[], Department]) -> Department:
    return make_department()


@pytest.fixture
def share(owner: Finished, approver: Person, approved: None, other: Department) -> str:
    """One that an approver has let."""
    _ = approved
    with owner.department.http(owner.department.admin) as admin, owner.department.http(approver) as deciding:
        path = f"/fine_tuning/checkpoints/{owner.model}/permissions"
        asked = admin.post(path, json={"project_ids": [other.id]}).raise_for_status().json()["data"][0]
        deciding.post(f"/shares/{asked['id']}/approve").raise_for_status()
        return str(asked["id"])


def shared_with(department: Department) -> list[dict[str, Any]]:
    with department.http() as client:
        found: list[dict[str, Any]] = client.get("/shared_versions").raise_for_status().json()["data"]
        return found


@pytest.mark.usefixtures("approved")
def test_the_clients_permissions_are_a_request_until_an_approver_lets_it(
    owner: Finished, approver: Person, other: Department
) -> None:
    permissions = owner.department.client(owner.department.admin).fine_tuning.checkpoints.permissions
    (asked,) = permissions.create(owner.model, project_ids=[other.id]).data
    assert (asked.object, asked.project_id) == ("checkpoint.permission", other.id)
    assert shared_with(other) == []
    with owner.department.http(owner.department.admin) as admin, owner.department.http(approver) as deciding:
        waiting = deciding.get("/shares").json()["data"]
        assert [each["status"] for each in waiting if each["id"] == asked.id] == ["requested"]
        assert code_of(admin.post(f"/shares/{asked.id}/approve")) == (403, "permission_denied")
        deciding.post(f"/shares/{asked.id}/approve").raise_for_status()
        assert code_of(deciding.post(f"/shares/{asked.id}/approve")) == (409, "already_decided")
    (seen,) = shared_with(other)
    assert (seen["id"], seen["adapter"], seen["number"], seen["model"]) == (asked.id, "shared", 1, owner.model)
    assert [each.id for each in permissions.list(owner.model, project_id=other.id)] == [asked.id]
    with pytest.warns(DeprecationWarning, match="deprecated"):
        retrieved = permissions.retrieve(owner.model, order="ascending")
    assert asked.id in [each.id for each in retrieved.data]
    ended = permissions.delete(asked.id, fine_tuned_model_checkpoint=owner.model)
    assert (ended.deleted, ended.id) == (True, asked.id)
    assert shared_with(other) == []
    with pytest.raises(openai.NotFoundError):
        permissions.delete(asked.id, fine_tuned_model_checkpoint="ft:no:such:model:x")


def test_the_other_department_pulls_the_version_and_nothing_else_of_its_owners(
    *, owner: Finished, share: str, other: Department, auditor_key: str
) -> None:
    with other.http() as client:
        pulled = client.get(f"/shared_versions/{share}/content").raise_for_status()
        with tarfile.open(fileobj=io.BytesIO(pulled.content)) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        assert {name: files[name] for name in ADAPTER_FILES} == ADAPTER_FILES
        # It is signed for them as for its owner.
        assert files.keys() - ADAPTER_FILES.keys() == set(ATTESTATION_FILES)
        for path in (f"/adapters/{owner.adapter}", f"/models/{owner.model}", f"/lineage/{owner.version}",
                     f"/fine_tuning/jobs/{owner.job}", f"/files/{owner.file}"):  # fmt: skip
            assert client.get(path).status_code == 404, path
    with owner.department.http() as client:
        (version,) = client.get(f"/files/{owner.file}/descendants").raise_for_status().json()["data"]
        assert other.trainer.id in version["holders"]
    third = owner.department
    with third.http() as client:
        # Its owner has it from its own adapters, not as a share.
        assert client.get(f"/shared_versions/{share}/content").status_code == 404
    with http(other.api_url, auditor_key) as auditor:
        query = {"resource_ids[]": share, "event_types[]": "adapter.version.downloaded"}
        events = auditor.get("/organization/audit_logs", params=query).json()["data"]
    assert {event["project"]["id"] for event in events} == {owner.department.id, other.id}


def test_a_share_ends_with_its_time_and_with_the_versions_approval(
    *, owner: Finished, share: str, other: Department, administrator: Engine
) -> None:
    assert [each["id"] for each in shared_with(other)] == [share]
    for state in ("revoked", "retired", "rejected", "candidate"):
        set_state(administrator, owner, state)
        assert shared_with(other) == []
        with other.http() as client:
            assert client.get(f"/shared_versions/{share}/content").status_code == 404
    set_state(administrator, owner, "approved")
    assert [each["id"] for each in shared_with(other)] == [share]
    with administrator.begin() as connection:
        over = text("UPDATE version_shares SET expires_at = now() WHERE id = :id")
        connection.execute(over, {"id": parse_id(IdKind.VERSION_SHARE, share)})
    assert shared_with(other) == []


def test_what_is_not_approved_is_not_shared(
    *, owner: Finished, approver: Person, other: Department, administrator: Engine
) -> None:
    path = f"/fine_tuning/checkpoints/{owner.model}/permissions"
    with owner.department.http(owner.department.admin) as admin, owner.department.http(approver) as deciding:
        assert code_of(admin.post(path, json={"project_ids": [other.id]})) == (409, "version_not_approved")
        set_state(administrator, owner, "approved")
        asked = admin.post(path, json={"project_ids": [other.id]}).raise_for_status().json()["data"][0]["id"]
        set_state(administrator, owner, "candidate")
        assert code_of(deciding.post(f"/shares/{asked}/approve")) == (409, "version_not_approved")


@pytest.mark.usefixtures("approved")
def test_whether_another_department_exists_is_not_told(owner: Finished, other: Department) -> None:
    path = f"/fine_tuning/checkpoints/{owner.model}/permissions"
    with owner.department.http(owner.department.admin) as admin:
        answers = [
            admin.post(path, json={"project_ids": [each]}) for each in (other.id, public_id(IdKind.DEPARTMENT, uuid4()))
        ]
    assert {answer.status_code for answer in answers} == {200}
    assert len({frozenset(answer.json()["data"][0]) for answer in answers}) == 1
