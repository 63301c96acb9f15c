"""Every route, for every role: on its own object, another's, another department's, and a missing one.

What is expected comes from `domain.access.MATRIX` and from the permission that each route declares, and from nothing
else but `RULES`, which are the rules beside the table.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import Engine, create_engine, text

from api.app import create_app
from api.openapi import permissions_of
from api.routes import ROUTERS
from domain.access import MATRIX, PLATFORM_ROLES, Permission, Reach, Role, reach_of
from domain.ids import IdKind, parse_id, public_id
from domain.workers import WorkerFacts
from runtime.wiring import Runtime
from services import workers
from tests.integration.api.conftest import Finished
from tests.integration.api.rehearsal import Rehearsal
from tests.integration.conftest import Database, Department, http, rows, write_base_model

# Whose the object is that a path names. ELSEWHERE names it below its own department's id, FOREIGN below the caller's.
OWN, GRANTED, ANOTHERS = "own", "granted", "another's"
FOREIGN, ELSEWHERE, MISSING = "foreign", "elsewhere", "missing"
Answer = tuple[int, str | None]
DENIED: Answer = (403, "permission_denied")
NOT_FOUND: Answer = (404, "not_found")
DONE: Answer = (200, None)
# There is no key of a worker's, and cannot be: test_row_level_security.
WITH_KEYS = tuple(role for role in Role if role is not Role.WORKER)
# Nobody's in particular: all departments see the same.
SHARED = {"worker_id", "base_model", "path"}
PROJECTS = "/v1/organization/projects"
PROJECT = f"{PROJECTS}/{{project_id}}"
PERMISSIONS = "/v1/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions"
SPEND_LIMIT = {"currency": "USD", "interval": "month", "threshold_amount": 100}


# --- who and what there is --------------------------------------------------------------------------------------------


@dataclass
class World:
    """A department with somebody in every role, its neighbour, and an id of each for whatever a path can name."""

    client: TestClient
    department: str
    keys: dict[Role, str] = field(default_factory=dict)
    people: dict[Role, str] = field(default_factory=dict)
    anothers: dict[str, str] = field(default_factory=dict)
    own: dict[Role, dict[str, str]] = field(default_factory=dict)
    granted: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    training_file: str = ""
    newcomer: str = ""
    config: bytes = b""

    def ids(self, relation: str, role: Role) -> dict[str, str]:
        """What the parameters of a path stand for."""
        if relation in {OWN, GRANTED, ANOTHERS}:
            nearer = {OWN: self.own.get(role, {}), GRANTED: self.granted}
            return self.anothers | nearer.get(relation, {})
        theirs = self.foreign if relation in {FOREIGN, ELSEWHERE} else _missing()
        at_home = {"project_id": self.department} if relation == FOREIGN else {}
        return self.anothers | theirs | at_home

    def ask(self, route: APIRoute, role: Role, relation: str) -> httpx.Response:
        """One cell."""
        ids, (method,) = self.ids(relation, role), route.methods
        path = route.path_format.format(**ids)
        headers = {"authorization": f"Bearer {self.keys[role]}"}
        if role in PLATFORM_ROLES:
            headers["openai-project"] = self.department
        arguments = self.arguments(f"{method} {route.path_format}", role, relation)
        headers |= arguments.pop("headers", {})
        return self.client.request(method, path, headers=headers, **arguments)

    def arguments(self, route: str, role: Role, relation: str) -> dict[str, Any]:
        """Of a request that is right in itself: how it is answered is then a matter of who asks."""
        job = {"json": {"model": "tiny", "training_file": self.training_file}}
        proposal = {"id": "next", "source": "x", "files": [{"path": "x", "bytes": 1, "digest": "sha256:" + "0" * 64}]}
        holder = self.people.get(role) if relation == OWN else None
        return {
            "POST /v1/files": {"files": {"file": ("rows.jsonl", rows(2))}, "data": {"purpose": "fine-tune"}},
            "POST /v1/fine_tuning/jobs": job,
            "POST /v1/estimates": job,
            "POST /v1/base_models": {"json": proposal},
            "PUT /v1/base_models/{base_model}/files/{path}": {
                "content": self.config, "headers": {"content-type": "application/octet-stream"},
            },
            "GET /v1/organization/costs": {"params": {"start_time": int(time.time())}},
            "POST /v1/organization/users": {"json": {"email": "next@example.org", "name": "Next"}},
            "POST /v1/organization/role_grants": {"json": {"role": "approver", "user_id": self.newcomer}},
            "POST /v1/organization/role_grants/{grant_id}/key": {"json": {}},
            "POST /v1/organization/break_glass": {"json": {"reason": "a test"}},
            "POST /v1/files/{file_id}/grants": {"json": {"user_id": self.people.get(Role.TRAINER)}},
            f"POST {PERMISSIONS}": {"json": {"project_ids": [public_id(IdKind.DEPARTMENT, uuid4())]}},
            f"POST {PROJECTS}": {"json": {"name": "next"}},
            f"POST {PROJECT}/users": {"json": {"user_id": self.newcomer, "role": "member"}},
            f"POST {PROJECT}/users/{{user_id}}": {"json": {"role": "member"}},
            f"POST {PROJECT}/service_accounts": {"json": {"name": "another"}},
            f"POST {PROJECT}/api_keys": {"json": {"user_id": holder or self.anothers["user_id"], "name": "x"}},
            f"POST {PROJECT}/limits": {"json": {"max_running_jobs": 1}},
            f"POST {PROJECT}/spend_limit": {"json": SPEND_LIMIT},
        }.get(route, {})  # fmt: skip


@pytest.fixture(scope="module")
def administrator(database: Database) -> Iterator[Engine]:
    engine = create_engine(database.admin_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def world(
    *, runtime: Runtime, administrator: Engine, make_finished: Any, platform_keys: Any, tmp_path_factory: Any
) -> Iterator[World]:
    ours, theirs = make_finished("ours"), make_finished("theirs")
    with TestClient(create_app(Rehearsal.of(runtime)), raise_server_exceptions=False) as client:
        made = World(client, ours.department.id)
        _staff(made, ours.department)
        made.keys |= {Role.OPERATOR: platform_keys.operator, Role.AUDITOR: platform_keys.auditor}
        _break_glass(made, ours.department, platform_keys.operator)
        _auditor_to_be(made, ours.department, platform_keys.operator)
        made.anothers = _ids(ours) | _of_the_platform(made, runtime, ours.department, tmp_path_factory.mktemp("half"))
        made.anothers |= _pending(administrator, ours.department.id, made.newcomer)
        made.foreign = _ids(theirs) | _pending(administrator, theirs.department.id, theirs.department.trainer.id)
        _submit_jobs(made, ours)
        with administrator.begin() as connection:
            # What a server may have.
            connection.execute(text("UPDATE adapter_versions SET state = 'approved'"))
        _grant(made, ours)
        (to_them, to_them_soon), (to_us, to_us_soon) = _shares(ours, theirs), _shares(theirs, ours)
        made.anothers |= {"permission_id": to_them, "share_id": to_them_soon, "shared_id": to_us}
        made.foreign |= {"permission_id": to_us, "share_id": to_us_soon, "shared_id": to_them}
        yield made


def _staff(world: World, department: Department) -> None:
    for role in (Role.VIEWER, Role.TRAINER, Role.DATA_STEWARD, Role.DEPARTMENT_ADMIN, Role.APPROVER):
        person = department.member(role.value)
        world.keys[role], world.people[role] = person.key, person.id
        with department.http(person) as client:
            world.own[role] = {"key_id": client.get("/me").json()["key_id"]}
    with department.http(department.admin) as admin:
        accounts = f"/organization/projects/{department.id}/service_accounts"
        server = admin.post(accounts, json={"name": "server", "roles": ["inference"]}).raise_for_status().json()
        newcomer = admin.post("/organization/users", json={"email": "new@example.org", "name": "New"})
    world.keys[Role.INFERENCE] = server["api_key"]["value"]
    world.newcomer = newcomer.raise_for_status().json()["id"]


def _break_glass(world: World, department: Department, operator_key: str) -> None:
    """An access that the operator asked for and the admin opened, and its key."""
    path = "/organization/break_glass"
    with http(department.api_url, operator_key, openai_project=department.id) as operator:
        asked = operator.post(path, json={"reason": "a test"}).raise_for_status().json()["id"]
        with department.http(department.admin) as admin:
            admin.post(f"{path}/{asked}/open").raise_for_status()
        world.keys[Role.BREAK_GLASS] = operator.post(f"{path}/{asked}/key").raise_for_status().json()["value"]
    world.own[Role.BREAK_GLASS] = world.own[Role.OPERATOR] = {"glass_id": asked}


def _grant(world: World, ours: Finished) -> None:
    """A file that the trainer may read."""
    department = ours.department
    world.granted = {"file_id": department.upload(rows(5, salt=5))}
    with http(department.api_url, world.keys[Role.DATA_STEWARD]) as steward:
        path = f"/files/{world.granted['file_id']}/grants"
        granted = steward.post(path, json={"user_id": world.people[Role.TRAINER]}).raise_for_status().json()
        other = steward.post(f"/files/{ours.file}/grants", json={"user_id": world.people[Role.VIEWER]})
    world.granted["file_grant_id"] = granted["id"]
    world.anothers["file_grant_id"] = other.raise_for_status().json()["id"]


def _shares(owner: Finished, other: Finished) -> tuple[str, str]:
    """A share of the owner's version with the other that an approver has let, and one that waits for it."""
    department = owner.department
    path = f"/fine_tuning/checkpoints/{owner.model}/permissions"
    with department.http(department.admin) as admin, department.http(department.member("approver")) as approver:
        body = {"project_ids": [other.department.id]}
        shared, waiting = (admin.post(path, json=body).raise_for_status().json()["data"][0]["id"] for _ in range(2))
        approver.post(f"/shares/{shared}/approve").raise_for_status()
        return shared, waiting


