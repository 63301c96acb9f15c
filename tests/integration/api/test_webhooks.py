"""From something that happens to a receiver that hears of it: the official client at both ends, HTTP between them."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import httpx
import openai
import pytest
from openai.types.webhooks import FineTuningJobCancelledWebhookEvent, FineTuningJobSucceededWebhookEvent
from pydantic import SecretStr
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from domain import failpoints
from domain.failpoints import FailPoint
from domain.ids import IdKind, parse_id
from domain.outgoing import MAX_ATTEMPTS, OutgoingKind
from runtime import receivers
from runtime.settings import Settings
from runtime.wiring import Runtime
from services import outbox
from services.outbox import Attempted
from tests.integration.conftest import Database, Department, http, official_client, rows, serving
from tests.integration.receiver import Received, ReceiverServer, receiving
from workers.deliveries import Deliverer

LOOPBACK = "127.0.0.0/8"
JOB_EVENTS = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]


@pytest.fixture
def receiver() -> Iterator[ReceiverServer]:
    with receiving() as server:
        yield server


@pytest.fixture(scope="module")
def permitting(runtime: Runtime) -> Runtime:
    """The same installation, whose webhooks may lead to loopback."""
    settings = {name: getattr(runtime.settings, name) for name in Settings.model_fields}
    return replace(runtime, settings=Settings.model_validate(settings | {"receiver_networks": LOOPBACK}))


@pytest.fixture(scope="module")
def permitting_url(permitting: Runtime) -> Iterator[str]:
    with serving(permitting) as url:
        yield url


@dataclass(frozen=True)
class Place:
    """A department at the service that permits loopback."""

    department: Department
    runtime: Runtime
    database: Database

    def deliver(self) -> None:
        Deliverer(self.runtime).deliver()

    def make_due(self) -> None:
        """As if the time until the next attempt were over."""
        self._execute(
            "UPDATE outgoing_deliveries SET due_at = now() WHERE due_at IS NOT NULL AND department_id = :department"
        )

    def deliveries(self) -> list[tuple[Any, ...]]:
        """(attempts, is delivered, is given up, status, error) of each of the department's, the oldest first."""
        return self._execute(
            "SELECT attempts, delivered_at IS NOT NULL, given_up_at IS NOT NULL, status_code, error"
            " FROM outgoing_deliveries WHERE department_id = :department ORDER BY id"
        )

    def told_of(self, action: str) -> int:
        (found,) = self._execute(
            "SELECT count(*) FROM audit_events WHERE action = :action AND department_id = :department", action=action
        )
        return int(found[0])

    @property
    def id(self) -> UUID:
        return parse_id(IdKind.DEPARTMENT, self.department.id)

    def _execute(self, statement: str, **parameters: str) -> list[tuple[Any, ...]]:
        engine = create_engine(self.database.admin_url)
        with engine.begin() as connection:
            answer = connection.execute(text(statement), {"department": self.id, **parameters})
            found = [tuple(row) for row in answer] if answer.returns_rows else []
        engine.dispose()
        return found

    def admin(self) -> openai.OpenAI:
        return self.department.client(self.department.admin)

    def listen(self, receiver: ReceiverServer, *events: str) -> str:
        """Register the receiver; its secret."""
        made = self.admin().webhooks.create(name="ours", url=receiver.url, event_types=list(events))  # type: ignore[arg-type]
        return made.signing_secret

    def job(self) -> str:
        """A job, submitted."""
        client = self.department.client()
        return client.fine_tuning.jobs.create(model="tiny", training_file=self.department.upload(rows(4))).id

    def cancelled_job(self) -> str:
        """One thing to tell of."""
        return self.department.client().fine_tuning.jobs.cancel(self.job()).id


@pytest.fixture
def place(
    *,
    make_department: Callable[[], Department],
    permitting: Runtime,
    permitting_url: str,
    database: Database,
    base_model: str,
) -> Place:
    _ = base_model
    return Place(replace(make_department(), api_url=permitting_url), permitting, database)


def unwrapped(secret: str, received: Received) -> Any:
    client = openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9/v1")
    return client.webhooks.unwrap(received.body, received.headers, secret=secret)


# --- the story --------------------------------------------------------------------------------------------------------


