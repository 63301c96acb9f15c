"""A part of the service is down: what waits is clear, what was half done is nowhere, and all works when it is back."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import create_engine, text

from chaos.proxy import Fault, of_url
from domain import failpoints
from domain.failpoints import FailPoint
from domain.keys import new_key
from runtime.settings import Settings
from tests.integration.conftest import Database, Department, official_client, rows


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def forwarding(port: int, target: str) -> Iterator[None]:
    """Everything that comes to the port goes to the target, byte for byte."""
    host, _, target_port = target.rpartition("//")[2].partition(":")
    listener = socket.create_server(("127.0.0.1", port))
    opened: list[socket.socket] = [listener]

    def copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while content := source.recv(65536):
                sink.sendall(content)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection((host, int(target_port)))
            opened.extend((client, server))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield
    listener.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=5)
    for end in opened:
        end.close()


def test_an_upload_without_storage_leaves_nothing_and_works_when_it_is_back(
    department: Department, settings: Settings, api_with: Callable[..., str], unchanged: Callable[..., Any]
) -> None:
    port = free_port()
    url = api_with(s3_endpoint=f"http://127.0.0.1:{port}")
    client = official_client(url, department.trainer.key)
    with unchanged(), pytest.raises(openai.InternalServerError) as refused:
        client.files.create(file=("rows.jsonl", rows(5, salt=7)), purpose="fine-tune")
    assert (refused.value.status_code, refused.value.code) == (503, "service_unavailable")
    assert refused.value.response.headers["retry-after"] == "5"
    assert "x-should-retry" not in refused.value.response.headers
    ready = httpx.get(url.removesuffix("/v1") + "/readyz", timeout=30)
    assert (ready.status_code, ready.json()) == (503, {"database": "ok", "broker": "ok", "storage": "down"})
    with forwarding(port, str(settings.s3_endpoint)):
        file = client.files.create(file=("rows.jsonl", rows(5, salt=7)), purpose="fine-tune")
        assert client.files.content(file.id).read() == rows(5, salt=7)


def test_a_job_is_accepted_while_the_broker_is_down(
    department: Department, base_model: str, api_with: Callable[..., str]
) -> None:
    url = api_with(broker_url=f"redis://127.0.0.1:{free_port()}/0")
    client = official_client(url, department.trainer.key)
    job = client.fine_tuning.jobs.create(model=base_model, training_file=department.upload(rows(4)))
    assert department.client().fine_tuning.jobs.retrieve(job.id).status == "validating_files"
    ready = httpx.get(url.removesuffix("/v1") + "/readyz", timeout=30)
    assert (ready.status_code, ready.json()) == (503, {"database": "ok", "broker": "down", "storage": "ok"})


def test_without_the_database_nothing_is_served_and_nothing_is_told(api_with: Callable[..., str]) -> None:
    url = api_with(database_url=f"postgresql+psycopg://tsugiki_app:secret@127.0.0.1:{free_port()}/x")
    with httpx.Client(base_url=url, timeout=30) as client:
        answer = client.get("/me", headers={"Authorization": f"Bearer {new_key().secret}"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
        assert "127.0.0.1" not in answer.text
        assert client.get(url.removesuffix("/v1") + "/readyz").json()["database"] == "down"
        assert client.get(url.removesuffix("/v1") + "/healthz").json() == {"status": "ok"}


def test_what_cannot_be_told_does_not_happen(
    department: Department, base_model: str, database: Database, unchanged: Callable[..., Any]
) -> None:
    file = department.upload(rows(4, salt=8))
    admin = create_engine(database.admin_url, isolation_level="AUTOCOMMIT")
    told = "FUNCTION audit_append {} tsugiki_app"
    with admin.connect() as connection, department.http() as http, unchanged():
        connection.execute(text(f"REVOKE EXECUTE ON {told.format('FROM')}"))
        try:
            answer = http.post("/fine_tuning/jobs", json={"model": base_model, "training_file": file})
        finally:
            connection.execute(text(f"GRANT EXECUTE ON {told.format('TO')}"))
    admin.dispose()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")


def test_a_submit_whose_commit_was_not_answered_is_one_job(
    department: Department, base_model: str, settings: Settings, api_with: Callable[..., str]
) -> None:
    file, database = department.upload(rows(4, salt=9)), settings.database_url.get_secret_value()
    with of_url(database) as proxy:
        client = official_client(api_with(database_url=proxy.url(database)), department.trainer.key)
        losing = [Fault(lose_reply_to=b"COMMIT", times=1)]

        def reached(point: FailPoint) -> None:
            if point is FailPoint.SUBMIT_IN_TX and losing:
                proxy.break_(losing.pop())

        failpoints.arm(reached)
        try:
            job = client.with_options(max_retries=2).fine_tuning.jobs.create(
                model=base_model, training_file=file, metadata={"lost": "reply"}
            )
        finally:
            failpoints.disarm()
        assert proxy.hits == 1
    found = department.client().fine_tuning.jobs.list(extra_query={"metadata[lost]": "reply"})
    assert [listed.id for listed in found] == [job.id]


def test_a_healthy_service_is_ready(api_url: str) -> None:
    ready = httpx.get(api_url.removesuffix("/v1") + "/readyz", timeout=30)
    assert (ready.status_code, ready.json()) == (200, {"database": "ok", "broker": "ok", "storage": "ok"})


def test_a_bug_is_a_500_without_its_insides(
    department: Department, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise ZeroDivisionError("the password is hunter2")

    monkeypatch.setattr("services.jobs.list_page", broken)
    with department.http() as client:
        answer = client.get("/fine_tuning/jobs")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "hunter2" not in answer.text
    assert answer.headers["x-request-id"] in caplog.text
