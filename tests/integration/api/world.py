"""A department with somebody in every role, its neighbour, and an id of each for whatever a path can name."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from domain.access import PLATFORM_ROLES, Role
from domain.ids import IdKind, parse_id, public_id
from domain.workers import WorkerFacts
from models_db.audit import AuditExport
from runtime.wiring import Runtime
from services import workers
from tests.integration.api.conftest import Finished
from tests.integration.api.test_imports import bundle
from tests.integration.conftest import Department, http, rows, write_base_model
from workers.exports import ExportWriter

# Whose the object is that a path names. FOREIGN and MISSING name it below the caller's department, where a path has
# one; ELSEWHERE below its own, and NOWHERE below one that does not exist.
OWN, GRANTED, ANOTHERS = "own", "granted", "another's"
FOREIGN, ELSEWHERE, MISSING, NOWHERE = "foreign", "elsewhere", "missing", "nowhere"
# Nobody's in particular: all departments see the same.
SHARED = {"worker_id", "base_model", "path", "query", "export_id", "policy_version"}
POLICIES = ("/v1/policies", "/v1/organization/policies")
PROJECTS = "/v1/organization/projects"
PROJECT = f"{PROJECTS}/{{project_id}}"
PERMISSIONS = "/v1/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions"
# An adapter of the caller's department, which is made where there is none of that name.
IMPORTS = "POST /v1/adapters/{name}/imports"
WEBHOOK = {"name": "x", "url": "https://93.184.215.14/", "event_types": ["fine_tuning.job.failed"]}
VERSION, ALIAS = "/v1/adapters/{name}/versions/{reference}", "/v1/adapters/{name}/aliases/{alias}"
APPROVAL = "/v1/approvals/{approval_id}"
SPEND_LIMIT = {"currency": "USD", "interval": "month", "threshold_amount": 100}


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
    manifest: list[dict[str, Any]] = field(default_factory=list)
    # Of the alias `staging`, by adapter; of the versions that wait for an approval.
    etags: dict[str, str] = field(default_factory=dict)
    digest: str = ""

    def ids(self, relation: str, role: Role) -> dict[str, str]:
        """What the parameters of a path stand for."""
        if relation in {OWN, GRANTED, ANOTHERS}:
            nearer = {OWN: self.own.get(role, {}), GRANTED: self.granted}
            return self.anothers | nearer.get(relation, {})
        theirs = self.foreign if relation in {FOREIGN, ELSEWHERE} else _missing()
        at_home = {"project_id": self.department} if relation in {FOREIGN, MISSING} else {}
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
        policy = {"content": b"format: 1\n", "headers": {"content-type": "application/yaml"}}
        holder = self.people.get(role) if relation == OWN else None
        etag = self.etags.get(self.ids(relation, role)["name"], "0" * 32)
        reason = {"json": {"reason": "a test"}}
        return {
            "POST /v1/files": {"files": {"file": ("rows.jsonl", rows(2))}, "data": {"purpose": "fine-tune"}},
            "POST /v1/fine_tuning/jobs": job,
            "POST /v1/estimates": job,
            IMPORTS: {"files": [("files", each) for each in bundle().items()]},
            "POST /v1/base_models": {"json": {"id": "next", "source": "x", "files": self.manifest}},
            "PUT /v1/base_models/{base_model}/files/{path}": {
                "content": self.config, "headers": {"content-type": "application/octet-stream"},
            },
            **{f"POST {path}{trial}": policy for path in POLICIES for trial in ("", "/test")},
            "GET /v1/organization/costs": {"params": {"start_time": int(time.time())}},
            "POST /v1/organization/users": {"json": {"email": "next@example.org", "name": "Next"}},
            "POST /v1/organization/role_grants": {"json": {"role": "approver", "user_id": self.newcomer}},
            "POST /v1/organization/role_grants/{grant_id}/key": {"json": {}},
            "POST /v1/organization/break_glass": {"json": {"reason": "a test"}},
            "POST /v1/files/{file_id}/grants": {"json": {"user_id": self.people.get(Role.TRAINER)}},
            f"POST {PERMISSIONS}": {"json": {"project_ids": [public_id(IdKind.DEPARTMENT, uuid4())]}},
            "POST /v1/deployments": {"json": {"adapter": "ours", "version": 1, "server": "s", "state": "loaded"}},
            "POST /v1/sessions": {"json": {}},
            "POST /v1/files/{file_id}/erasures": {"json": {"reason": "a test"}},
            "POST /v1/erasures/{erasure_id}/confirm": {"json": {"digest": self.anothers["dry_run"]}},
            "POST /v1/webhook_endpoints": {"json": WEBHOOK},
            "POST /v1/webhook_endpoints/{endpoint_id}": {"json": {"name": "other"}},
            "POST /v1/webhook_endpoints/{endpoint_id}/rotate_secret": {"json": {}},
            "POST /v1/audit/exports": {"json": {}},
            "POST /v1/webhook_endpoints/{endpoint_id}/test": {"json": {"event_type": "fine_tuning.job.failed"}},
            f"POST {VERSION}": {"json": {"labels": {"stage": "pilot"}}},
            f"POST {VERSION}/revoke": reason,
            f"POST {VERSION}/retire": reason,
            "GET /v1/adapters/{name}/compare": {"params": {"from": "1", "to": "1"}},
            f"PUT {ALIAS}": {"json": {"version": 1}, "headers": {"if-match": f'"{etag}"'}},
            "POST /v1/approvals": {"json": {"adapter": "mine", "version": "1"}},
            f"POST {APPROVAL}/comments": {"json": {"comment": "a test"}},
            f"POST {APPROVAL}/decision": {"json": {"decision": "approve", "digest": self.digest}},
            f"POST {PROJECT}": {"json": {"default_data_class": "restricted"}},
            f"POST {PROJECTS}": {"json": {"name": "next"}},
            f"POST {PROJECT}/users": {"json": {"user_id": self.newcomer, "role": "member"}},
            f"POST {PROJECT}/users/{{user_id}}": {"json": {"role": "member"}},
            f"POST {PROJECT}/service_accounts": {"json": {"name": "another"}},
            f"POST {PROJECT}/api_keys": {"json": {"user_id": holder or self.anothers["user_id"], "name": "x"}},
            f"POST {PROJECT}/limits": {"json": {"max_running_jobs": 1}},
            f"POST {PROJECT}/spend_limit": {"json": SPEND_LIMIT},
        }.get(route, {})  # fmt: skip


def furnish(
    world: World, runtime: Runtime, administrator: Engine, folder: Path, *, ours: Finished, theirs: Finished
) -> None:
    """Enter everybody and everything. The keys of the operator and the auditor are the world's already."""
    operator = world.keys[Role.OPERATOR]
    _staff(world, ours.department)
    _break_glass(world, ours.department, operator)
    _auditor_to_be(world, ours.department, operator)
    world.anothers = _ids(ours) | _of_the_platform(world, runtime, ours.department, folder)
    world.anothers |= {"query": "counts", "export_id": _export(runtime)}
    world.anothers |= _pending(administrator, ours.department.id, world.newcomer)
    world.foreign = _ids(theirs) | _pending(administrator, theirs.department.id, theirs.department.trainer.id)
    _submit_jobs(world, ours)
    for each in (ours, theirs):
        _budget(each.department, operator)
    with administrator.begin() as connection:
        # What a server may have. Who approves what is another test's.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("UPDATE adapter_versions SET state = 'approved'"))
        # So that a sample is sent nowhere.
        connection.execute(text("UPDATE webhook_endpoints SET url = 'https://10.0.0.1/'"))
    _grant(world, ours)
    (to_them, to_them_soon), (to_us, to_us_soon) = _shares(ours, theirs), _shares(theirs, ours)
    world.anothers |= {"permission_id": to_them, "share_id": to_them_soon, "shared_id": to_us}
    world.foreign |= {"permission_id": to_us, "share_id": to_us_soon, "shared_id": to_them}