def _pending(administrator: Engine, department: str, person: str) -> dict[str, str]:
    """What somebody who is nobody here asked for: a role for a person, and access in an emergency."""
    parameters = {
        "department": parse_id(IdKind.DEPARTMENT, department), "user": parse_id(IdKind.USER, person), "by": uuid4(),
    }  # fmt: skip
    with administrator.begin() as connection:
        grant = connection.execute(
            text(
                "INSERT INTO role_grants (department_id, role, user_id, requested_by) "
                "VALUES (:department, 'approver', :user, :by) RETURNING id"
            ),
            parameters,
        ).scalar_one()
        glass = connection.execute(
            text(
                "INSERT INTO break_glass (department_id, reason, lasts_s, requested_by) "
                "VALUES (:department, 'a test', 600, :by) RETURNING id"
            ),
            parameters,
        ).scalar_one()
    return {"grant_id": public_id(IdKind.ROLE_GRANT, grant), "glass_id": public_id(IdKind.BREAK_GLASS, glass)}


def _auditor_to_be(world: World, department: Department, operator_key: str) -> None:
    """The viewer is also an auditor, and may make the key of it."""
    wanted = {"role": "auditor", "user_id": world.people[Role.VIEWER]}
    with http(department.api_url, operator_key) as operator:
        granted = operator.post("/organization/role_grants", json=wanted).raise_for_status().json()["id"]
    world.own[Role.VIEWER]["grant_id"] = granted


