import io
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from cli.connection import Connection, Refused, Unreachable
from cli.endpoint import Endpoint
from cli.watch import PATIENCE_S, Followed, follow, picture, sparkline
from tests.unit.cli.conftest import Stub

JOB = {"id": "ftjob-1", "object": "fine_tuning.job", "status": "queued", "progress": None, "error": None}
RUNNING = {"step": 4, "total_steps": 8, "loss": 0.5, "tokens_per_s": 321.0, "eta_s": 75.0, "phase": "training"}
MEASURED = {
    "learning_rate": 1e-3, "grad_norm": 0.5, "step_s": 1.25, "mfu": 0.41, "padding_ratio": 1.02,
    "memory_bytes": 2_100_000_000,
}  # fmt: skip


def metrics(step: int, loss: float) -> dict[str, Any]:
    data = {"step": step, "total_steps": 8, "train_loss": loss}
    return {"id": f"ftevent-{step}", "object": "fine_tuning.job.event", "type": "metrics", "data": data}


def page(*events: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(events), "has_more": False}


@pytest.fixture
def followed(stub: Stub) -> Iterator[Followed]:
    connection = Connection(Endpoint(stub.base_url, "tsk_mine"))
    connection.client.max_retries = 0
    yield Followed(connection, JOB, title="triage")
    connection.close()


def drawn(job: Followed) -> str:
    out = io.StringIO()
    Console(file=out, width=140).print(picture([job]))
    return out.getvalue()


def test_a_job_is_watched_through_its_states_to_its_end(stub: Stub, followed: Followed) -> None:
    for job in (JOB, JOB | {"status": "running", "progress": RUNNING}, JOB | {"status": "succeeded"}):
        stub.answer("GET /fine_tuning/jobs/ftjob-1", job)
    stub.answer("GET /fine_tuning/jobs/ftjob-1/events", page())
    stub.answer("GET /fine_tuning/jobs/ftjob-1/events", page(metrics(4, 0.5), metrics(1, 2.0)))
    waited: list[float] = []
    out = io.StringIO()
    follow([followed], Console(file=out, width=140), sleep=waited.append)
    assert followed.succeeded
    assert followed.losses == {1: 2.0, 4: 0.5}
    assert len(waited) == 2
    assert out.getvalue().splitlines()[:2] == [
        "triage: queued  ",
        "triage: running: training  step 4/8  loss 0.500  321 tokens/s  1 min 15 s left",
    ]


def test_a_waiting_job_is_shown_with_its_reason(stub: Stub, followed: Followed) -> None:
    waiting = {"code": "no_worker", "message": "No train worker is running.", "position": 1}
    stub.answer("GET /fine_tuning/jobs/ftjob-1", JOB | {"waiting": waiting})
    stub.answer("GET /fine_tuning/jobs/ftjob-1/events", page())
    followed.look(now=0)
    assert "queued: No train worker is running." in drawn(followed)


def test_a_service_that_restarts_is_waited_for(stub: Stub, followed: Followed) -> None:
    stub.refuse("GET /fine_tuning/jobs/ftjob-1", 503, "Away.", code="service_unavailable")
    stub.answer("GET /fine_tuning/jobs/ftjob-1", JOB | {"status": "running", "progress": RUNNING})
    stub.answer("GET /fine_tuning/jobs/ftjob-1/events", page())
    followed.look(now=0)
    assert "waiting for the service" in drawn(followed)
    followed.look(now=1)
    assert followed.away_since is None
    assert "step 4/8" in drawn(followed)


@pytest.mark.parametrize("status", [503, None])
def test_a_service_that_stays_away_ends_the_watching(stub: Stub, followed: Followed, status: int | None) -> None:
    if status is None:
        followed.connection = Connection(Endpoint("http://127.0.0.1:9/v1", "tsk_mine"))
        followed.connection.client.max_retries = 0
    else:
        stub.refuse("GET /fine_tuning/jobs/ftjob-1", status, "Away.", code="service_unavailable")
    followed.look(now=0)
    followed.look(now=PATIENCE_S)
    with pytest.raises((Refused, Unreachable)):
        followed.look(now=PATIENCE_S + 1)
    followed.connection.close()


def test_a_job_that_is_gone_is_not_waited_for(stub: Stub, followed: Followed) -> None:
    stub.refuse("GET /fine_tuning/jobs/ftjob-1", 404, "No such fine-tuning job.", code="not_found")
    with pytest.raises(Refused):
        followed.look(now=0)


def test_the_picture_shows_state_figures_and_the_course_of_the_loss(followed: Followed) -> None:
    followed.job = JOB | {"status": "running", "progress": RUNNING | MEASURED}
    followed.course.series = {
        "train_loss": {1: 2.0, 2: 1.0, 4: 0.5}, "valid_loss": {4: 0.61}, "tokens_per_s": {1: 1000.0, 4: 321.0},
    }  # fmt: skip
    assert [" ".join(line.split()) for line in drawn(followed).splitlines()[1:]] == [
        "loss 2.000 █▃▁ 0.500 rate 1.00e-03, gradient 0.50",
        "validation 0.610 ▁ 0.610 step 1.25 s, memory 2.1 GB",
        "tokens/s 1,000 █▁ 321 41.0% of peak, padding 2.0%",
    ]
    for part in ("triage", "running: training", "step 4/8", "1 min 15 s left"):
        assert part in drawn(followed).splitlines()[0]


def test_the_picture_fits_a_terminal_of_80_columns(followed: Followed) -> None:
    followed.job = JOB | {"status": "running", "progress": RUNNING | MEASURED | {"step": 640, "total_steps": 1200}}
    followed.course.series = {"train_loss": {step: 12.0 - step / 100 for step in range(200)}}
    out = io.StringIO()
    Console(file=out, width=80).print(picture([followed]))
    assert len(out.getvalue().splitlines()) == 4


def test_what_is_not_measured_is_not_shown(followed: Followed) -> None:
    followed.job = JOB | {"status": "running", "progress": dict.fromkeys(RUNNING | MEASURED) | {"phase": "preparing"}}
    assert drawn(followed).split()[-2:] == ["running:", "preparing"]


def test_a_step_that_is_taken_again_counts_as_it_went_the_last_time(stub: Stub, followed: Followed) -> None:
    stub.answer("GET /fine_tuning/jobs/ftjob-1", JOB | {"status": "running", "progress": RUNNING})
    again = metrics(4, 0.4) | {"id": "ftevent-later"}
    stub.answer("GET /fine_tuning/jobs/ftjob-1/events", page(again, metrics(4, 0.5), metrics(1, 2.0)))
    followed.look(now=0)
    assert followed.losses == {1: 2.0, 4: 0.4}


def test_a_job_that_waits_again_has_no_time_left(followed: Followed) -> None:
    followed.job = JOB | {"progress": RUNNING}
    assert "left" not in drawn(followed)


@pytest.mark.parametrize(
    ("values", "shown"),
    [([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([8.0, 1.0], "█▁"), ([1.0, 4.5, 8.0], "▁▅█"), ([8.0, 8.0, 1.0, 1.0], "█▁")],
)
def test_a_sparkline_is_the_mean_of_each_of_its_columns(values: list[float], shown: str) -> None:
    assert sparkline(values, columns=3 if len(values) < 4 else 2) == shown
