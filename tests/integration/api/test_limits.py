"""What a department may use at most: who sets it, and what is refused beyond it, with which numbers."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import openai
import pytest

from domain.ids import IdKind, parse_id
from domain.plans import InspectReport
from domain.usage import Rate
from runtime.wiring import Runtime
from services import claims, leases, usage, validation
from tests.integration.api.conftest import ADAPTER_FILES, Finished
from tests.integration.api.ledger import spend
from tests.integration.conftest import Department, http, official_client, rows

TICK = timedelta(microseconds=1)
ADAPTER_BYTES = sum(map(len, ADAPTER_FILES.values()))


@pytest.fixture
def operator(api_url: str, operator_key: str) -> Iterator[httpx.Client]:
    with http(api_url, operator_key) as client:
        yield client


def path_of(department: Department) -> str:
    return f"/organization/projects/{department.id}/limits"


def limit(operator: httpx.Client, department: Department, **limits: float | None) -> dict[str, Any]:
    answer: dict[str, Any] = operator.post(path_of(department), json=limits).raise_for_status().json()
    return answer


def submit(department: Department, base_model: str, file: str) -> httpx.Response:
    with department.http() as trainer:
        return trainer.post("/fine_tuning/jobs", json={"model": base_model, "training_file": file})


def queued(runtime: Runtime, department: Department, base_model: str, file: str) -> UUID:
    """A job whose files somebody has validated."""
    job = parse_id(IdKind.JOB, submit(department, base_model, file).raise_for_status().json()["id"])
    with runtime.department(parse_id(IdKind.DEPARTMENT, department.id)) as session:
        validation.accept(session, job, InspectReport(files=(), problems=()))
    return job


def refusal_of(answer: httpx.Response) -> tuple[int, str, str]:
    assert not answer.is_success
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


@pytest.fixture
def finished(make_finished: Callable[[str], Finished]) -> Finished:
    return make_finished("a")


def test_the_operator_sets_limits_and_leaves_out_what_stays(department: Department, operator: httpx.Client) -> None:
    before = operator.get(path_of(department)).json()
    assert {name: before[name] for name in ("max_running_jobs", "max_gpu_hours", "monthly_budget")} == {
        "max_running_jobs": None, "max_gpu_hours": None, "monthly_budget": None,
    }  # fmt: skip
    assert (before["max_unfinished_jobs"], before["currency"]) == (500, "usd")

    limit(operator, department, max_running_jobs=2, max_unfinished_jobs=7, monthly_budget=12.5, max_gpu_hours=0.1)
    after = limit(operator, department, max_unfinished_jobs=None, max_storage_bytes=1 << 40)

    assert (after["max_running_jobs"], after["max_unfinished_jobs"], after["monthly_budget"]) == (2, 500, 12.5)
    assert (after["max_gpu_hours"], after["max_storage_bytes"]) == (0.1, 1 << 40)
    assert operator.get(path_of(department)).json() == after
    assert limit(operator, department, max_storage_bytes=2**53 - 1)["max_storage_bytes"] == 2**53 - 1


def test_weight_and_preemption_are_set_alike_and_go_back_to_the_ordinary(
    make_department: Callable[[], Department], operator: httpx.Client
) -> None:
    department = make_department()
    set_to = limit(operator, department, weight=2.5, preempts=True)
    assert (set_to["weight"], set_to["preempts"]) == (2.5, True)
    ordinary = limit(operator, department, weight=None, preempts=None)
    assert (ordinary["weight"], ordinary["preempts"]) == (1.0, False)
    for refused in ({"weight": 0}, {"weight": "2"}, {"preempts": 1}):
        assert refusal_of(operator.post(path_of(department), json=refused))[0] == 400


def test_a_change_of_limits_is_recorded_with_what_was_before(
    make_department: Callable[[], Department], operator: httpx.Client
) -> None:
    department = make_department()
    limit(operator, department, monthly_budget=100)
    limit(operator, department, monthly_budget=None, max_running_jobs=1)
    with department.http(department.admin) as admin:
        events = admin.get("/organization/audit_logs", params={"event_types[]": "quota.changed"}).json()["data"]
    assert [event["details"] for event in events] == [
        {
            "before": {"max_running_jobs": None, "monthly_budget": "100"},
            "after": {"max_running_jobs": 1, "monthly_budget": None},
        },
        {"before": {"monthly_budget": None}, "after": {"monthly_budget": "100"}},
    ]
    assert {event["resource"]["id"] for event in events} == {department.id}


def test_limits_are_set_by_the_operator_and_seen_by_the_admin(
    department: Department, api_url: str, auditor_key: str
) -> None:
    for key, may_look in (
        (department.admin.key, True),
        (auditor_key, True),
        (department.trainer.key, False),
        (department.member("viewer").key, False),
    ):
        with http(api_url, key) as client:
            assert client.get(path_of(department)).status_code == (200 if may_look else 403)
            assert client.post(path_of(department), json={"max_running_jobs": 1}).status_code == 403


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"max_running_jobs": -1}, "out_of_range"),
        ({"max_running_jobs": 1.5}, "wrong_type"),
        ({"max_storage_bytes": "1"}, "wrong_type"),
        ({"max_storage_bytes": 2**53}, "out_of_range"),
        ({"max_storage_bytes": 2**63 - 1}, "out_of_range"),
        ({"monthly_budget": "100"}, "wrong_type"),
        ({"monthly_budget": True}, "wrong_type"),
        ({"monthly_budget": -0.01}, "out_of_range"),
        ({"monthly_budget": 1e300}, "out_of_range"),
        ({"max_gpu_hours": 0.0000001}, "invalid_request"),
        ({"max_jobs": 1}, "unknown_field"),
    ],
)
def test_a_limit_that_is_none_is_refused(
    department: Department, operator: httpx.Client, body: dict[str, Any], code: str
) -> None:
    answer = operator.post(path_of(department), json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_a_departments_own_limit_of_unfinished_jobs_counts(
    make_department: Callable[[], Department], operator: httpx.Client, base_model: str
) -> None:
    department = make_department()
    file = department.upload(rows(4))
    limit(operator, department, max_unfinished_jobs=2)
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _place: submit(department, base_model, file), range(6)))
    refused = [answer for answer in answers if not answer.is_success]
    assert len(refused) == 4
    told = "The department has 2 unfinished jobs; its limit is 2. Wait for one to finish, or cancel one."
    assert {refusal_of(answer) for answer in refused} == {(429, "quota_exceeded", told)}
    # There may be room in a while: the client may ask again.
    assert "x-should-retry" not in refused[0].headers


def test_gpu_hours_are_refused_once_the_months_are_used(
    *, finished: Finished, runtime: Runtime, operator: httpx.Client, base_model: str
) -> None:
    department = finished.department
    limit(operator, department, max_gpu_hours=3)
    spend(runtime, department.id, finished.job, gpu_s=7200, amount="0")
    assert submit(department, base_model, finished.file).is_success
    spend(runtime, department.id, finished.job, gpu_s=3600, amount="0")

    answer = submit(department, base_model, finished.file)
    status, code, message = refusal_of(answer)
    assert (status, code, answer.headers["x-should-retry"]) == (429, "insufficient_quota", "false")
    # 2 + 1, and the moment that the played job took.
    assert message.startswith(
        "The department has used 3.00 GPU-hours this month; its limit is 3. The next month begins "
    )

    limit(operator, department, max_gpu_hours=3.5)
    assert submit(department, base_model, finished.file).is_success


def test_a_spent_budget_refuses_jobs_and_names_the_sum(
    *, finished: Finished, runtime: Runtime, operator: httpx.Client, base_model: str, unchanged: Callable[..., Any]
) -> None:
    department = finished.department
    limit(operator, department, monthly_budget=20)
    spend(runtime, department.id, finished.job, gpu_s=1, amount="19.999999")
    assert submit(department, base_model, finished.file).is_success
    spend(runtime, department.id, finished.job, gpu_s=1, amount="0.000001")

    with unchanged(access_denied=1):
        status, code, message = refusal_of(submit(department, base_model, finished.file))
    assert (status, code) == (429, "insufficient_quota")
    assert message.startswith("The department has spent 20.00 usd this month; its budget is 20. ")
    with department.http(department.admin) as admin:
        shown = admin.get(path_of(department)).json()
    assert (shown["in_use"]["amount"], shown["monthly_budget"]) == (20.0, 20.0)


def test_what_a_running_job_has_cost_so_far_counts_and_does_not_stop_it(
    *, finished: Finished, runtime: Runtime, operator: httpx.Client, base_model: str
) -> None:
    department = finished.department
    # What the finished job took cost nothing.
    before = limit(operator, department, monthly_budget=1, max_gpu_hours=1000)["in_use"]
    job = queued(runtime, department, base_model, finished.file)
    key = parse_id(IdKind.DEPARTMENT, department.id)
    with runtime.department(key) as session:
        # At this price a budget of 1 lasts for a millisecond.
        dear = Rate(ranks=2, price_per_gpu_hour=Decimal(1_800_000))
        held = claims.claim(session, job, worker="w", lease_s=60, rate=dear)
    assert held

    assert refusal_of(submit(department, base_model, finished.file))[:2] == (429, "insufficient_quota")
    with department.http(department.admin) as admin:
        in_use = admin.get(path_of(department)).json()["in_use"]
    assert (in_use["running_jobs"], in_use["unfinished_jobs"]) == (1, 1)
    assert in_use["amount"] > 1
    gpu_hours = in_use["gpu_hours"] - before["gpu_hours"]
    assert gpu_hours == pytest.approx(in_use["amount"] / 1_800_000, abs=2e-6)
    with runtime.department(key) as session:
        assert not leases.renew(session, held, lease_s=60).to_cancel
        leases.release(session, held)


def test_a_month_that_is_over_does_not_count(
    *, finished: Finished, runtime: Runtime, operator: httpx.Client, base_model: str
) -> None:
    department = finished.department
    limit(operator, department, monthly_budget=5, max_gpu_hours=5)
    with runtime.department(parse_id(IdKind.DEPARTMENT, department.id)) as session:
        month = usage.this_month(session)
    spend(runtime, department.id, finished.job, ended_at=month.began_at - TICK, gpu_s=36_000, amount="100")
    assert submit(department, base_model, finished.file).is_success
    spend(runtime, department.id, finished.job, ended_at=month.began_at, gpu_s=36_000, amount="100")
    assert refusal_of(submit(department, base_model, finished.file))[0] == 429


def test_the_client_sets_a_budget_as_its_spend_limit(
    *, finished: Finished, runtime: Runtime, api_url: str, operator_key: str, operator: httpx.Client
) -> None:
    department, budgets = (
        finished.department,
        official_client(api_url, operator_key).admin.organization.projects.spend_limit,
    )
    with pytest.raises(openai.NotFoundError):
        budgets.retrieve(department.id)
    made = budgets.update(department.id, currency="USD", interval="month", threshold_amount=1250)
    assert (made.object, made.threshold_amount, made.enforcement.status) == ("project.spend_limit", 1250, "inactive")
    assert operator.get(path_of(department)).json()["monthly_budget"] == 12.5
    spend(runtime, department.id, finished.job, gpu_s=1, amount="12.50")
    assert budgets.retrieve(department.id).enforcement.status == "enforcing"
    assert budgets.delete(department.id).deleted
    assert operator.get(path_of(department)).json()["monthly_budget"] is None
    with pytest.raises(openai.BadRequestError, match="USD"):
        budgets.update(department.id, currency="EUR", interval="month", threshold_amount=1)  # type: ignore[arg-type]


# --- storage ----------------------------------------------------------------------------------------------------------


def stored_bytes(operator: httpx.Client, department: Department) -> int:
    size: int = operator.get(path_of(department)).json()["in_use"]["storage_bytes"]
    return size


def upload(department: Department, content: bytes) -> httpx.Response:
    with department.http() as trainer:
        return trainer.post("/files", files={"file": ("rows.jsonl", content)}, data={"purpose": "fine-tune"})


def test_storage_is_what_is_kept_and_equal_bytes_count_once(finished: Finished, operator: httpx.Client) -> None:
    department, file = finished.department, rows(8)
    # The job's file, its checkpoint and its version, which holds the same bytes as the checkpoint.
    kept = len(file) + 2 * ADAPTER_BYTES
    assert stored_bytes(operator, department) == kept
    again = upload(department, file).json()["id"]
    assert stored_bytes(operator, department) == kept
    other = upload(department, rows(9)).json()["id"]
    assert stored_bytes(operator, department) == kept + len(rows(9))
    for each in (again, other):
        department.client().files.delete(each)
    assert stored_bytes(operator, department) == kept


def test_an_upload_beyond_the_limit_of_storage_is_refused_and_leaves_nothing(
    make_department: Callable[[], Department], operator: httpx.Client, unchanged: Callable[..., Any]
) -> None:
    department, content, more = make_department(), rows(8), rows(3, salt=1)
    first = upload(department, content).json()["id"]
    limit(operator, department, max_storage_bytes=len(content) + len(more) - 1)

    with unchanged(access_denied=1):
        answer = upload(department, more)
    told = (
        f"The department stores {len(content)} bytes, and this has {len(more)}; its limit is"
        f" {len(content) + len(more) - 1}. Delete files, or have the operator raise the limit."
    )
    assert refusal_of(answer) == (429, "insufficient_quota", told)
    assert answer.json()["error"]["param"] == "file"

    # What is there already takes no more room.
    assert upload(department, content).is_success
    limit(operator, department, max_storage_bytes=len(content) + len(more))
    assert upload(department, more).is_success
    limit(operator, department, max_storage_bytes=0)
    assert department.client().files.content(first).read() == content


def test_of_uploads_at_once_no_more_pass_than_there_is_room_for(
    make_department: Callable[[], Department], operator: httpx.Client
) -> None:
    department = make_department()
    contents = [rows(4, salt=salt) for salt in range(10, 18)]
    (size,) = {len(content) for content in contents}
    limit(operator, department, max_storage_bytes=3 * size)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda content: upload(department, content), contents))
    assert sum(answer.is_success for answer in answers) == 3
    assert stored_bytes(operator, department) == 3 * size
