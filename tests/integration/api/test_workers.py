"""Workers over the API: the operator's to see and to steer, the auditor's to see, and no department's."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from domain.ids import IdKind, parse_id, public_id
from domain.plans import CalibratedPass, CalibrateReport, Device, InspectReport, Precision, Quantisation
from domain.workers import WorkerFacts
from runtime.wiring import Runtime
from services import claims, validation, workers
from tests.integration.conftest import Department, http, rows

FACTS = WorkerFacts(
    name="gpu-7:41", host="gpu-7", device=Device.CUDA, device_name="NVIDIA L4", ranks=1, threads_per_rank=1,
    memory_bytes=24 << 30, precision=Precision.AUTO, quantisation=Quantisation.NONE, versions={"torch": "2.9"},
)  # fmt: skip
MEASURED = CalibrateReport(
    token_budget=4096, peak_flops=1e14, precision=Precision.BF16, device=Device.CUDA, hardware="NVIDIA L4",
    passes=(CalibratedPass(tokens=1024, tokens_per_s=3000.0), CalibratedPass(tokens=4096, tokens_per_s=5000.0)),
)  # fmt: skip


@pytest.fixture
def register(runtime: Runtime) -> Callable[[], UUID]:
    def registered() -> UUID:
        with runtime.platform() as session:
            return workers.register(session, FACTS)

    return registered


def test_the_operator_sees_what_a_worker_can(
    runtime: Runtime, register: Callable[[], UUID], api_url: str, operator_key: str
) -> None:
    worker = register()
    with http(api_url, operator_key) as operator:
        before = operator.get(f"/workers/{public_id(IdKind.WORKER, worker)}").raise_for_status().json()
        with runtime.platform() as session:
            workers.sign_of_life(session, worker, MEASURED)
        after = operator.get("/workers").raise_for_status().json()["data"][0]
    assert before["id"] == after["id"]
    assert (before["status"], before["busy"], before["precision"], before["calibration"]) == (
        "active", False, "auto", None,
    )  # fmt: skip
    assert (after["device_name"], after["memory_bytes"], after["versions"]) == ("NVIDIA L4", 24 << 30, {"torch": "2.9"})
    assert after["precision"] == "bf16"
    assert after["calibration"] == {
        "hardware": "NVIDIA L4", "token_budget": 4096, "peak_flops": 1e14, "tokens_per_s": 5000.0,
    }  # fmt: skip
    assert after["seen_at"] >= after["registered_at"]


def test_a_worker_is_drained_and_retired_by_the_operator_and_the_auditor_reads_of_it(
    register: Callable[[], UUID], api_url: str, operator_key: str, auditor_key: str
) -> None:
    worker = public_id(IdKind.WORKER, register())
    with http(api_url, operator_key) as operator:
        for act, now, shown in (
            ("drain", None, ("draining", False)),
            ("undrain", None, ("active", False)),
            ("retire", "true", ("draining", True)),
        ):
            asked = operator.post(f"/workers/{worker}/{act}", params={"now": now} if now else {})
            assert (asked.json()["status"], asked.json()["retiring"]) == shown, act
    with http(api_url, auditor_key) as auditor:
        assert auditor.get(f"/workers/{worker}").json()["draining"]
        assert auditor.post(f"/workers/{worker}/undrain").status_code == 403
        asked = auditor.get("/organization/audit_logs", params={"resource_ids[]": worker})
        events = [(event["type"], event["details"].get("now")) for event in asked.json()["data"][::-1]]
    assert events == [
        ("worker.registered", None), ("worker.drained", False), ("worker.undrained", None),
        ("worker.retire_requested", True),
    ]  # fmt: skip


def test_nothing_can_be_asked_of_a_worker_that_has_ended(
    runtime: Runtime, register: Callable[[], UUID], api_url: str, operator_key: str
) -> None:
    worker = register()
    with runtime.platform() as session:
        workers.leave(session, worker)
    shown = public_id(IdKind.WORKER, worker)
    with http(api_url, operator_key) as operator:
        for act in ("drain", "undrain", "retire"):
            refused = operator.post(f"/workers/{shown}/{act}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "worker_retired")
            assert refused.headers["x-should-retry"] == "false"
        ids = [found["id"] for found in operator.get("/workers", params={"limit": 100}).json()["data"]]
        everybody = operator.get("/workers", params={"limit": 100, "retired": "true"}).json()["data"]
    assert shown not in ids
    assert {found["id"]: found["status"] for found in everybody}[shown] == "retired"


def test_workers_are_listed_a_page_at_a_time(register: Callable[[], UUID], api_url: str, operator_key: str) -> None:
    made = [public_id(IdKind.WORKER, register()) for _ in range(3)]
    with http(api_url, operator_key) as operator:
        page = operator.get("/workers", params={"limit": 2}).json()
        rest = operator.get("/workers", params={"limit": 1, "after": page["last_id"]}).json()
    assert [found["id"] for found in (*page["data"], *rest["data"])] == made[::-1]
    assert page["has_more"]


def test_a_department_is_told_of_no_worker(
    department: Department, register: Callable[[], UUID], unchanged: Callable[..., Any]
) -> None:
    worker = public_id(IdKind.WORKER, register())
    for person in (department.admin, department.trainer):
        with department.http(person) as client, unchanged(access_denied=5):
            refusals = [client.get("/workers"), client.get(f"/workers/{worker}")]
            refusals += [client.post(f"/workers/{worker}/{act}") for act in ("drain", "undrain", "retire")]
            assert [refused.status_code for refused in refusals] == [403] * 5


def test_an_unknown_worker_is_not_found(api_url: str, operator_key: str) -> None:
    with http(api_url, operator_key) as operator:
        for unknown in ("worker-" + "0" * 32, "worker-x", "x"):
            for answer in (operator.get(f"/workers/{unknown}"), operator.post(f"/workers/{unknown}/drain")):
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_a_job_tells_why_it_waits(
    make_department: Callable[[], Department], base_model: str, runtime: Runtime, register: Callable[[], UUID]
) -> None:
    department = make_department()
    client = department.client()
    made: Any = client.fine_tuning.jobs.create(model=base_model, training_file=department.upload(rows(4)))
    assert (made.waiting["code"], made.waiting["position"]) == ("validating_files", None)
    job, key = parse_id(IdKind.JOB, made.id), parse_id(IdKind.DEPARTMENT, department.id)
    with runtime.department(key) as session:
        validation.accept(session, job, InspectReport(files=(), problems=()))
    worker = register()
    (listed,) = client.fine_tuning.jobs.list()
    assert listed.waiting["code"] == "starting"  # type: ignore[attr-defined]  # ours
    with runtime.department(key) as session:
        assert claims.claim(session, job, worker="a test", lease_s=60, worker_id=worker)
    running: Any = client.fine_tuning.jobs.retrieve(made.id)
    assert (running.status, running.waiting) == ("running", None)
