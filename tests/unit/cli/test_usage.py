"""`tsugiki usage` and `tsugiki departments limits`, against a service that answers as told."""

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest

from tests.unit.cli.conftest import Run, Stub

PROJECT = "proj_0193" + "0" * 28
LIMITS: dict[str, Any] = {
    "weight": 2.0, "preempts": False,
    "object": "organization.project.limits", "project_id": PROJECT, "max_running_jobs": 4, "max_unfinished_jobs": 500,
    "max_gpu_hours": None, "max_storage_bytes": 2 * 10**9, "monthly_budget": 100.0, "currency": "eur",
    "month_ends_at": 1_796_083_200, "budget_warned_at": None,
    "in_use": {"running_jobs": 1, "unfinished_jobs": 3, "gpu_hours": 2.25, "storage_bytes": 10**9, "amount": 80.5},
}  # fmt: skip


def row(**fields: object) -> dict[str, Any]:
    empty = {"day": None, "project_id": None, "user_id": None, "job_id": None}
    sums = {"gpu_seconds": 5400.0, "trained_tokens": 12, "storage_byte_days": 3 * 10**9}
    return empty | sums | {"amount": {"value": 1.5, "currency": "eur"}} | fields


def page(*rows: dict[str, Any], next_page: str | None = None) -> dict[str, Any]:
    return {"object": "page", "data": list(rows), "has_more": next_page is not None, "next_page": next_page}


def asked(stub: Stub) -> list[list[tuple[str, str]]]:
    return [parse_qsl(request.partition("?")[2]) for request, _headers, _body in stub.asked]


def test_usage_is_shown_by_what_is_asked_for_page_after_page(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /usage", page(row(day="2026-11-24", user_id="user-1"), next_page="1000"))
    stub.answer("GET /usage", page(row(day="2026-11-25", user_id="user-2", gpu_seconds=900.0)))
    ended = tsugiki("usage", "--by", "day", "--by", "user", "--since", "2026-11-01", "--until", "2026-12-01")
    heading, first, second = (line.split() for line in ended.out.splitlines())
    assert heading[:3] == ["day", "user", "GPU-hours"]
    assert first == ["2026-11-24", "user-1", "1.500", "12", "3.0", "GB", "1.50", "eur"]
    assert second[:3] == ["2026-11-25", "user-2", "0.250"]
    days = [("start_time", "1793491200"), ("end_time", "1796083200")]
    groups = [("group_by[]", "day"), ("group_by[]", "user")]
    assert [sorted(query) for query in asked(stub)] == [
        sorted([*groups, *days]), sorted([*groups, *days, ("page", "1000")]),
    ]  # fmt: skip


def test_usage_is_by_department_where_nothing_is_asked_for(tsugiki: Run, stub: Stub) -> None:
    stub.answer("GET /usage", page(row(project_id=PROJECT)))
    assert tsugiki("usage", "--json").json == [row(project_id=PROJECT)]
    assert asked(stub) == [[("group_by[]", "department")]]


def test_limits_are_shown_beside_what_is_used(tsugiki: Run, stub: Stub) -> None:
    stub.answer(f"GET /organization/projects/{PROJECT}/limits", LIMITS)
    shown = tsugiki("departments", "limits", PROJECT).out
    told = {line[:22].strip(): line[22:].strip() for line in shown.splitlines()}
    assert told == {
        "running jobs": "1 of 4", "unfinished jobs": "3 of 500", "GPU-hours this month": "2.25 of none",
        "storage": "1.0 GB of 2.0 GB", "spent this month": "80.50 of 100.00", "currency": "eur",
        "month ends": "2026-12-01 00:00:00Z", "warned of its budget": "-", "weight": "2.0", "preempts": "no",
    }  # fmt: skip


def test_only_the_limits_that_are_named_change(tsugiki: Run, stub: Stub) -> None:
    stub.answer(f"POST /organization/projects/{PROJECT}/limits", LIMITS)
    ended = tsugiki(
        "departments", "limits", PROJECT, "--max-running-jobs", "4", "--monthly-budget", "99.5", "--max-gpu-hours",
        "none", "--json",
    )  # fmt: skip
    assert ended.json == LIMITS
    ((_request, _headers, body),) = stub.asked
    assert json.loads(body) == {"max_running_jobs": 4, "monthly_budget": 99.5, "max_gpu_hours": None}


@pytest.mark.parametrize("value", ["many", "nan", "-inf", ""])
def test_a_limit_is_a_number_or_none(tsugiki: Run, stub: Stub, value: str) -> None:
    ended = tsugiki("departments", "limits", PROJECT, "--monthly-budget", value)
    assert (ended.status, stub.asked) == (2, [])
    assert "--monthly-budget" in ended.err
