"""A submit that its caller has named, `Idempotency-Key`, makes one job however often it is sent."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from domain.access import Principal, PrincipalType, Role
from domain.ids import IdKind, parse_id
from domain.job_requests import JobRequest
from runtime.settings import Settings, as_environment
from runtime.wiring import Runtime
from services import jobs
from services.admissions import JobLimits
from tests.integration.conftest import Department, http, rows

JOBS = "/fine_tuning/jobs"


@pytest.fixture(scope="module")
def body(department: Department, base_model: str) -> dict[str, Any]:
    return {"model": base_model, "training_file": department.upload(rows(8)), "suffix": "named"}


def named(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def test_the_same_name_and_request_is_the_first_job_whatever_became_of_it(
    department: Department, body: dict[str, Any], unchanged: Callable[..., Any]
) -> None:
    with department.http() as client:
        first = client.post(JOBS, json=body, headers=named("nightly 1"))
        with unchanged():
            again = client.post(JOBS, json=body, headers=named("nightly 1"))
        client.post(f"{JOBS}/{first.json()['id']}/cancel").raise_for_status()
        late = client.post(JOBS, json=body, headers=named("nightly 1"))
        other = client.post(JOBS, json=body, headers=named("nightly 2"))
        # What the client marks as a repetition is a job of its own where its name is another.
        marked = client.post(JOBS, json=body, headers=named("nightly 3") | {"x-stainless-retry-count": "1"})
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert (late.json()["id"], late.json()["status"]) == (first.json()["id"], "cancelled")
    assert len({first.json()["id"], other.json()["id"], marked.json()["id"]}) == 3


def test_the_official_client_names_a_submit_by_a_header(department: Department, body: dict[str, Any]) -> None:
    jobs = department.client().fine_tuning.jobs
    made = [jobs.create(**body, extra_headers=named("by the client")).id for _ in range(2)]
    assert made[0] == made[1]
    assert jobs.create(**body).id != made[0]


def test_the_same_name_for_another_request_is_refused(
    department: Department, body: dict[str, Any], unchanged: Callable[..., Any]
) -> None:
    with department.http() as client:
        client.post(JOBS, json=body, headers=named("taken")).raise_for_status()
        with unchanged():
            refused = client.post(JOBS, json=body | {"seed": 1}, headers=named("taken"))
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "idempotency_key_reused", "Idempotency-Key")
    assert refused.headers["x-should-retry"] == "false"


def test_a_refused_request_does_not_use_its_name_up(department: Department, body: dict[str, Any]) -> None:
    with department.http() as client:
        assert client.post(JOBS, json=body | {"model": "unknown"}, headers=named("corrected")).status_code == 400
        assert client.post(JOBS, json=body, headers=named("corrected")).is_success


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (b"", "out_of_range"),
        (b"k" * 256, "out_of_range"),
        ("schlüssel".encode(), "invalid_request"),
        (b"a\tb", "invalid_request"),
    ],
)
def test_a_name_is_printable_and_of_bounded_length(
    *, department: Department, body: dict[str, Any], unchanged: Callable[..., Any], key: bytes, code: str
) -> None:
    with department.http() as client, unchanged():
        refused = client.post(JOBS, json=body, headers={"Idempotency-Key": key})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, code, "Idempotency-Key")
    assert refused.headers["x-should-retry"] == "false"


def test_the_longest_name_is_taken(department: Department, body: dict[str, Any]) -> None:
    with department.http() as client:
        made = [client.post(JOBS, json=body, headers=named("~" * 255)).json()["id"] for _ in range(2)]
    assert made[0] == made[1]


def test_a_name_is_its_owners_alone(
    department: Department, make_department: Callable[[], Department], body: dict[str, Any]
) -> None:
    other, colleague = make_department(), department.member("trainer")
    theirs = body | {"training_file": other.upload(rows(8))}
    with department.http() as ours, department.http(colleague) as hers, other.http() as foreign:
        made = [
            ours.post(JOBS, json=body, headers=named("shared")).json()["id"],
            hers.post(JOBS, json=body, headers=named("shared")).json()["id"],
            foreign.post(JOBS, json=theirs, headers=named("shared")).json()["id"],
        ]
    assert len(set(made)) == 3


def test_fifty_at_once_through_two_services_are_one_job(
    make_department: Callable[[], Department], body: dict[str, Any], api_with: Callable[..., str], api_url: str
) -> None:
    department = make_department()
    wanted = body | {"training_file": department.upload(rows(8))}
    urls, together = (api_url, api_with()), threading.Barrier(50)

    def submit(place: int) -> httpx.Response:
        with http(urls[place % 2], department.trainer.key) as client:
            # Connected, and known: what is left to race is the submit.
            client.get("/me").raise_for_status()
            together.wait(timeout=60)
            return client.post(JOBS, json=wanted, headers=named("at once"))

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(submit, range(50)))
    assert {answer.status_code for answer in answers} == {200}
    with department.http() as client:
        (job,) = client.get(JOBS).json()["data"]
    assert {answer.json()["id"] for answer in answers} == {job["id"]}


def test_a_service_killed_between_commit_and_answer_made_the_job_that_the_retry_gets(
    *, make_department: Callable[[], Department], body: dict[str, Any], settings: Settings, api_url: str, tmp_path: Path
) -> None:
    department, key = make_department(), named(uuid4().hex)
    wanted = body | {"training_file": department.upload(rows(8))}
    with socket.create_server(("127.0.0.1", 0)) as listener, (tmp_path / "api.log").open("wb") as log:
        dying = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("dying_api.py")), str(listener.fileno())],
            env=os.environ | as_environment(settings), pass_fds=[listener.fileno()], stdout=log, stderr=log,
        )  # fmt: skip
        with (
            http(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", department.trainer.key) as client,
            pytest.raises(httpx.TransportError),
        ):
            client.post(JOBS, json=wanted, headers=key)
        assert dying.wait(timeout=30) == -signal.SIGKILL, (tmp_path / "api.log").read_text()
    with http(api_url, department.trainer.key) as client:
        (committed,) = client.get(JOBS).json()["data"]
        retried = client.post(JOBS, json=wanted, headers=key).raise_for_status().json()
        assert retried["id"] == committed["id"]
        assert len(client.get(JOBS).json()["data"]) == 1


def test_the_repetition_of_who_comes_without_a_key_is_no_other_persons_job(
    department: Department, body: dict[str, Any], runtime: Runtime
) -> None:
    key, request = parse_id(IdKind.DEPARTMENT, department.id), JobRequest.model_validate(body | {"suffix": "keyless"})
    people = [Principal(PrincipalType.USER, uuid4(), None, key, frozenset({Role.TRAINER})) for _ in range(2)]

    def submitted(person: Principal) -> UUID:
        limits = JobLimits(max_unfinished_jobs=100, max_total_steps=100_000)
        with runtime.department(key) as session:
            return jobs.submit(session, person, request, limits=limits, seed=7, is_retry=True).id

    mine, hers = (submitted(person) for person in people)
    assert mine != hers
    assert [submitted(person) for person in people] == [mine, hers]