def _ids(finished: Finished) -> dict[str, str]:
    department = finished.department
    with department.http() as client:
        body = {"model": "tiny", "training_file": department.upload(rows(3, salt=7))}
        estimate = client.post("/estimates", json=body).raise_for_status().json()["id"]
    with department.http(department.admin) as admin:
        path = f"/organization/projects/{department.id}/service_accounts"
        account = admin.post(path, json={"name": "robot"}).raise_for_status().json()
    return {
        "file_id": finished.file, "job_id": finished.job, "estimate_id": estimate, "name": finished.adapter,
        "reference": "1", "object_id": finished.version, "model": finished.model,
        "fine_tuned_model_checkpoint": finished.model, "project_id": department.id,
        "user_id": department.trainer.id, "service_account_id": account["id"], "key_id": account["api_key"]["id"],
    }  # fmt: skip


def _of_the_platform(world: World, runtime: Runtime, department: Department, folder: Path) -> dict[str, str]:
    """A worker, a base model of which no file has come yet, and a budget."""
    facts = WorkerFacts.model_validate(
        {"name": "w", "host": "h", "device": "cpu", "device_name": None, "ranks": 1, "threads_per_rank": 1,
         "memory_bytes": 1 << 30, "precision": "fp32", "quantisation": "none", "versions": {}},
        strict=False,
    )  # fmt: skip
    with runtime.platform() as session:
        worker = workers.register(session, facts)
    manifest = write_base_model(folder / "half")
    world.config = (folder / "half" / "config.json").read_bytes()
    with http(department.api_url, world.keys[Role.OPERATOR]) as operator:
        files = [file.model_dump() for file in manifest.files]
        operator.post("/base_models", json={"id": "half", "source": "x", "files": files}).raise_for_status()
        budget = f"/organization/projects/{department.id}/spend_limit"
        operator.post(budget, json=SPEND_LIMIT).raise_for_status()
    return {"worker_id": public_id(IdKind.WORKER, worker), "base_model": "half", "path": "config.json"}


