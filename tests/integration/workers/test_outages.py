"""What is between a worker and its servers breaks at the worst moment: a proxy breaks it, a failpoint says when."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, make_url, text

from chaos.proxy import Fault, Proxy, of_url
from domain import failpoints
from domain.digests import digest_of
from domain.failpoints import FailPoint
from domain.jobs import JobState
from runtime import wiring
from runtime.settings import Settings
from runtime.wiring import Runtime
from storage.errors import DigestMismatch, ObjectMissing, StorageUnavailable
from storage.keys import Key
from workers.engine_process import Launcher
from workers.training import Worker

LEASE_S = 3
# So long that no renewal comes between.
UNHURRIED = {"lease_s": 60.0}
SLOW_DOWN = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.disarm()


def at(point: FailPoint, happen: Callable[[], object]) -> None:
    """Have something happen the first time that this process comes to a point."""
    left = [happen]

    def reached(passed: FailPoint) -> None:
        if passed is point and left:
            left.pop()()

    failpoints.arm(reached)


@pytest.fixture
def apart(settings: Settings) -> Iterator[Callable[..., tuple[Worker, Proxy, Proxy]]]:
    """A worker in this process with a way of its own to database and storage."""
    with ExitStack() as stack:

        def made(launcher: Launcher, **changed: float) -> tuple[Worker, Proxy, Proxy]:
            url, endpoint = settings.database_url.get_secret_value(), str(settings.s3_endpoint)
            database, storage = (stack.enter_context(of_url(address)) for address in (url, endpoint))
            apart = {"database_url": SecretStr(database.url(url)), "s3_endpoint": storage.url(endpoint)}
            runtime = wiring.build(settings.model_copy(update=apart | changed))
            stack.callback(runtime.close)
            return Worker(runtime, "apart", threading.Event(), launcher), database, storage

        yield made


def state_of(department: Any, job: Any) -> JobState:
    return JobState(department.job(job).state)


@pytest.mark.parametrize("point", [FailPoint.FINISH_IN_TX, FailPoint.CHECKPOINT_IN_TX])
def test_a_commit_whose_reply_is_lost_is_written_once(department: Any, fake: Any, apart: Any, point: FailPoint) -> None:
    job = department.submit_queued(steps=6, checkpoint_every=2)
    worker, database, _ = apart(fake("slow"), **UNHURRIED)
    at(point, lambda: database.break_(Fault(lose_reply_to=b"COMMIT", times=1)))
    assert worker.run_next()
    assert database.hits == 1
    assert (state_of(department, job), department.job(job).epoch) == (JobState.SUCCEEDED, 1)
    assert len(department.versions(job)) == len(department.audited("adapter.version.registered")) == 1
    steps = [checkpoint.step for checkpoint in department.checkpoints(job)]
    assert steps == sorted(set(steps))


def test_a_transaction_cut_before_its_commit_is_written_again(department: Any, fake: Any, apart: Any) -> None:
    job = department.submit_queued(steps=6, checkpoint_every=2)
    worker, database, _ = apart(fake(), **UNHURRIED)
    cuts = []
    at(FailPoint.FINISH_IN_TX, lambda: cuts.append(database.cut()))
    assert worker.run_next()
    assert cuts[0] >= 1
    (version,) = department.versions(job)
    assert (state_of(department, job), version.number) == (JobState.SUCCEEDED, 1)
    assert len(department.audited("adapter.version.registered")) == 1


def test_a_worker_that_cannot_reach_the_database_stops_before_its_lease_ends(
    department: Any, fake: Any, apart: Any, *, engines: Any, wait_for: Any
) -> None:
    job = department.submit_queued(steps=600, checkpoint_every=5)
    worker, database, _ = apart(fake("slow"))
    seen: dict[str, object] = {}

    def outage() -> None:
        wait_for(lambda: department.checkpoints(job) and engines(), within_s=30, what="training has begun")
        database.break_(Fault(hold=True))
        wait_for(lambda: not engines(), within_s=2 * LEASE_S, what="its ranks are killed")
        seen["lease left"] = lease_left_s(department, job)
        database.heal()

    cutter = threading.Thread(target=outage)
    cutter.start()
    assert worker.run_next()
    cutter.join()
    # By the database's clock: nobody else could have claimed the job while it still trained.
    assert isinstance(seen["lease left"], float)
    assert 0 < seen["lease left"] < LEASE_S
    assert department.versions(job) == []
    assert state_of(department, job) == JobState.RUNNING


def lease_left_s(department: Any, job: Any) -> float:
    left = "SELECT extract(epoch FROM expires_at - clock_timestamp()) FROM leases l JOIN jobs j ON j.lease_id = l.id"
    with department.runtime.department(department.id) as session:
        return float(session.execute(text(f"{left} WHERE j.id = :job"), {"job": job}).scalar_one())


def test_a_deadlock_costs_a_worker_a_moment_and_no_attempt(
    department: Any, fake: Any, *, settings: Settings, servers: Any, wait_for: Any
) -> None:
    department.submit_queued()
    assert department.worker(fake()).run_next()
    job = department.submit_queued()
    name = make_url(settings.database_url.get_secret_value()).database
    admin = create_engine(make_url(servers.database_admin_url).set(drivername="postgresql+psycopg", database=name))
    told: list[str] = []

    def cross() -> None:
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = :name")
        with admin.begin() as connection, admin.connect() as looking:
            connection.execute(text("SELECT id FROM adapters FOR UPDATE"))
            held.set()
            wait_for(lambda: looking.execute(waiting, {"name": name}).scalar_one(), within_s=20, what="it waits")
            connection.execute(text("SELECT id FROM jobs WHERE id = :job FOR UPDATE"), {"job": job})
            told.append("the other went on")

    held = threading.Event()
    other = threading.Thread(target=cross)
    other.start()
    assert held.wait(10)
    worker = department.worker(fake(), **UNHURRIED)
    assert worker.run_next()
    other.join()
    admin.dispose()
    # PostgreSQL ends who waited first: the worker. It asked again.
    assert told == ["the other went on"]
    assert (state_of(department, job), department.job(job).epoch) == (JobState.SUCCEEDED, 1)
    assert [version.number for version in department.versions(job)] == [2]


@pytest.mark.parametrize(
    "fault",
    [Fault(answer=SLOW_DOWN, share=0.3), Fault(limit_bytes=700, times=4), Fault(flip_after=500, times=2)],
    ids=["503 to a third", "cut while sending", "a byte changed on its way down"],
)
def test_storage_that_misbehaves_costs_no_attempt(department: Any, fake: Any, apart: Any, fault: Fault) -> None:
    job = department.submit_queued(steps=8, checkpoint_every=2)
    worker, _, storage = apart(fake("slow"), lease_s=60.0)
    at(FailPoint.CHECKPOINT_BEFORE_UPLOAD, lambda: storage.break_(fault))
    assert worker.run_next()
    assert (state_of(department, job), department.job(job).epoch) == (JobState.SUCCEEDED, 1)
    assert department.adapter_file(job, "state.json") == b"36"
    if fault.flip_after is None:
        # Nothing comes down while a run only uploads.
        assert storage.hits > 0


@pytest.fixture
def behind(runtime: Runtime, settings: Settings) -> Iterator[tuple[Runtime, Proxy]]:
    """The same bucket, seen through a proxy."""
    endpoint = str(settings.s3_endpoint)
    with of_url(endpoint) as storage:
        other = wiring.build(settings.model_copy(update={"s3_endpoint": storage.url(endpoint)}))
        yield other, storage
        other.close()
    assert runtime


CONTENT = bytes(range(256)) * 4096


def test_an_upload_that_is_cut_is_no_object(runtime: Runtime, behind: tuple[Runtime, Proxy]) -> None:
    (through, storage), digest = behind, digest_of(CONTENT)
    key = Key.blob(uuid4(), digest)
    storage.break_(Fault(limit_bytes=len(CONTENT) // 2))
    with pytest.raises(StorageUnavailable):
        through.objects.put(key, BytesIO(CONTENT), digest, len(CONTENT))
    # Asked for four times.
    assert storage.hits >= 4
    with pytest.raises(ObjectMissing):
        runtime.objects.stream(key, digest)
    storage.heal()
    through.objects.put(key, BytesIO(CONTENT), digest, len(CONTENT))
    assert b"".join(runtime.objects.stream(key, digest)) == CONTENT


def test_bytes_that_change_on_their_way_down_are_not_taken(
    runtime: Runtime, behind: tuple[Runtime, Proxy], tmp_path: Any
) -> None:
    (through, storage), digest = behind, digest_of(CONTENT)
    key = Key.blob(uuid4(), digest)
    runtime.objects.put(key, BytesIO(CONTENT), digest, len(CONTENT))
    storage.break_(Fault(flip_after=len(CONTENT) // 2, times=1))
    with pytest.raises(DigestMismatch):
        through.objects.fetch(key, tmp_path / "fetched", digest)
    assert storage.hits == 1
    assert list(tmp_path.iterdir()) == []
    through.objects.fetch(key, tmp_path / "fetched", digest)
    assert (tmp_path / "fetched").read_bytes() == CONTENT
