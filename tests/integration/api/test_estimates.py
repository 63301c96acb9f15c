"""Estimates through the API: what a job would come to, and what would refuse it, with nothing entered."""

import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from domain.ids import IdKind, parse_id
from domain.plans import InspectedFile, InspectProblem, InspectReport
from runtime.wiring import Runtime
from services import estimates, inspections
from tests.integration.api.conftest import ADAPTER_FILES
from tests.integration.conftest import Department, http, rows

Finish = Callable[..., None]

COUNTED = InspectReport(
    files=(
        InspectedFile(
            file="training_file", rows=8, tokens=800, supervised_tokens=80, longest_row_tokens=100, too_long_rows=0,
            untrainable_rows=0,
        ),
    ),
    problems=(),
)  # fmt: skip
# Of the base model made by the tests: two layers of 64 by 64. Rank 8 is 1024 numbers a layer, of 4 bytes.
WEIGHTS_BYTES = 2 * 1024 * 4


@pytest.fixture
def at_once(api_with: Callable[..., str]) -> str:
    """The API without waiting for rows to be counted."""
    return api_with(estimate_wait_s=0)


def body_of(department: Department, base_model: str, **fields: Any) -> dict[str, Any]:
    # Rows that no other test has had counted.
    file = department.upload(rows(8, salt=time.monotonic_ns()))
    return {"model": base_model, "training_file": file} | fields


def count(runtime: Runtime, estimate: str, report: InspectReport = COUNTED) -> None:
    """Play the validate worker."""
    key = parse_id(IdKind.ESTIMATE, estimate)
    with runtime.platform() as session:
        department = estimates.department_of(session, key)
    assert department
    with runtime.department(department) as session:
        counting = estimates.load(session, key)
        assert counting
        inspections.keep(session, counting, report)


def waiting(runtime: Runtime, department: Department) -> list[UUID]:
    with runtime.department(parse_id(IdKind.DEPARTMENT, department.id)) as session:
        return list(session.execute(text("SELECT id FROM estimates WHERE error IS NULL")).scalars())


def test_rows_are_counted_once_for_all_that_ask(
    *, department: Department, base_model: str, runtime: Runtime, at_once: str, unchanged: Callable[..., Any]
) -> None:
    body = body_of(department, base_model)
    with http(at_once, department.trainer.key) as client:
        first = client.post("/estimates", json=body).raise_for_status().json()
        assert (first["status"], first["allowed_to_proceed"], first["reasons"]) == ("pending", None, [])
        assert (first["estimate"]["steps"], first["estimate"]["trained_tokens"]) == (3, None)
        count(runtime, first["id"])
        later = client.get(f"/estimates/{first['id']}").raise_for_status().json()
        assert (later["status"], later["allowed_to_proceed"], later["id"]) == ("ready", True, first["id"])
        # 8 rows in one batch, three times.
        assert (later["estimate"]["trained_tokens"], later["estimate"]["supervised_tokens"]) == (2400, 240)
        assert later["estimate"]["adapter_bytes"] - WEIGHTS_BYTES in range(300, 1200)
        with unchanged():
            other = client.post("/estimates", json=body | {"lora": {"rank": 16}, "seed": 3}).raise_for_status().json()
        assert (other["id"], other["status"], other["estimate"]["trained_tokens"]) == (None, "ready", 2400)
        assert other["estimate"]["adapter_bytes"] > later["estimate"]["adapter_bytes"]


def test_an_answer_waits_a_little_for_its_rows(department: Department, base_model: str, runtime: Runtime) -> None:
    answers: list[dict[str, Any]] = []

    def ask() -> None:
        with department.http() as client:
            answers.append(client.post("/estimates", json=body_of(department, base_model)).json())

    before = set(waiting(runtime, department))
    asking = threading.Thread(target=ask)
    asking.start()
    deadline = time.monotonic() + 20
    while not (new := set(waiting(runtime, department)) - before):
        assert time.monotonic() < deadline
    count(runtime, f"estimate-{new.pop().hex}")
    asking.join()
    assert (answers[0]["status"], answers[0]["estimate"]["trained_tokens"]) == ("ready", 2400)


def test_everything_that_a_submit_would_refuse_is_told_and_nothing_is_entered(
    make_department: Callable[[], Department], base_model: str, api_with: Callable[..., str], unchanged: Any
) -> None:
    department = make_department()
    unknown = "file-" + "0" * 32
    body = body_of(department, base_model)
    with http(api_with(max_unfinished_jobs=1, max_total_steps=2), department.trainer.key) as client:
        client.post("/fine_tuning/jobs", json=body | {"lora": {"max_steps": 1}}).raise_for_status()
        with unchanged():
            wrong = client.post("/estimates", json=body | {"model": "gpt-4", "validation_file": unknown}).json()
        assert [(reason["code"], reason["param"]) for reason in wrong["reasons"]] == [
            ("quota_exceeded", None), ("unknown_base_model", "model"), ("unknown_file", "validation_file"),
        ]  # fmt: skip
        assert (wrong["allowed_to_proceed"], wrong["estimate"], wrong["id"]) == (False, None, None)
        long = client.post("/estimates", json=body).json()
        assert [reason["code"] for reason in long["reasons"]] == ["quota_exceeded", "job_too_large"]
        assert "3 steps; the limit here is 2" in long["reasons"][1]["message"]
        assert long["estimate"]["steps"] == 3
        # The first is what a submit says, to the letter.
        refused = client.post("/fine_tuning/jobs", json=body).json()["error"]
        assert long["reasons"][0] == {name: refused[name] for name in ("code", "message", "param")}