def _submit_jobs(world: World, ours: Finished) -> None:
    """A job of the trainer's own, and one of another trainer's, on a file that nobody deletes."""
    world.training_file = ours.department.upload(rows(4, salt=3))
    body = {"model": "tiny", "training_file": world.training_file}
    with http(ours.department.api_url, world.keys[Role.TRAINER]) as trainer, ours.department.http() as another:
        own = trainer.post("/fine_tuning/jobs", json=body).raise_for_status().json()["id"]
        world.own[Role.TRAINER]["job_id"] = own
        world.anothers["job_id"] = another.post("/fine_tuning/jobs", json=body).raise_for_status().json()["id"]


def _missing() -> dict[str, str]:
    kinds = {
        "file_id": IdKind.FILE, "job_id": IdKind.JOB, "estimate_id": IdKind.ESTIMATE, "worker_id": IdKind.WORKER,
        "object_id": IdKind.ADAPTER_VERSION, "project_id": IdKind.DEPARTMENT, "user_id": IdKind.USER,
        "service_account_id": IdKind.SERVICE_ACCOUNT, "key_id": IdKind.API_KEY, "grant_id": IdKind.ROLE_GRANT,
        "glass_id": IdKind.BREAK_GLASS, "file_grant_id": IdKind.FILE_GRANT, "share_id": IdKind.VERSION_SHARE,
        "shared_id": IdKind.VERSION_SHARE, "permission_id": IdKind.VERSION_SHARE,
    }  # fmt: skip
    made = {name: public_id(kind, uuid4()) for name, kind in kinds.items()}
    model = f"ft:tiny:acme:nobody:{uuid4().hex}"
    return made | {"name": "nobody", "base_model": "nobody", "model": model, "fine_tuned_model_checkpoint": model}


# --- what is to be answered -------------------------------------------------------------------------------------------


def relations(route: APIRoute) -> tuple[str, ...]:
    """Whose the object of a route can be."""
    parameters = {parameter.name for parameter in route.dependant.path_params} | _nested(route)
    if not parameters:
        return (OWN,)
    if Permission.FILE_READ_CONTENT in permissions_of(route):
        return (OWN, GRANTED, ANOTHERS, FOREIGN, MISSING)
    if parameters <= SHARED:
        return (OWN, MISSING)
    if parameters == {"project_id"}:
        return (OWN, ANOTHERS, ELSEWHERE, MISSING)
    return (OWN, ANOTHERS, FOREIGN, *([ELSEWHERE] if "project_id" in parameters else []), MISSING)


def _nested(route: APIRoute) -> set[str]:
    return {part.strip("{}") for part in route.path_format.split("/") if part.startswith("{")}


