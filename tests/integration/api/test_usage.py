"""What was used and what it cost, through the official client and through our own route."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import openai
import pytest

from runtime.wiring import Runtime
from tests.integration.api.conftest import Finished
from tests.integration.api.ledger import spend, store
from tests.integration.conftest import http, official_client

DAY_S = 86_400
FIRST = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp())
RANGE = {"start_time": FIRST, "end_time": FIRST + 3 * DAY_S}


@dataclass(frozen=True)
class Ledger:
    """Two departments with entries on the first and the second of March, and none on the third."""

    ours: Finished
    theirs: Finished


@pytest.fixture(scope="module")
def ledger(runtime: Runtime, make_finished: Callable[[str], Finished]) -> Ledger:
    ours, theirs = make_finished("ours"), make_finished("theirs")
    last_second = datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)
    for finished, ended_at, gpu_s, amount in (
        (ours, last_second, 3600, "1.25"),
        (ours, datetime(2026, 3, 2, tzinfo=UTC), 5400, "2.50"),
        (ours, datetime(2026, 3, 2, 12, tzinfo=UTC), 1800, "0.10"),
        (theirs, last_second, 7200, "4"),
        # Outside, on either side.
        (ours, datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC), 60, "8"),
        (ours, datetime(2026, 3, 4, tzinfo=UTC), 60, "16"),
    ):
        spend(runtime, finished.department.id, finished.job, ended_at=ended_at, gpu_s=gpu_s, amount=amount)
    store(runtime, ours.department.id, day=date(2026, 3, 1), size_bytes=2**31, amount="0.2")
    return Ledger(ours, theirs)


@pytest.fixture
def operator(api_url: str, operator_key: str) -> openai.OpenAI:
    return official_client(api_url, operator_key)


def amounts(page: Any) -> list[list[float]]:
    """By day, in the order in which they came."""
    return [[result.amount.value for result in bucket.results] for bucket in page.data]


def test_the_client_reads_costs_day_by_day(ledger: Ledger, operator: openai.OpenAI) -> None:
    page = operator.admin.organization.usage.costs(**RANGE, group_by=["project_id", "line_item"])

    assert (page.object, page.has_more, page.next_page) == ("page", False, None)
    assert [(bucket.start_time, bucket.end_time) for bucket in page.data] == [
        (FIRST + place * DAY_S, FIRST + (place + 1) * DAY_S) for place in range(3)
    ]
    told = {
        (place, result.project_id, result.line_item): (result.amount.value, result.quantity, result.quantity_unit)  # type: ignore[union-attr]
        for place, bucket in enumerate(page.data)
        for result in bucket.results
    }
    ours, theirs = ledger.ours.department.id, ledger.theirs.department.id
    assert told == {
        (0, ours, "gpu"): (1.25, 1.0, "duration_hours"),
        # 2 GiB for a day.
        (0, ours, "storage"): (0.2, 48.0, "gibibyte_hours"),
        (0, theirs, "gpu"): (4.0, 2.0, "duration_hours"),
        # 2.50 + 0.10, of 1.5 and 0.5 hours.
        (1, ours, "gpu"): (2.6, 2.0, "duration_hours"),
    }
    assert {result.amount.currency for bucket in page.data for result in bucket.results} == {"usd"}  # type: ignore[union-attr]


def test_costs_of_all_are_one_sum_a_day(operator: openai.OpenAI, ledger: Ledger) -> None:
    page = operator.admin.organization.usage.costs(**RANGE)
    # 1.25 + 0.20 + 4, 2.60, and no result where nothing was used.
    assert amounts(page) == [[5.45], [2.6], []]
    (result,) = page.data[0].results
    assert result.object == "organization.costs.result"
    assert result.project_id is result.line_item is result.user_id is result.api_key_id is result.quantity is None
    assert ledger


def test_costs_come_a_page_at_a_time(operator: openai.OpenAI, ledger: Ledger) -> None:
    found, page = [], None
    while True:
        answer = operator.admin.organization.usage.costs(**RANGE, limit=1, **({"page": page} if page else {}))  # type: ignore[arg-type]
        found += answer.data
        page = answer.next_page
        assert answer.has_more == (page is not None)
        if page is None:
            break
    assert found == operator.admin.organization.usage.costs(**RANGE).data
    assert ledger


def test_costs_are_filtered_by_department_line_item_and_key(operator: openai.OpenAI, ledger: Ledger) -> None:
    costs, ours = operator.admin.organization.usage.costs, ledger.ours
    with ours.department.http() as trainer:
        me = trainer.get("/me").json()
    assert amounts(costs(**RANGE, project_ids=[ledger.theirs.department.id])) == [[4.0], [], []]
    assert amounts(costs(**RANGE, line_items=["storage"])) == [[0.2], [], []]
    assert amounts(costs(**RANGE, api_key_ids=[me["key_id"]])) == [[1.25], [2.6], []]
    assert amounts(costs(**RANGE, project_ids=["proj_of_nobody"])) == [[], [], []]
    page = costs(**RANGE, group_by=["user_id", "api_key_id"], project_ids=[ours.department.id])
    told = [(r.user_id, r.api_key_id, r.amount.value) for r in page.data[0].results]  # type: ignore[union-attr]
    # Nobody submits storage.
    assert sorted(told, key=str) == sorted([(me["id"], me["key_id"], 1.25), (None, None, 0.2)], key=str)


def test_a_departments_admin_sees_its_own_costs_and_use_alone(ledger: Ledger, api_url: str, auditor_key: str) -> None:
    ours = ledger.ours.department
    admin = ours.client(ours.admin)
    mine = admin.with_options(admin_api_key=ours.admin.key).admin.organization.usage.costs(**RANGE)
    assert amounts(mine) == [[1.45], [2.6], []]
    theirs = {"project_ids[]": ledger.theirs.department.id}
    with ours.http(ours.admin) as client:
        assert all(
            not bucket["results"] for bucket in client.get("/organization/costs", params=RANGE | theirs).json()["data"]
        )
        assert client.get("/usage", params=RANGE | theirs).json()["data"] == []
        (row,) = client.get("/usage", params=RANGE).json()["data"]
        assert (row["project_id"], row["amount"]) == (ours.id, {"value": 4.05, "currency": "usd"})
    with http(api_url, auditor_key) as auditor:
        assert len(auditor.get("/usage", params=RANGE).json()["data"]) == 2


def test_the_operator_in_a_department_sees_that_one(ledger: Ledger, api_url: str, operator_key: str) -> None:
    with http(api_url, operator_key, openai_project=ledger.theirs.department.id) as operator:
        (row,) = operator.get("/usage", params=RANGE).json()["data"]
    assert (row["project_id"], row["gpu_seconds"]) == (ledger.theirs.department.id, 7200.0)


@pytest.mark.parametrize("role", ["trainer", "data_steward", "viewer", "approver", "inference"])
def test_what_was_used_is_not_everybodys_to_see(ledger: Ledger, api_url: str, role: str) -> None:
    with http(api_url, ledger.ours.department.member(role).key) as client:
        for path in ("/usage", "/organization/costs"):
            assert client.get(path, params=RANGE).status_code == 403


def test_use_is_summed_by_what_is_asked_for(ledger: Ledger, api_url: str, operator_key: str) -> None:
    ours = ledger.ours
    with http(api_url, operator_key) as operator:

        def summed(*by: str) -> list[dict[str, Any]]:
            params = RANGE | {"group_by[]": list(by), "project_ids[]": ours.department.id}
            found: list[dict[str, Any]] = operator.get("/usage", params=params).raise_for_status().json()["data"]
            return found

        (total,) = summed("department")
        by_day = {row["day"]: row for row in summed("day")}
        by_job = {row["job_id"]: row for row in summed("job")}
        by_user = {row["user_id"]: row for row in summed("user")}
    # 3600 + 5400 + 1800 s, ten tokens each; 1.25 + 2.50 + 0.10 + 0.20.
    assert (total["gpu_seconds"], total["trained_tokens"]) == (10_800.0, 108_000)
    assert (total["storage_byte_days"], total["amount"]["value"]) == (2**31, 4.05)
    assert total["day"] is total["user_id"] is total["job_id"] is None
    assert {day: row["gpu_seconds"] for day, row in by_day.items()} == {"2026-03-01": 3600.0, "2026-03-02": 7200.0}
    assert {job: row["amount"]["value"] for job, row in by_job.items()} == {ours.job: 3.85, None: 0.2}
    assert by_user[ours.department.trainer.id]["amount"]["value"] == 3.85


def test_use_comes_a_page_at_a_time(ledger: Ledger, api_url: str, operator_key: str) -> None:
    params: dict[str, Any] = RANGE | {"group_by[]": ["day", "department"]}
    with http(api_url, operator_key) as operator:
        whole = operator.get("/usage", params=params).json()["data"]
        first = operator.get("/usage", params=params | {"limit": 2}).json()
        rest = operator.get("/usage", params=params | {"limit": 2, "page": first["next_page"]}).json()
    assert (first["has_more"], rest["has_more"], rest["next_page"]) == (True, False, None)
    assert first["data"] + rest["data"] == whole
    assert len(whole) == 3
    assert ledger


def test_without_dates_it_is_this_month(ledger: Ledger) -> None:
    department = ledger.theirs.department
    with department.http(department.admin) as admin:
        (row,) = admin.get("/usage").json()["data"]
    # The job that `make_finished` played: 100 tokens on two ranks, whatever time it took.
    assert (row["trained_tokens"], row["amount"]["value"]) == (100, 0.0)
    assert row["gpu_seconds"] > 0


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("/organization/costs", {}, "start_time"),
        ("/organization/costs", {"start_time": -1}, "start_time"),
        ("/organization/costs", {"start_time": 10**12}, "start_time"),
        ("/organization/costs", RANGE | {"bucket_width": "1h"}, "bucket_width"),
        ("/organization/costs", RANGE | {"group_by[]": "api_source"}, "group_by[].0"),
        ("/organization/costs", RANGE | {"limit": 181}, "limit"),
        ("/organization/costs", RANGE | {"page": "the next"}, "page"),
        ("/usage", {"group_by[]": "project_id"}, "group_by[].0"),
        ("/usage", {"page": "-1"}, "page"),
    ],
)
def test_a_query_that_cannot_be_answered_is_refused(
    *, api_url: str, operator_key: str, path: str, query: dict[str, Any], param: str
) -> None:
    with http(api_url, operator_key) as operator:
        answer = operator.get(path, params=query)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("query", [{"start_time": FIRST, "end_time": FIRST - 1}, {"start_time": 253_402_214_399}])
def test_a_range_without_a_day_has_no_costs(api_url: str, operator_key: str, query: dict[str, int]) -> None:
    with http(api_url, operator_key) as operator:
        answer = operator.get("/organization/costs", params=query).json()
    assert (answer["data"], answer["has_more"]) == ([], False)