def test_the_client_unwraps_a_jobs_end_and_the_version_that_it_made(
    place: Place, receiver: ReceiverServer, finish: Callable[..., None]
) -> None:
    secret = place.listen(receiver, *JOB_EVENTS, "adapter.version.registered", "alias.moved")
    job = place.job()
    finish(place.department, job)
    place.deliver()

    (ended,) = receiver.of("fine_tuning.job.succeeded")
    event = unwrapped(secret, ended)
    assert isinstance(event, FineTuningJobSucceededWebhookEvent)
    assert (event.data.id, event.id) == (job, ended.headers["webhook-id"])
    (registered,) = receiver.of("adapter.version.registered")
    with place.department.http() as client:
        version = client.get("/adapters/default/versions/1").json()
    assert registered.event["data"] == {
        "id": version["id"], "adapter": "default", "version": 1, "model": version["model"],
        "digest": version["digest"], "state": "candidate",
    }  # fmt: skip
    (moved,) = receiver.of("alias.moved")
    assert (moved.event["data"]["alias"], moved.event["data"]["id"]) == ("latest", version["id"])
    # It did not ask to hear of beginnings.
    assert len(receiver.received) == 3
    place.deliver()
    assert len(receiver.received) == 3


def test_an_event_is_told_if_and_only_if_what_it_tells_of_is_committed(place: Place, receiver: ReceiverServer) -> None:
    place.listen(receiver, "fine_tuning.job.cancelled")

    def announce() -> None:
        with place.runtime.department(place.id) as session:
            kind = OutgoingKind.JOB_CANCELLED
            outbox.announce(session, kind, department=place.id, subject=place.id, data={"id": "ftjob-x"})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        announce()
    place.deliver()
    assert receiver.received == []
    job = place.cancelled_job()
    place.deliver()
    assert [each.event["data"] for each in receiver.received] == [{"id": job}]


def test_the_organisations_endpoint_hears_of_every_department_and_another_departments_of_none(
    place: Place, receiver: ReceiverServer, operator_key: str, make_department: Callable[[], Department]
) -> None:
    operator = official_client(place.department.api_url, operator_key)
    kinds: Any = ["fine_tuning.job.cancelled"]
    made = operator.webhooks.create(name="all", url=receiver.url, event_types=kinds)
    with receiving() as neighbours:
        other = replace(place, department=replace(make_department(), api_url=place.department.api_url))
        other.listen(neighbours, *kinds)
        job = place.cancelled_job()
        place.deliver()
        assert neighbours.received == []
    (heard,) = receiver.received
    assert isinstance(unwrapped(made.signing_secret, heard), FineTuningJobCancelledWebhookEvent)
    assert heard.event["data"] == {"id": job}
    # A department neither sees it nor can it change it.
    assert [each.id for each in place.admin().webhooks.list()] == []
    with pytest.raises(openai.NotFoundError):
        place.admin().webhooks.delete(made.id)
    operator.webhooks.delete(made.id)


# --- at least once ----------------------------------------------------------------------------------------------------


def test_an_attempt_that_fails_is_made_again_with_the_same_bytes_and_id(place: Place, receiver: ReceiverServer) -> None:
    secret = place.listen(receiver, "fine_tuning.job.cancelled")
    receiver.statuses = [500, 503]
    place.cancelled_job()
    place.deliver()
    # Its time has not come.
    place.deliver()
    assert place.deliveries() == [(1, False, False, 500, "refused")]
    for _ in range(2):
        place.make_due()
        place.deliver()
    assert place.deliveries() == [(3, True, False, 200, None)]
    assert len({each.body for each in receiver.received}) == 1
    assert len({each.headers["webhook-id"] for each in receiver.received}) == 1
    assert [unwrapped(secret, each).type for each in receiver.received] == ["fine_tuning.job.cancelled"] * 3


def test_an_answer_that_is_never_written_down_is_asked_for_again(place: Place, receiver: ReceiverServer) -> None:
    place.listen(receiver, "fine_tuning.job.cancelled")
    place.cancelled_job()

    def die(point: FailPoint) -> None:
        if point is FailPoint.DELIVERY_ANSWERED:
            raise RuntimeError("killed")

    failpoints.arm(die)
    try:
        place.deliver()
    finally:
        failpoints.disarm()
    assert place.deliveries() == [(1, False, False, None, None)]
    # It is that process's for a minute, and then anybody's.
    place.deliver()
    assert len(receiver.received) == 1
    place.make_due()
    place.deliver()
    assert place.deliveries() == [(2, True, False, 200, None)]
    assert len({each.headers["webhook-id"] for each in receiver.received}) == 1