# Rules beside the table: what is answered in place of what it says, to whom, about whose.
ANY = (OWN, ANOTHERS)
CLAIM, GLASS = "POST /v1/organization/role_grants/{grant_id}/key", "POST /v1/organization/break_glass/{glass_id}"
RULES: Mapping[tuple[str, Role, str], Answer] = {
    (route, role, relation): answer
    for route, roles, relations, answer in (
        # A department that has an admin needs no first one, nor a key for them.
        (f"POST {PROJECT}/users", {Role.OPERATOR}, ANY, DENIED),
        (f"POST {PROJECT}/users/{{user_id}}", {Role.OPERATOR}, ANY, DENIED),
        (f"POST {PROJECT}/api_keys", {Role.OPERATOR}, ANY, DENIED),
        # A platform's role is for whom it was given to; nobody else learns that it is there.
        (CLAIM, set(Role), (ANOTHERS,), NOT_FOUND),
        (CLAIM, {Role.TRAINER, Role.DATA_STEWARD, Role.DEPARTMENT_ADMIN, Role.APPROVER}, (OWN,), NOT_FOUND),
        # What is open is not opened again, and its key is for who asked for it.
        (f"{GLASS}/open", {Role.OPERATOR}, (OWN,), (409, "already_decided")),
        (f"{GLASS}/key", {Role.OPERATOR}, (ANOTHERS,), NOT_FOUND),
    )
    for role in roles
    for relation in relations
}


def expected(route: APIRoute, role: Role, relation: str) -> Answer:
    """What the table says."""
    (method,) = route.methods
    reaches = [reach_of([role], permission) for permission in permissions_of(route)]
    reach = max((reach for reach in reaches if reach), key=tuple(Reach).index, default=None)
    if reach is None:
        return DENIED
    # Who stands outside departments acts in any that is named.
    named = relation == ELSEWHERE and role in PLATFORM_ROLES
    if relation in {MISSING, FOREIGN, ELSEWHERE} and not named:
        return NOT_FOUND
    if (rule := RULES.get((f"{method} {route.path_format}", role, relation))) is not None:
        return rule
    if (reach is Reach.GRANTED and relation != GRANTED) or (reach is Reach.OWN and relation != OWN):
        return DENIED
    return DONE


def said(answer: httpx.Response) -> Answer:
    if answer.is_success:
        return (200, None)
    error = answer.json()["error"]
    return (answer.status_code, error["code"])


def routes() -> list[APIRoute]:
    return [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]


def test_every_role_gets_from_every_route_what_the_table_says(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    cells, deviations = 0, []
    for route in routes():
        for role in WITH_KEYS:
            answers = {}
            for relation in relations(route):
                answer = answers[relation] = world.ask(route, role, relation)
                cells += 1
                if said(answer) != expected(route, role, relation):
                    wanted = expected(route, role, relation)
                    deviations.append(f"{route.methods} {route.path} {role} {relation}: {said(answer)} not {wanted}")
            deviations += _told_apart(route, role, answers)
    with capsys.disabled():
        sys.stdout.write(f"\naccess matrix: {len(routes())} routes, {cells} cells, {len(deviations)} deviations\n")
    assert not deviations, "\n".join(deviations)
    assert {permission for route in routes() for permission in permissions_of(route)} <= set(Permission)


def _told_apart(route: APIRoute, role: Role, answers: Mapping[str, httpx.Response]) -> list[str]:
    """Another department's object and a missing one answer with the same bytes, but for the request's id."""
    found = []
    for relation in {FOREIGN, ELSEWHERE} & set(answers):
        if relation == ELSEWHERE and role in PLATFORM_ROLES:
            continue
        if _bytes(answers[relation]) != _bytes(answers[MISSING]):
            found.append(f"{route.methods} {route.path} {role}: {relation} is told from missing")
    return found


def _bytes(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    headers = {name: value for name, value in answer.headers.items() if name not in {"x-request-id", "date"}}
    return answer.status_code, answer.content, headers


def test_a_table_that_says_something_else_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # The negative control: a row of the table changed for the application alone.
    row = {role: reach for role, reach in MATRIX[Permission.JOB_SUBMIT].items() if role is not Role.TRAINER}
    (route,) = (each for each in routes() if each.path == "/v1/fine_tuning/jobs" and each.methods == {"POST"})
    wanted = expected(route, Role.TRAINER, OWN)
    assert said(world.ask(route, Role.TRAINER, OWN)) == wanted
    monkeypatch.setitem(MATRIX, Permission.JOB_SUBMIT, row)
    assert said(world.ask(route, Role.TRAINER, OWN)) != wanted
