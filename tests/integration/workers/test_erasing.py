"""A sweeper that erases a blob beside somebody who is about to name it, stopped wherever it hurts.

Each race is run a second time without the rule that decides it: then the lie appears, a row whose object is gone.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import func, select, update

from domain.digests import Digest, digest_of
from domain.jobs import JobState
from domain.rows import RowsReport
from models_db.files import File
from models_db.retention import Erasure
from runtime.erasing import erase_blobs
from services import blobs, files
from services.blobs import BytesErased
from storage.errors import ObjectMissing
from storage.keys import Key
from storage.objects import ObjectStore
from workers.retention import StorageSweep

pytestmark = pytest.mark.parametrize("settings", [{"orphan_after_s": 0}], indirect=True, ids=["at once"])
RULED = pytest.mark.parametrize("ruled", [True, False], ids=["by the rules", "without them"])
CONTENT = b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n'
DIGEST = digest_of(CONTENT)
WAIT_S = 30


@dataclass
class Writer:
    """Stores the same bytes as whoever left the orphan, step by step."""

    department: Any
    stored_since: Any = field(init=False)

    def put(self) -> None:
        with self.department.runtime.department(self.department.id) as session:
            self.stored_since = blobs.clock(session)
        self.department.runtime.objects.put(
            Key.blob(self.department.id, DIGEST), BytesIO(CONTENT), DIGEST, len(CONTENT)
        )

    def enter(self, *, before_commit: Callable[[], object] = lambda: None) -> None:
        report = RowsReport(rows=1, duplicate_rows=0, rows_with_choices=0)
        with self.department.runtime.department(self.department.id) as session:
            files.register(
                session, self.department.principal, filename="rows.jsonl", purpose="fine-tune", digest=DIGEST,
                size_bytes=len(CONTENT), rows=report, stored_since=self.stored_since,
            )  # fmt: skip
            before_commit()


@pytest.fixture
def writer(department: Any) -> Writer:
    """Of a department in which the bytes lie already, named by no row."""
    made = Writer(department)
    made.put()
    return made


def sweep(department: Any) -> None:
    StorageSweep(department.runtime).portion()


def lies(department: Any) -> list[Digest]:
    """Digests that rows name and the store does not have."""
    with department.runtime.department(department.id) as session:
        named = session.scalars(select(File.digest).where(File.deleted_at.is_(None)).distinct()).all()
    missing = []
    for digest in named:
        try:
            department.runtime.objects.size_of(Key.blob(department.id, digest))
        except ObjectMissing:
            missing.append(digest)
    return missing


@contextmanager
def stopped_before_sending(monkeypatch: pytest.MonkeyPatch, department: Any) -> Iterator[None]:
    """A sweeper has announced the erasing; within the block it is stopped, after it it goes on to its end."""
    announced, go_on = threading.Event(), threading.Event()
    send = ObjectStore.erase_presigned

    def late(store: ObjectStore, key: Key, url: str) -> bool:
        announced.set()
        assert go_on.wait(WAIT_S)
        return send(store, key, url)

    monkeypatch.setattr(ObjectStore, "erase_presigned", late)
    sweeper = threading.Thread(target=sweep, args=(department,))
    sweeper.start()
    try:
        assert announced.wait(WAIT_S)
        yield
    finally:
        go_on.set()
        sweeper.join(WAIT_S)


def without_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "confirm", lambda *_arguments, **_options: None)


@RULED
def test_bytes_found_there_and_erased_before_their_row(
    department: Any, writer: Writer, monkeypatch: pytest.MonkeyPatch, *, ruled: bool
) -> None:
    writer.put()
    sweep(department)
    if not ruled:
        without_confirmation(monkeypatch)
        writer.enter()
        assert lies(department) == [DIGEST]
        return
    with pytest.raises(BytesErased):
        writer.enter()
    writer.put()
    writer.enter()
    assert lies(department) == []


@RULED
def test_a_row_entered_between_announcement_and_erasing(
    department: Any, writer: Writer, monkeypatch: pytest.MonkeyPatch, *, ruled: bool
) -> None:
    if not ruled:
        without_confirmation(monkeypatch)
    with stopped_before_sending(monkeypatch, department):
        # Begun after the announcement: the object is there, and about to go.
        writer.put()
        if ruled:
            with pytest.raises(BytesErased):
                writer.enter()
        else:
            writer.enter()
    if not ruled:
        assert lies(department) == [DIGEST]
        return
    writer.put()
    writer.enter()
    assert lies(department) == []


@RULED
def test_an_announcement_beside_a_row_that_is_not_committed_yet(
    department: Any, writer: Writer, monkeypatch: pytest.MonkeyPatch, *, ruled: bool
) -> None:
    if not ruled:
        monkeypatch.setattr(blobs, "_lock", lambda *_arguments: None)
    swept = threading.Event()
    sweeper = threading.Thread(target=lambda: (sweep(department), swept.set()))

    def begin_to_sweep() -> None:
        sweeper.start()
        # By the rules it waits for the lock until we commit. PostgreSQL knows; without them it comes to its end.
        deadline = time.monotonic() + WAIT_S
        while not (swept.is_set() or waits_for_a_lock(department)):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    writer.put()
    writer.enter(before_commit=begin_to_sweep)
    sweeper.join(WAIT_S)
    assert lies(department) == ([] if ruled else [DIGEST])


def waits_for_a_lock(department: Any) -> bool:
    with department.runtime.platform() as session:
        found = session.connection().exec_driver_sql(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return bool(found.scalar_one())


@RULED
def test_a_sweeper_that_wakes_up_when_its_time_is_over(
    department: Any, writer: Writer, monkeypatch: pytest.MonkeyPatch, *, ruled: bool
) -> None:
    monkeypatch.setattr("runtime.erasing.ERASE_WITHIN_S", 1)
    objects, key = department.runtime.objects, Key.blob(department.id, DIGEST)
    if not ruled:
        # An ordinary request is signed when it is sent.
        monkeypatch.setattr(ObjectStore, "erase_presigned", lambda store, key, _url: store.erase(key) or True)
    with stopped_before_sending(monkeypatch, department):
        as_old = objects.presign_get(key, ttl_s=1)
        deadline = time.monotonic() + WAIT_S
        while httpx.get(as_old).status_code != httpx.codes.FORBIDDEN:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # A quarter of an hour later nobody waits for it any more.
        with department.runtime.department(department.id) as session:
            session.execute(update(Erasure).values(ends_at=func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 1)))
        writer.put()
        writer.enter()
    assert lies(department) == ([] if ruled else [DIGEST])


def test_a_second_erasing_does_not_end_the_first(
    department: Any, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopped_before_sending(monkeypatch, department):
        monkeypatch.undo()
        erased = erase_blobs(
            department.runtime,
            department.id,
            [DIGEST],
            lambda session: blobs.announce(session, department.id, [DIGEST]),
        )
        assert erased == ([DIGEST], [])
        writer.put()
        # The first may still come.
        with pytest.raises(BytesErased):
            writer.enter()
    writer.put()
    writer.enter()
    assert lies(department) == []


def test_a_worker_whose_adapter_may_be_erased_gives_its_job_back(department: Any, fake: Any) -> None:
    job = department.submit_queued()
    # What the pretended engine's four steps come to.
    digest = digest_of(b"10")
    with department.runtime.department(department.id) as session:
        ends_at = func.now() + timedelta(minutes=16)
        session.add(Erasure(id=uuid4(), department_id=department.id, digest=digest, ends_at=ends_at))
    assert department.worker(fake()).run_next()
    left = department.job(job)
    assert (left.state, left.stalls, department.versions(job)) == (JobState.QUEUED, 0, [])
    assert len(department.audited("job.released")) == 1

    with department.runtime.department(department.id) as session:
        session.execute(update(Erasure).values(ends_at=func.now()))
    assert department.worker(fake()).run_next()
    assert department.adapter_file(job, "state.json") == b"10"


def test_files_come_and_go_beside_sweepers_and_none_is_a_lie(department: Any) -> None:
    contents = [CONTENT * (number + 1) for number in range(3)]
    until = time.monotonic() + 6
    failures: list[BaseException] = []

    def repeat(step: Callable[[], object]) -> None:
        try:
            while time.monotonic() < until:
                step()
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    def upload_and_delete(content: bytes) -> None:
        digest = digest_of(content)
        file = store(department, content)
        department.runtime.objects.size_of(Key.blob(department.id, digest))
        # Half of the erasings are left to the sweepers.
        with department.runtime.department(department.id) as session:
            files.delete(session, department.principal, file)
        if file.int % 2:
            erase_blobs(
                department.runtime,
                department.id,
                [digest],
                lambda session: blobs.announce(session, department.id, [digest]),
            )

    def sweep_again() -> None:
        with department.runtime.department(department.id) as session:
            session.connection().exec_driver_sql("UPDATE storage_sweeps SET due_at = now()")
        sweep(department)

    threads = [threading.Thread(target=repeat, args=(lambda c=c: upload_and_delete(c),)) for c in contents * 2]
    threads += [threading.Thread(target=repeat, args=(sweep_again,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert failures == []
    assert lies(department) == []
    assert department.audited("storage.orphans_erased")


def store(department: Any, content: bytes) -> UUID:
    """As the API does: put and enter, again while an erasing is under way."""
    digest = digest_of(content)
    while True:
        with department.runtime.department(department.id) as session:
            since = blobs.clock(session)
        department.runtime.objects.put(Key.blob(department.id, digest), BytesIO(content), digest, len(content))
        try:
            with department.runtime.department(department.id) as session:
                return files.register(
                    session, department.principal, filename="rows.jsonl", purpose="fine-tune", digest=digest,
                    size_bytes=len(content), stored_since=since,
                    rows=RowsReport(rows=1, duplicate_rows=0, rows_with_choices=0),
                ).id  # fmt: skip
        except BytesErased:
            time.sleep(0.01)