def test_what_validation_would_find_is_told(
    department: Department, base_model: str, runtime: Runtime, api_with: Callable[..., str]
) -> None:
    with http(api_with(estimate_wait_s=0, max_training_tokens=2399), department.trainer.key) as client:
        asked = client.post("/estimates", json=body_of(department, base_model)).json()
        problem = InspectProblem(file="training_file", line=2, code="row_too_long", message="The row has 300 tokens.")
        count(runtime, asked["id"], COUNTED.model_copy(update={"problems": (problem,)}))
        found = client.get(f"/estimates/{asked['id']}").json()
    assert found["allowed_to_proceed"] is False
    assert [(reason["code"], reason["param"]) for reason in found["reasons"]] == [
        ("row_too_long", "training_file:2"), ("job_too_large", "training_file"),
    ]  # fmt: skip
    assert "2400 tokens in 3 epochs; the limit is 2399" in found["reasons"][1]["message"]


def test_a_department_has_so_many_rows_counted_at_a_time(
    make_department: Callable[[], Department], base_model: str, runtime: Runtime, api_with: Callable[..., str]
) -> None:
    department = make_department()
    with http(api_with(estimate_wait_s=0, max_pending_estimates=2), department.trainer.key) as client:
        asked = [client.post("/estimates", json=body_of(department, base_model)).json() for _ in range(2)]
        more = body_of(department, base_model)
        refused = client.post("/estimates", json=more)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
        assert "2 estimates of the department wait" in refused.json()["error"]["message"]
        count(runtime, asked[0]["id"])
        assert client.post("/estimates", json=more).json()["status"] == "pending"


def test_an_estimate_is_for_who_may_submit(department: Department, base_model: str, at_once: str) -> None:
    body, viewer = body_of(department, base_model), department.member("viewer")
    with http(at_once, department.trainer.key) as client:
        asked = client.post("/estimates", json=body).json()
    with http(at_once, viewer.key) as client:
        for answer in (client.post("/estimates", json=body), client.get(f"/estimates/{asked['id']}")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
        assert client.get("/estimates/accuracy").is_success


def test_an_estimate_is_forgotten_when_its_time_is_over(
    department: Department, base_model: str, runtime: Runtime, api_with: Callable[..., str]
) -> None:
    with http(api_with(estimate_wait_s=0, estimate_kept_s=0.001), department.trainer.key) as client:
        asked = client.post("/estimates", json=body_of(department, base_model)).json()
        answer = client.get(f"/estimates/{asked['id']}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    key = parse_id(IdKind.ESTIMATE, asked["id"])
    assert key in waiting(runtime, department)
    with runtime.platform() as session:
        assert estimates.forget(session, inspections_after_s=3600) >= 1
    assert key not in waiting(runtime, department)


def test_a_job_keeps_its_estimate_beside_what_it_came_to(
    *,
    make_department: Callable[[], Department],
    base_model: str,
    finish: Finish,
    api_url: str,
    operator_key: str,
) -> None:
    department = make_department()
    with department.http() as client:
        first = _finished(client, department, base_model, finish)
        # Nobody had trained on this base model when its rows were counted.
        assert (first["estimate"]["trained_tokens"], first["estimate"]["seconds"]) == (2400, None)
        assert {gap["figure"]: gap["code"] for gap in first["estimate"]["gaps"]}["seconds"] == "not_measured_yet"
        assert (first["actual"]["trained_tokens"], first["actual"]["ranks"]) == (100, 2)
        assert first["actual"]["gpu_seconds"] == 2 * first["actual"]["seconds"]
        assert first["actual"]["adapter_bytes"] == len(ADAPTER_FILES["adapter_model.safetensors"])
        # 2400 tokens thought and 100 trained.
        assert first["actual"]["relative_errors"]["trained_tokens"] == 23.0
        second = _finished(client, department, base_model, finish)
        # 100 tokens a second were measured, and next to nothing beside training.
        assert second["estimate"]["seconds"] == pytest.approx(24, abs=2)
        assert (second["estimate"]["device"], second["estimate"]["measured_runs"]) == ("cpu", 1)
    with http(api_url, operator_key) as operator:
        data = operator.get("/estimates/accuracy").raise_for_status().json()["data"]
    (tokens,) = [each for each in data if each["figure"] == "trained_tokens"]
    assert tokens == {
        "model": base_model, "device": "cpu", "figure": "trained_tokens", "jobs": 2, "median_error": 23.0,
        "p90_error": 23.0,
    }  # fmt: skip
    assert {each["figure"]: each["jobs"] for each in data}["seconds"] == 1


def _finished(client: httpx.Client, department: Department, base_model: str, finish: Finish) -> dict[str, Any]:
    """A job that a worker has counted, trained and registered."""
    submitted = client.post("/fine_tuning/jobs", json=body_of(department, base_model)).raise_for_status().json()
    assert submitted["estimate"] is submitted["actual"] is None
    finish(department, submitted["id"], COUNTED)
    found: dict[str, Any] = client.get(f"/fine_tuning/jobs/{submitted['id']}").json()
    return found