def govern(world: World, finish: Callable[..., None], *, ours: Finished, theirs: Finished) -> None:
    """Versions of the trainer's own, one with an alias; and requests for approval, the trainer's and another's."""
    department = ours.department
    with http(department.api_url, world.keys[Role.TRAINER]) as trainer, department.http() as another:
        for client, adapter in ((trainer, "mine"), (trainer, "mine"), (another, "asked"), (another, "asked-by-me")):
            body = {"model": "tiny", "training_file": world.training_file, "suffix": adapter}
            finish(department, client.post("/fine_tuning/jobs", json=body).raise_for_status().json()["id"])
        world.etags = {ours.adapter: _aliased(another, ours.adapter, 1), "mine": _aliased(trainer, "mine", 2)}
        world.anothers |= {"alias": "staging", "approval_id": _requested(another, "asked")}
        model = trainer.get("/adapters/mine/versions/1").raise_for_status().json()["model"]
        asked = _requested(trainer, "asked-by-me")
        world.own[Role.TRAINER] |= {"name": "mine", "model": model, "approval_id": asked}
        world.digest = another.get("/adapters/asked/versions/1").raise_for_status().json()["digest"]
    with theirs.department.http() as them:
        file = theirs.department.upload(rows(4, salt=3))
        job = them.post("/fine_tuning/jobs", json={"model": "tiny", "training_file": file, "suffix": "asked"})
        finish(theirs.department, job.raise_for_status().json()["id"])
        _aliased(them, theirs.adapter, 1)
        world.foreign |= {"approval_id": _requested(them, "asked"), "alias": "staging"}


