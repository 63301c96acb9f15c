"""A file is erased with all that learned from it: what the dry run lists, who may agree, and what is left."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from domain import failpoints
from domain.digests import Digest
from domain.failpoints import FailPoint
from domain.ids import IdKind, parse_id
from runtime.wiring import Runtime
from storage.errors import ObjectMissing
from storage.keys import Key
from tests.integration.api.test_lineage import Family, job_of, make_family
from tests.integration.conftest import Database, Department, Person, rows
from workers.erasures import Eraser

LEARNED = {"parent", "child", "grandchild"}


@dataclass
class Scene:
    """A family whose file is to be erased, its steward, and an admin who is somebody else."""

    family: Family
    runtime: Runtime
    database: Database
    steward: Person
    admin: Person = field(init=False)

    def __post_init__(self) -> None:
        self.admin = self.family.department.admin

    def as_(self, person: Person) -> httpx.Client:
        return self.family.department.http(person)

    def request(self, file: str | None = None, **more: Any) -> dict[str, Any]:
        body = {"reason": "a person asked for it"} | more
        with self.as_(self.steward) as client:
            answer = client.post(f"/files/{file or self.family.file}/erasures", json=body)
        asked: dict[str, Any] = answer.raise_for_status().json()
        return asked

    def confirm(self, asked: dict[str, Any], person: Person | None = None, **body: Any) -> httpx.Response:
        with self.as_(person or self.admin) as client:
            return client.post(f"/erasures/{asked['id']}/confirm", json={"digest": asked["digest"]} | body)

    def look(self, asked: dict[str, Any]) -> dict[str, Any]:
        with self.as_(self.admin) as client:
            found: dict[str, Any] = client.get(f"/erasures/{asked['id']}").raise_for_status().json()
        return found

    def erase(self) -> None:
        Eraser(self.runtime).erase_all()

    def is_stored(self, digest: Digest) -> bool:
        key = Key.blob(parse_id(IdKind.DEPARTMENT, self.family.department.id), digest)
        try:
            return self.runtime.objects.size_of(key) > 0
        except ObjectMissing:
            return False

    def checkpoints(self) -> list[str]:
        """Files of checkpoints that the bucket holds of the department."""
        department = parse_id(IdKind.DEPARTMENT, self.family.department.id)
        page = self.runtime.objects.list_page(department, after="", limit=1000)
        return [stored.key.path for stored in page.objects if stored.key.checkpoint_place]

    def file_digest(self, file: str) -> Digest:
        (found,) = self.execute("SELECT digest FROM files WHERE id = :id", id=str(parse_id(IdKind.FILE, file)))
        return str(found[0])

    def execute(self, statement: str, **parameters: str) -> list[tuple[Any, ...]]:
        engine = create_engine(self.database.admin_url)
        try:
            with engine.begin() as connection:
                answer = connection.execute(text(statement), parameters)
                return [tuple(row) for row in answer] if answer.returns_rows else []
        finally:
            engine.dispose()

    def told(self) -> list[str]:
        """The events about the file and its erasure, the oldest first."""
        rows = self.execute(
            "SELECT action FROM audit_events WHERE resource_id = :file ORDER BY number",
            file=str(parse_id(IdKind.FILE, self.family.file)),
        )
        return [row[0] for row in rows]


@pytest.fixture
def make_scene(
    *, make_department: Callable[[], Department], runtime: Runtime, database: Database, base_model: str,
    finish: Callable[[Department, str], None],
) -> Callable[..., Scene]:  # fmt: skip
    def made(*, alone: bool) -> Scene:
        department = make_department()
        family = make_family(department, base_model, finish, alone=alone)
        return Scene(family, runtime, database, department.member("data_steward"))

    return made


@pytest.fixture
def scene(make_scene: Callable[..., Scene]) -> Scene:
    return make_scene(alone=False)


@pytest.fixture
def small(make_scene: Callable[..., Scene]) -> Scene:
    """With the parent alone."""
    return make_scene(alone=True)


# --- the dry run ------------------------------------------------------------------------------------------------------


def test_a_dry_run_lists_everything_that_descends_and_changes_nothing(scene: Scene) -> None:
    family = scene.family
    twin = family.department.upload(rows(8))
    with scene.as_(family.server) as server:
        report = {"adapter": "family", "version": 2, "server": "gpu-1", "state": "loaded"}
        server.post("/deployments", json=report).raise_for_status()
    with family.department.http() as trainer:
        trainer.get("/adapters/elsewhere/versions/1/content").raise_for_status()
    unfinished = job_of(family.department, family.versions["child"]["model"], family.other_file)

    asked = scene.request()
    descends = asked["descends"]
    relations = {(f"{each['adapter']}@{each['number']}", each["relation"]) for each in descends["versions"]}
    assert relations == {
        ("family@1", "trained_on"), ("family@2", "continued_from"), ("elsewhere@1", "continued_from"),
        ("stranger@1", "evaluated_on"),
    }  # fmt: skip
    jobs = {each["id"]: each for each in descends["jobs"]}
    assert set(jobs) == {family.jobs[name] for name in (*LEARNED, "stranger")} | {unfinished}
    assert jobs[unfinished]["state"] == "validating_files"
    assert jobs[family.jobs["parent"]]["checkpoints"] == 1
    assert [(each["holder"], each["version"]) for each in descends["holders"]] == [
        (family.department.trainer.id, "elsewhere@1")
    ]
    assert descends["deployments"] == [{"server": "gpu-1", "version": "family@2"}]
    assert descends["same_bytes"] == [twin]
    assert len(descends["evaluations"]) == 1
    assert (asked["state"], asked["requested_by"]) == ("requested", scene.steward.id)
    with family.department.http() as trainer:
        assert trainer.get(f"/files/{family.file}").is_success
        assert (
            trainer.get(f"/adapters/{family.versions['parent']['adapter']}/versions/1").json()["state"] == "candidate"
        )


# --- two people -------------------------------------------------------------------------------------------------------


def test_only_somebody_else_confirms_and_only_what_was_shown(small: Scene) -> None:
    both = small.family.department.member("data_steward", "department_admin")
    with small.as_(both) as client:
        own = client.post(f"/files/{small.family.file}/erasures", json={"reason": "mine"}).raise_for_status().json()
        refused = client.post(f"/erasures/{own['id']}/confirm", json={"digest": own["digest"]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "separation_of_duties")
        # The database says the same.
        with pytest.raises(IntegrityError, match="two_people"):
            small.execute(
                "UPDATE file_erasures SET confirmed_human = requested_human, confirmed_at = now(), plan = '{}',"
                " state = 'erasing' WHERE id = :id",
                id=str(parse_id(IdKind.FILE_ERASURE, own["id"])),
            )
        second = client.post(f"/files/{small.family.file}/erasures", json={"reason": "again"})
        assert (second.status_code, second.json()["error"]["code"]) == (409, "erasure_under_way")
        assert client.post(f"/erasures/{own['id']}/withdraw").json()["state"] == "withdrawn"
        again = client.post(f"/erasures/{own['id']}/withdraw")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "erasure_closed")

    asked = small.request()
    for stranger in (small.steward, small.family.department.trainer):
        assert small.confirm(asked, stranger).status_code == 403
    # Something else descends from it by now: a job.
    job_of(small.family.department, small.family.versions["parent"]["model"], small.family.other_file)
    changed = small.confirm(asked)
    assert (changed.status_code, changed.json()["error"]["code"]) == (409, "digest_changed")
    now = small.look(asked)
    assert now["digest"] != asked["digest"]
    assert small.confirm(now).json()["state"] == "erasing"
    closed = small.confirm(now)
    assert (closed.status_code, closed.json()["error"]["code"]) == (409, "erasure_closed")


def test_a_robot_neither_asks_nor_agrees_where_nobody_answers_for_it(small: Scene, operator_key: str) -> None:
    department = small.family.department
    headers = {"Authorization": f"Bearer {operator_key}", "OpenAI-Project": department.id}
    asked = small.request()
    with httpx.Client(base_url=department.api_url, headers=headers) as operator:
        assert operator.post(f"/erasures/{asked['id']}/confirm", json={"digest": asked["digest"]}).status_code == 403


# --- what becomes of it -----------------------------------------------------------------------------------------------


def test_a_confirmed_erasure_hands_out_nothing_more_and_leaves_tombstones_and_audit(scene: Scene) -> None:
    family, department = scene.family, scene.family.department
    digest = scene.file_digest(family.file)
    other = scene.file_digest(family.other_file)
    assert scene.is_stored(digest)
    waiting = job_of(department, family.versions["child"]["model"], family.other_file)
    asked = scene.request()
    assert scene.confirm(asked).raise_for_status().json()["state"] == "erasing"

    # At once, before any object has gone.
    with department.http() as trainer:
        assert trainer.get(f"/files/{family.file}").status_code == 404
        assert trainer.get(f"/fine_tuning/jobs/{waiting}").json()["status"] == "cancelled"
        for name in ("parent", "child", "grandchild"):
            version = family.versions[name]
            path = f"/adapters/{version['adapter']}/versions/{version['number']}"
            assert not trainer.get(f"{path}/content").is_success
        refused = trainer.post("/fine_tuning/jobs", json={"model": "tiny", "training_file": family.file})
        assert refused.json()["error"]["code"] == "unknown_file"
        continued = {"model": family.versions["child"]["model"], "training_file": family.other_file}
        assert trainer.post("/fine_tuning/jobs", json=continued).json()["error"]["code"] == "parent_unusable"

    scene.erase()
    done = scene.look(asked)
    assert done["state"] == "done"
    # Three versions; their files are those of the stranger's too, as every adapter of these tests. What signs each of
    # them, and says how it was made, is nobody else's.
    assert done["erased"]["versions"] == 3
    assert (done["erased"]["objects"], done["erased"]["objects_kept"]) == (1 + 3 * 2, 2)
    assert not scene.is_stored(digest)
    assert scene.is_stored(other)
    assert not [path for path in scene.checkpoints() if str(parse_id(IdKind.JOB, family.jobs["parent"])) in path]
    with scene.as_(scene.admin) as admin:
        found = admin.get(f"/files/{family.file}/descendants").raise_for_status().json()["data"]
    states = {name: each["state"] for each in found for name in family.names([each])}
    assert states == dict.fromkeys(LEARNED, "revoked") | {"stranger": "candidate"}
    told = scene.told()
    assert told[-3:] == ["file.erasure_requested", "file.erasure_confirmed", "file.erased"]
    # Again, and nothing happens again.
    scene.erase()
    assert scene.told() == told


def test_versions_whose_files_nobody_else_has_lose_them(small: Scene) -> None:
    manifest = small.family.versions["parent"]["files"]
    assert all(small.is_stored(each["digest"]) for each in manifest)
    asked = small.request()
    small.confirm(asked).raise_for_status()
    small.erase()
    assert not any(small.is_stored(each["digest"]) for each in manifest)
    erased = small.look(asked)["erased"]
    # With its signature and its provenance.
    assert (erased["objects"], erased["objects_kept"], erased["checkpoints"]) == (1 + len(manifest) + 2, 0, 1)


def test_bytes_that_another_file_has_stay_with_it(small: Scene) -> None:
    twin = small.family.department.upload(rows(8))
    digest = small.file_digest(small.family.file)
    asked = small.request()
    assert asked["descends"]["same_bytes"] == [twin]
    small.confirm(asked).raise_for_status()
    small.erase()
    assert small.is_stored(digest)
    second = small.request(twin)
    small.confirm(second).raise_for_status()
    small.erase()
    assert not small.is_stored(digest)


def test_a_job_that_may_finish_is_waited_for_and_what_it_makes_goes_too(
    small: Scene, finish: Callable[[Department, str], None]
) -> None:
    family, department = small.family, small.family.department
    job = job_of(department, "tiny", family.file, suffix="late")
    asked = small.request(running_jobs="finish")
    small.confirm(asked).raise_for_status()
    small.erase()
    assert small.look(asked)["state"] == "erasing"
    assert small.is_stored(small.file_digest(family.file))
    finish(department, job)
    small.erase()
    assert small.look(asked)["state"] == "done"
    with small.as_(small.admin) as admin:
        late = admin.get(f"/files/{family.file}/descendants").json()["data"][0]
    assert (late["adapter"], late["state"]) == ("late", "revoked")
    assert not small.is_stored(small.file_digest(family.file))


@pytest.mark.parametrize("point", [FailPoint.ERASURE_MARKED, FailPoint.ERASURE_OBJECTS_GONE])
def test_whoever_erases_next_goes_on_where_one_has_died(small: Scene, point: FailPoint) -> None:
    digest = small.file_digest(small.family.file)
    asked = small.request()
    small.confirm(asked).raise_for_status()

    def die(reached: FailPoint) -> None:
        if reached is point:
            raise RuntimeError("killed")

    failpoints.arm(die)
    try:
        with pytest.raises(RuntimeError, match="killed"):
            small.erase()
    finally:
        failpoints.disarm()
    # The control: nobody else does it in passing.
    assert small.look(asked)["state"] == "erasing"
    assert small.is_stored(digest) is (point is FailPoint.ERASURE_MARKED)
    small.erase()
    done = small.look(asked)
    assert (done["state"], done["erased"]["versions"]) == ("done", 1)
    assert not small.is_stored(digest)
    assert small.told().count("file.erased") == 1


def test_bad_requests_are_refused(small: Scene) -> None:
    with small.as_(small.steward) as steward:
        path = f"/files/{small.family.file}/erasures"
        for body, code in (
            ({}, "missing_field"),
            ({"reason": ""}, "out_of_range"),
            ({"reason": "x", "running_jobs": "explode"}, "invalid_request"),
            ({"reason": "x", "file": "other"}, "unknown_field"),
        ):
            refused = steward.post(path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, code), body
        assert steward.post(f"/files/file-{'0' * 32}/erasures", json={"reason": "x"}).status_code == 404
    asked = small.request()
    assert small.confirm(asked, digest="sha256:1").json()["error"]["code"] == "invalid_request"
