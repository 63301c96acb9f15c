"""A department that is closed: nobody acts in it, and later nothing of it is left but its trail."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import boto3
import httpx
import pytest
from sqlalchemy import Engine, create_engine, text

from domain.access import Principal, PrincipalType, Role
from domain.ids import IdKind, parse_id
from models_db.tables import DEPARTMENT_TABLES
from runtime.settings import Settings
from runtime.wiring import Runtime
from services import closing
from tests.integration.api.conftest import Finished
from tests.integration.conftest import Database, Department, http, rows
from workers.closing import erase_closed


@pytest.fixture(scope="module")
def administrator(database: Database) -> Iterator[Engine]:
    engine = create_engine(database.admin_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def stored(settings: Settings) -> Iterator[Callable[[Department], int]]:
    """How many objects a department has, as the store itself lists them."""
    client = boto3.session.Session().client(
        "s3", endpoint_url=settings.s3_endpoint, region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
    )  # fmt: skip

    def counted(department: Department) -> int:
        key = parse_id(IdKind.DEPARTMENT, department.id)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=settings.s3_bucket)
        names = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return sum(str(key) in name or key.hex in name for name in names)

    yield counted
    client.close()


def counts(administrator: Engine, department: Department) -> dict[str, int]:
    """Rows of a department by table, counted by a superuser."""
    key = {"department": parse_id(IdKind.DEPARTMENT, department.id)}
    with administrator.connect() as connection:
        return {
            table: connection.execute(
                text(f"SELECT count(*) FROM {table} WHERE department_id = :department"),  # noqa: S608
                key,
            ).scalar_one()
            for table in DEPARTMENT_TABLES
            if table != "departments"
        }


def archive(department: Department) -> httpx.Response:
    with http(department.api_url, department.operator_key) as operator:
        return operator.post(f"/organization/projects/{department.id}/archive")


def test_closing_ends_keys_jobs_and_shares_at_once(
    make_department: Callable[[], Department], base_model: str, administrator: Engine
) -> None:
    department = make_department()
    client = department.client()
    job = client.fine_tuning.jobs.create(model=base_model, training_file=department.upload(rows(4)))
    with department.http(department.admin) as admin:
        assert admin.post(f"/organization/projects/{department.id}/archive").status_code == 403
        path = f"/organization/projects/{department.id}/service_accounts"
        robot = admin.post(path, json={"name": "robot"}).json()["api_key"]["value"]
    closed = archive(department).raise_for_status().json()
    assert closed["status"] == "archived"
    assert closed["archived_at"] is not None
    assert archive(department).json() == closed
    for key in (department.admin.key, department.trainer.key, robot):
        with http(department.api_url, key) as former:
            assert former.get("/me").status_code == 401
    with http(department.api_url, department.operator_key, openai_project=department.id) as operator:
        assert operator.get(f"/fine_tuning/jobs/{job.id}").json()["status"] == "cancelled"
        base = f"/organization/projects/{department.id}"
        for path, body in (
            (f"{base}/api_keys", {"user_id": department.admin.id, "name": "again"}),
            ("/organization/role_grants", {"user_id": department.trainer.id, "role": "approver"}),
            ("/organization/break_glass", {"reason": "look again"}),
        ):
            refused = operator.post(path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "department_closed"), path
    with administrator.begin() as connection, pytest.raises(Exception, match="the department is closed"):
        connection.execute(
            text("INSERT INTO api_keys (department_id, user_id, name, prefix, secret_sha256) "
                 "SELECT department_id, user_id, 'x', 'x', 'x' FROM memberships WHERE department_id = :department"),
            {"department": parse_id(IdKind.DEPARTMENT, department.id)},
        )  # fmt: skip


def test_what_comes_in_while_a_department_closes_is_refused(
    make_department: Callable[[], Department], base_model: str, runtime: Runtime, administrator: Engine
) -> None:
    department = make_department()
    file, key = department.upload(rows(4)), parse_id(IdKind.DEPARTMENT, department.id)
    operator = Principal(PrincipalType.SERVICE_ACCOUNT, None, None, key, frozenset({Role.OPERATOR}))
    keys = f"/organization/projects/{department.id}/api_keys"
    with department.http() as trainer, ThreadPoolExecutor(2) as beside:
        with runtime.department(key) as session:
            closing.close(session, operator, key)
            asked = [
                beside.submit(trainer.post, "/fine_tuning/jobs", json={"model": base_model, "training_file": file}),
                beside.submit(trainer.post, keys, json={"user_id": department.trainer.id, "name": "late"}),
            ]
            # Their keys are alive as yet, and what they ask for waits.
            assert wait(asked, timeout=0.5).not_done == set(asked)
        answers = [each.result() for each in asked]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (409, "department_closed"), (409, "department_closed")
    ]  # fmt: skip
    assert counts(administrator, department)["jobs"] == 0


def test_rows_and_objects_go_when_their_time_is_over_and_the_trail_stays(
    *, runtime: Runtime, make_finished: Callable[[str], Finished], administrator: Engine,
    stored: Callable[[Department], int], auditor_key: str,
) -> None:  # fmt: skip
    finished, neighbour = make_finished("closing"), make_finished("staying")
    department = finished.department
    archive(department).raise_for_status()
    before, beside = counts(administrator, department), counts(administrator, neighbour.department)
    assert stored(department) > 0
    assert before["adapter_versions"] == before["jobs"] == 1

    # It is not its time: nothing goes, whoever asks.
    erase_closed(runtime)
    assert counts(administrator, department) == before

    due = replace(runtime, settings=runtime.settings.model_copy(update={"closed_kept_days": 0.0}))
    erase_closed(due)
    erase_closed(due)
    after = counts(administrator, department)
    assert after == dict.fromkeys(after, 0) | {"audit_events": before["audit_events"] + 1}
    assert stored(department) == 0
    assert counts(administrator, neighbour.department) == beside
    assert stored(neighbour.department) > 0
    with http(department.api_url, auditor_key) as auditor:
        query = {"project_ids[]": department.id, "limit": 100}
        told: list[dict[str, Any]] = auditor.get("/organization/audit_logs", params=query).json()["data"]
        assert {"job.submitted", "adapter.version.registered", "department.closed"} <= {each["type"] for each in told}
        erased = [each for each in told if each["type"] == "department.erased"]
        assert [each["details"]["rows"] for each in erased] == [sum(before.values()) - before["audit_events"]]
        shown = auditor.get(f"/organization/projects/{department.id}").json()
        assert (shown["name"], shown["status"]) == (department.name, "archived")