def _aliased(client: httpx.Client, adapter: str, version: int) -> str:
    """The ETag of an alias that stands for a version from now on."""
    path, new = f"/adapters/{adapter}/aliases/staging", {"If-None-Match": "*"}
    etag: str = client.put(path, json={"version": version}, headers=new).raise_for_status().json()["etag"]
    return etag


def _requested(client: httpx.Client, adapter: str) -> str:
    body = {"adapter": adapter, "version": "1"}
    asked: str = client.post("/approvals", json=body).raise_for_status().json()["id"]
    return asked


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
        path = f"/files/{department.upload(rows(3, salt=8))}/erasures"
        erasure = client.post(path, json={"reason": "a test"}).raise_for_status().json()
    with department.http(department.admin) as admin:
        path = f"/organization/projects/{department.id}/service_accounts"
        account = admin.post(path, json={"name": "robot"}).raise_for_status().json()
        endpoint = admin.post("/webhook_endpoints", json=WEBHOOK).raise_for_status().json()["id"]
    return {
        "file_id": finished.file, "job_id": finished.job, "estimate_id": estimate, "name": finished.adapter,
        "reference": "1", "object_id": finished.version, "model": finished.model,
        "fine_tuned_model_checkpoint": finished.model, "project_id": department.id,
        "user_id": department.trainer.id, "service_account_id": account["id"], "key_id": account["api_key"]["id"],
        "endpoint_id": endpoint, "erasure_id": erasure["id"], "dry_run": erasure["digest"],
    }  # fmt: skip


def _budget(department: Department, operator_key: str) -> None:
    with http(department.api_url, operator_key) as operator:
        path = f"/organization/projects/{department.id}/spend_limit"
        operator.post(path, json=SPEND_LIMIT).raise_for_status()


def _of_the_platform(world: World, runtime: Runtime, department: Department, folder: Path) -> dict[str, str]:
    """A worker, a base model of which no file has come yet, and the policies: each scope has a version 1."""
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
        world.manifest = [file.model_dump() for file in manifest.files]
        proposal = {"id": "half", "source": "x", "files": world.manifest}
        operator.post("/base_models", json=proposal).raise_for_status()
        yaml = {"content-type": "application/yaml"}
        operator.post("/organization/policies", content=b"format: 1\n", headers=yaml).raise_for_status()
    with department.http(department.admin) as admin:
        admin.post("/policies", content=b"format: 1\n", headers=yaml).raise_for_status()
    worker_id = public_id(IdKind.WORKER, worker)
    return {"worker_id": worker_id, "base_model": "half", "path": "config.json", "policy_version": "1"}


def _export(runtime: Runtime) -> str:
    """An export of the audit trail that was written in the background."""
    with runtime.auditor() as session:
        export = AuditExport(format="csv", scope={"actions": ["none"]}, state="pending")
        session.add(export)
    assert ExportWriter(runtime).write_next()
    return public_id(IdKind.AUDIT_EXPORT, export.id)


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
        "endpoint_id": IdKind.WEBHOOK_ENDPOINT, "export_id": IdKind.AUDIT_EXPORT,
        "approval_id": IdKind.APPROVAL, "erasure_id": IdKind.FILE_ERASURE,
    }  # fmt: skip
    made = {name: public_id(kind, uuid4()) for name, kind in kinds.items()}
    model = f"ft:tiny:acme:nobody:{uuid4().hex}"
    named = {"name": "nobody", "query": "nobody", "base_model": "nobody", "policy_version": "9"}
    return made | named | {"model": model, "fine_tuned_model_checkpoint": model}