def test_two_deliverers_at_once_send_each_event_once(place: Place, receiver: ReceiverServer) -> None:
    place.listen(receiver, "fine_tuning.job.cancelled")
    jobs = {place.cancelled_job() for _ in range(8)}
    threads = [threading.Thread(target=place.deliver) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.event["data"]["id"] for each in receiver.received) == sorted(jobs)


def test_a_slow_receiver_holds_up_nobody_else_and_is_given_up_in_time(
    place: Place, receiver: ReceiverServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.receivers.TIMEOUT_S", 0.5)
    with receiving() as slow:
        slow.hold = threading.Event()
        place.listen(slow, "fine_tuning.job.cancelled")
        place.listen(receiver, "fine_tuning.job.cancelled")
        for _ in range(3):
            place.cancelled_job()
        place.deliver()
        slow.hold.set()
    assert len(receiver.received) == 3
    assert sorted(place.deliveries(), key=str) == [
        *[(1, False, False, None, "timeout")] * 3, *[(1, True, False, 200, None)] * 3,
    ]  # fmt: skip


def test_a_receiver_that_never_takes_it_is_given_up_and_that_is_recorded(
    place: Place, receiver: ReceiverServer
) -> None:
    place.listen(receiver, "fine_tuning.job.cancelled")
    receiver.statuses = [500] * (MAX_ATTEMPTS + 1)
    place.cancelled_job()
    for _ in range(MAX_ATTEMPTS + 1):
        place.deliver()
        place.make_due()
    assert len(receiver.received) == MAX_ATTEMPTS
    assert place.deliveries() == [(MAX_ATTEMPTS, False, True, 500, "refused")]
    assert place.told_of("webhook.given_up") == 1


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Have every message fail before it is sent, with that."""

    def fail(error: Exception) -> None:
        async def post(*_arguments: object) -> Attempted:
            raise error

        monkeypatch.setattr(receivers, "post", post)

    return fail


def test_an_error_of_our_own_is_an_attempt_that_failed(
    place: Place, receiver: ReceiverServer, failing: Callable[[Exception], None]
) -> None:
    place.listen(receiver, "fine_tuning.job.cancelled")
    failing(ValueError("of our own"))
    place.cancelled_job()
    place.deliver()
    assert place.deliveries() == [(1, False, False, None, "unexpected")]
    for _ in range(MAX_ATTEMPTS):
        place.make_due()
        place.deliver()
    assert place.deliveries() == [(MAX_ATTEMPTS, False, True, None, "unexpected")]


def test_while_the_database_is_away_nothing_is_given_up(
    place: Place, receiver: ReceiverServer, failing: Callable[[Exception], None]
) -> None:
    place.listen(receiver, "fine_tuning.job.cancelled")
    failing(OperationalError("SELECT", None, Exception()))
    place.cancelled_job()
    for _ in range(MAX_ATTEMPTS + 1):
        place.deliver()
        place.make_due()
    assert place.deliveries() == [(MAX_ATTEMPTS + 1, False, False, None, None)]


def test_gone_means_gone(place: Place, receiver: ReceiverServer) -> None:
    place.listen(receiver, "fine_tuning.job.cancelled")
    receiver.statuses = [410]
    place.cancelled_job()
    place.deliver()
    assert place.deliveries() == [(1, False, True, 410, "refused")]


def test_a_deleted_endpoint_gets_not_even_what_was_on_its_way(place: Place, receiver: ReceiverServer) -> None:
    place.listen(receiver, "fine_tuning.job.cancelled")
    receiver.statuses = [500]
    place.cancelled_job()
    place.deliver()
    (endpoint,) = place.admin().webhooks.list()
    place.admin().webhooks.delete(endpoint.id)
    place.make_due()
    place.deliver()
    assert len(receiver.received) == 1
    assert place.deliveries() == [(2, False, True, None, "no_receiver")]
    assert list(place.admin().webhooks.list()) == []


# --- addresses --------------------------------------------------------------------------------------------------------

PRIVATE = [
    "https://127.0.0.1/", "https://localhost/", "https://[::1]/", "https://10.0.0.1/",
    "https://169.254.169.254/latest/meta-data", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/",
    "https://127.1/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:10.0.0.1]/", "https://[fe80::1]/",
    "https://[fd00::1]/", "https://100.64.0.1/", "https://0.1.2.3/",
]  # fmt: skip


def test_a_private_address_is_refused_at_registration_however_it_is_written(department: Department) -> None:
    with department.http(department.admin) as client:
        for url in PRIVATE:
            body = {"name": "inside", "url": url, "event_types": JOB_EVENTS}
            refused = client.post("/webhook_endpoints", json=body)
            error = refused.json()["error"]
            assert (refused.status_code, error["code"], error["param"]) == (400, "forbidden_address", "url"), url
        assert client.get("/webhook_endpoints").json()["data"] == []


def test_a_name_that_leads_inside_by_now_is_refused_again_when_it_is_sent_to(
    place: Place, receiver: ReceiverServer, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = httpx.URL(receiver.url).port
    asked: list[str] = []
    answers = {"rebound.example.org": ["93.184.215.14", "127.0.0.1"]}
    look_up = socket.getaddrinfo

    def rebinding(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in answers:
            return look_up(host, *arguments, **options)
        asked.append(host)
        return look_up(answers[host].pop(0), *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with place.department.http(place.department.admin) as client:
        url = f"https://rebound.example.org:{port}/hook"
        body = {"name": "moves", "url": url, "event_types": ["fine_tuning.job.cancelled"]}
        assert client.post("/webhook_endpoints", json=body).is_success
    place.cancelled_job()
    # As the service is without the setting that permits loopback.
    Deliverer(runtime).deliver()
    assert asked == ["rebound.example.org"] * 2
    assert receiver.received == []
    assert place.deliveries() == [(1, False, True, None, "forbidden_address")]


def test_the_connection_goes_to_the_address_that_was_checked_and_not_to_a_second_look_up(
    place: Place, receiver: ReceiverServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = httpx.URL(receiver.url).port
    asked: list[str] = []
    look_up = socket.getaddrinfo

    def once(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == "receiver.example.org":
            asked.append(host)
            return look_up("127.0.0.1", *arguments, **options)
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    with place.department.http(place.department.admin) as client:
        url = f"http://receiver.example.org:{port}/hook?a=b"
        body = {"name": "named", "url": url, "event_types": ["fine_tuning.job.cancelled"]}
        assert client.post("/webhook_endpoints", json=body).is_success
    place.cancelled_job()
    place.deliver()
    # Once when it was registered, once when it was sent to.
    assert len(asked) == 2
    (received,) = receiver.received
    assert (received.path, received.headers["host"]) == ("/hook?a=b", f"receiver.example.org:{port}")


def test_a_redirect_is_not_followed_and_one_inside_is_called_what_it_is(place: Place, receiver: ReceiverServer) -> None:
    place.listen(receiver, "fine_tuning.job.cancelled")
    with receiving() as elsewhere:
        receiver.statuses, receiver.location = [302, 307], elsewhere.url
        place.cancelled_job()
        place.deliver()
        assert place.deliveries() == [(1, False, False, 302, "redirected")]
        receiver.location = "http://[::ffff:169.254.169.254]/latest/meta-data"
        (endpoint,) = place.admin().webhooks.list()
        with pytest.raises(openai.BadRequestError) as refused:
            place.admin().webhooks.test(endpoint.id, event_type="fine_tuning.job.failed")
        assert refused.value.code == "forbidden_address"
        assert elsewhere.received == []


@pytest.mark.parametrize("location", ["http://[", "//a]b", "http://[::1", "http://a:b/", "mailto:x", "\u00e9", " "])
def test_a_location_that_is_no_url_is_a_redirect_like_any(
    place: Place, receiver: ReceiverServer, location: str
) -> None:
    place.listen(receiver, "fine_tuning.job.cancelled")
    receiver.statuses, receiver.location = [302, 302], location
    place.cancelled_job()
    place.deliver()
    assert place.deliveries() == [(1, False, False, 302, "redirected")]
    (endpoint,) = place.admin().webhooks.list()
    sample = place.admin().webhooks.test(endpoint.id, event_type="fine_tuning.job.failed")
    assert sample.status_code == 302


# --- OpenLineage ------------------------------------------------------------------------------------------------------


def test_a_jobs_beginning_and_end_go_to_the_openlineage_endpoint(
    place: Place, receiver: ReceiverServer, finish: Callable[..., None]
) -> None:
    settings = place.runtime.settings.model_copy(
        update={"openlineage_url": receiver.url, "openlineage_api_key": SecretStr("a token")}
    )
    job = place.job()
    finish(place.department, job)
    cancelled = place.cancelled_job()
    Deliverer(replace(place.runtime, settings=settings)).deliver()

    told = [each.event for each in receiver.received]
    ids = {str(parse_id(IdKind.JOB, name)): name for name in (job, cancelled)}
    shown = sorted((ids[event["run"]["runId"]] == job, event["eventType"]) for event in told)
    assert shown == [(False, "ABORT"), (True, "COMPLETE"), (True, "START")]
    (complete,) = (event for event in told if event["eventType"] == "COMPLETE")
    with place.department.http() as client:
        version = client.get("/adapters/default/versions/1").json()
    (output,) = complete["outputs"]
    assert output["facets"]["version"]["datasetVersion"] == version["digest"]
    assert {each.headers["authorization"] for each in receiver.received} == {"Bearer a token"}


# --- endpoints --------------------------------------------------------------------------------------------------------


def test_the_client_keeps_endpoints_and_a_secret_is_shown_once(place: Place, receiver: ReceiverServer) -> None:
    client, kinds = place.admin(), JOB_EVENTS
    made = client.webhooks.create(name="ours", url=receiver.url, event_types=kinds)  # type: ignore[arg-type]
    assert made.signing_secret.startswith("whsec_")
    shown = client.webhooks.retrieve(made.id)
    assert (shown.name, shown.url, shown.event_types) == ("ours", receiver.url, sorted(kinds))
    with place.department.http(place.department.admin) as plain:
        for path in (f"/webhook_endpoints/{made.id}", "/webhook_endpoints"):
            assert made.signing_secret not in plain.get(path).text
    changed = client.webhooks.update(made.id, event_types=["fine_tuning.job.failed"])
    assert (changed.name, changed.event_types) == ("ours", ["fine_tuning.job.failed"])

    sample = client.webhooks.test(made.id, event_type="fine_tuning.job.failed")
    assert (sample.success, sample.status_code) == (True, 200)
    assert unwrapped(made.signing_secret, receiver.received[-1]).type == "fine_tuning.job.failed"

    second = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    client.webhooks.test(made.id, event_type="fine_tuning.job.failed")
    for secret in (made.signing_secret, second.signing_secret):
        unwrapped(secret, receiver.received[-1])
    third = client.webhooks.rotate_secret(made.id)
    client.webhooks.test(made.id, event_type="fine_tuning.job.failed")
    unwrapped(third.signing_secret, receiver.received[-1])
    for secret in (made.signing_secret, second.signing_secret):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            unwrapped(secret, receiver.received[-1])

    assert client.webhooks.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.webhooks.retrieve(made.id)
    assert set(client.webhooks.event_types.list().data) == set(OutgoingKind)


def test_a_receiver_that_cannot_be_reached_is_told_as_that(place: Place) -> None:
    with receiving() as gone:
        place.listen(gone, *JOB_EVENTS)
    (endpoint,) = place.admin().webhooks.list()
    with pytest.raises(openai.ConflictError) as refused:
        place.admin().webhooks.test(endpoint.id, event_type="fine_tuning.job.failed")
    assert refused.value.code == "receiver_silent"


def test_who_does_not_administer_a_department_keeps_no_endpoints(place: Place, receiver: ReceiverServer) -> None:
    with place.department.http() as trainer:
        body = {"name": "mine", "url": receiver.url, "event_types": JOB_EVENTS}
        assert trainer.post("/webhook_endpoints", json=body).status_code == 403
        assert trainer.get("/webhook_endpoints").status_code == 403


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"event_types": []}, "out_of_range"),
        ({"event_types": ["job.exploded"]}, "invalid_request"),
        ({"name": ""}, "out_of_range"),
        ({"secret": "mine"}, "unknown_field"),
        ({"url": "ftp://example.org/"}, "invalid_request"),
        ({"url": "http://93.184.215.14/"}, "invalid_request"),
        ({"url": "https://nobody.invalid/"}, "unknown_address"),
    ],
)
def test_a_bad_endpoint_is_refused(department: Department, change: dict[str, Any], code: str) -> None:
    good = {"name": "ours", "url": "https://93.184.215.14/", "event_types": JOB_EVENTS}
    with http(department.api_url, department.admin.key) as client:
        refused = client.post("/webhook_endpoints", json=good | change)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, code)
