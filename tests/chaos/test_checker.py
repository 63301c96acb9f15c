"""The checker finds nothing after a quiet run, and every single thing that is then damaged on purpose."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import boto3
import pytest
from sqlalchemy import Connection, create_engine, make_url, text

from chaos import checker as promises
from chaos.checker import Checker, Expected
from chaos.installation import Installation, Shape
from chaos.workload import Workload
from runtime.settings import Settings
from tests.chaos.conftest import await_

JOBS = 4
# The version that is damaged, and its job.
CHOSEN = "CREATE TEMP TABLE chosen AS SELECT id AS version, job_id AS job FROM adapter_versions ORDER BY id LIMIT 1"


@pytest.fixture(scope="module")
def finished(install: Callable[..., tuple[Installation, Workload]]) -> tuple[Installation, Expected]:
    """An installation whose jobs have all ended, one of them cancelled; another's file and version were erased."""
    installation, workload = install(Shape(workers=1))
    for _ in range(JOBS):
        assert workload.submit()
    cancelled = workload.submit()
    assert cancelled
    workload.cancel(cancelled, workload.customers[0])
    await_(lambda: installation.checker.unfinished() == 0, within_s=60, what="every job ends")
    workload.erase(workload.customers[0], "finish")
    await_(lambda: installation.checker.unfinished() == 0, within_s=60, what="the file's job ends")
    await_(lambda: installation.checker.under_way() == 0, within_s=60, what="it is erased, and everything is told")
    return installation, workload.expected


@pytest.fixture
def settings(finished: tuple[Installation, Expected]) -> Settings:
    return finished[0].settings


@pytest.fixture
def expected(finished: tuple[Installation, Expected]) -> Expected:
    return finished[1]


@pytest.fixture
def database(settings: Settings) -> Iterator[Connection]:
    """A superuser's transaction that is undone after the test: even a constraint that it drops is back then."""
    assert settings.database_admin_url
    url = make_url(settings.database_admin_url.get_secret_value()).set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(CHOSEN))
        yield connection
        connection.rollback()
    engine.dispose()


@pytest.fixture
def checker(settings: Settings, database: Connection) -> Iterator[Checker]:
    """One that looks from within that transaction."""
    made = Checker(settings, database)
    yield made
    made.close()


def broken(checker: Checker, expected: Expected) -> set[str]:
    return {finding.promise for finding in checker.check(expected)}


def test_nothing_is_found_after_a_quiet_run(checker: Checker, expected: Expected, database: Connection) -> None:
    assert checker.check(expected) == []
    assert len(expected.accepted) == JOBS + 2
    assert database.execute(text("SELECT count(*) FROM adapter_versions")).scalar_one() >= JOBS


# What is done to the database, and which promises are then broken.
DAMAGE: dict[str, tuple[list[str], set[str]]] = {
    "a job that never ends": (
        ["ALTER TABLE jobs DROP CONSTRAINT ck_jobs_finished",
         "UPDATE jobs SET state = 'queued' WHERE id = (SELECT job FROM chosen)"],
        {"every job ends", "a job has succeeded if and only if it made a version"},
    ),
    "a request entered twice": (
        ["""UPDATE jobs SET metadata = '{"request": "0"}'
            WHERE metadata->>'request' = '1'"""],
        {"a request makes one job", promises.CONSERVED},
    ),
    "a job that was lost": (
        ["DELETE FROM jobs WHERE state = 'cancelled'"],
        {promises.CONSERVED},
    ),
    "a job that nobody asked for": (
        ["""UPDATE jobs SET metadata = '{"request": "no"}' WHERE metadata->>'request' = '1'"""],
        {promises.CONSERVED, promises.INVENTED},
    ),
    "two versions of one job": (
        ["ALTER TABLE adapter_versions DROP CONSTRAINT uq_adapter_versions_job_id",
         """INSERT INTO adapter_versions SELECT (jsonb_populate_record(v, jsonb_build_object(
             'id', uuidv7(), 'number', 99, 'model_name', 'another'))).*
             FROM adapter_versions v WHERE id = (SELECT version FROM chosen)"""],
        {"a job makes one version at most", "numbers of an adapter have no gap", "a version has its audit event",
         "a version has its lineage"},
    ),
    "a version that is gone": (
        ["DELETE FROM adapter_versions WHERE id = (SELECT version FROM chosen)"],
        {"a job has succeeded if and only if it made a version", "numbers of an adapter have no gap",
         "a registration in the trail has its version"},
    ),
    "a number that was left out": (
        ["UPDATE adapters SET next_number = next_number + 1"],
        {"numbers of an adapter have no gap"},
    ),
    "a version that the trail does not know": (
        ["""DELETE FROM audit_events
            WHERE action = 'adapter.version.registered' AND resource_id = (SELECT version FROM chosen)"""],
        {"a version has its audit event"},
    ),
    "a version of another digest than the trail's": (
        ["UPDATE adapter_versions SET digest = 'sha256:00' WHERE id = (SELECT version FROM chosen)"],
        {"a version has its audit event"},
    ),
    "an end that is told twice": (
        ["""INSERT INTO audit_events (xid, roles, actor_type, action, outcome, resource_id, refs, details)
            SELECT xid, roles, 'system', 'job.failed', 'failure', resource_id, refs, details FROM audit_events
            WHERE action = 'job.cancelled'"""],
        {"a job's end is in the trail once"},
    ),
    "a job that failed for what nobody broke": (
        ["""UPDATE jobs SET state = 'failed', error = '{"code": "bad_data", "message": "Bad."}'
            WHERE state = 'cancelled'""",
         "UPDATE audit_events SET action = 'job.failed' WHERE action = 'job.cancelled'"],
        {"a job that failed says why, and it was a lost worker"},
    ),
    "jobs that failed for what may happen to one": (
        ["""UPDATE jobs SET state = 'failed', error = '{"code": "artifact_missing", "message": "Gone."}'""",
         "UPDATE audit_events SET action = 'job.failed' WHERE action IN ('job.cancelled', 'job.succeeded')"],
        {"a job that failed says why, and it was a lost worker",
         "a job has succeeded if and only if it made a version"},
    ),
    "a job that failed and does not say why": (
        ["UPDATE jobs SET state = 'failed' WHERE state = 'cancelled'",
         "UPDATE audit_events SET action = 'job.failed' WHERE action = 'job.cancelled'"],
        {"a job that failed says why, and it was a lost worker"},
    ),
    "a job that failed with a code and no word": (
        ["""UPDATE jobs SET state = 'failed', error = '{"code": "worker_crash", "message": ""}'
            WHERE state = 'cancelled'""",
         "UPDATE audit_events SET action = 'job.failed' WHERE action = 'job.cancelled'"],
        {"a job that failed says why, and it was a lost worker"},
    ),
    "a job that was cancelled unasked": (
        ["UPDATE jobs SET cancel_requested_at = NULL WHERE state = 'cancelled'"],
        {"a cancelled job was asked to end"},
    ),
    "a job that nobody is known to have asked to end": (
        ["DELETE FROM audit_events WHERE action = 'job.cancel_requested'"],
        {"a cancelled job was asked to end"},
    ),
    "a lease that is charged twice": (
        ["ALTER TABLE usage_records DROP CONSTRAINT uq_usage_records_lease_id_job_id",
         """INSERT INTO usage_records SELECT (jsonb_populate_record(u, jsonb_build_object('id', uuidv7()))).*
            FROM usage_records u WHERE job_id = (SELECT job FROM chosen)"""],
        {"a lease that ended is charged once"},
    ),
    "a lease that nobody is charged for": (
        ["DELETE FROM usage_records WHERE job_id = (SELECT job FROM chosen)"],
        {"a lease that ended is charged once"},
    ),
    "a lease that is charged as another end": (
        ["UPDATE usage_records SET end_reason = 'released' WHERE job_id = (SELECT job FROM chosen)"],
        {"a lease that ended is charged once"},
    ),
    "a claim that is not told": (
        ["DELETE FROM audit_events WHERE action = 'job.claimed' AND resource_id = (SELECT job FROM chosen)"],
        {"every claim is in the trail"},
    ),
    "a lease that nobody ended": (
        ["UPDATE leases SET ended_at = NULL"],
        {"a lease ends with its job"},
    ),
    "a version without lineage": (
        ["DELETE FROM lineage_edges WHERE subject_id = (SELECT version FROM chosen)"],
        {"a version has its lineage"},
    ),
    "an event that nobody was given": (
        ["DELETE FROM outgoing_deliveries WHERE id = (SELECT min(id::text)::uuid FROM outgoing_deliveries)"],
        {"whoever wants to hear of an event is told"},
    ),
    "an event that waits": (
        ["UPDATE outgoing_deliveries SET due_at = now(), delivered_at = NULL"],
        {"whoever wants to hear of an event is told"},
    ),
    "an erasing that was left": (
        ["UPDATE file_erasures SET state = 'erasing', ended_at = NULL"],
        {"an erasing that two people agreed to is carried out"},
    ),
    "an erased version that stands as before": (
        ["UPDATE adapter_versions SET state = 'retired' WHERE deleted_at IS NOT NULL"],
        {"a version that learned from an erased file is revoked and erased"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_the_database_is_found(
    checker: Checker, expected: Expected, database: Connection, damage: str
) -> None:
    statements, found = DAMAGE[damage]
    for statement in statements:
        changed = database.execute(text(statement))
        assert changed.rowcount != 0, statement
    assert broken(checker, expected) == found


def test_every_promise_of_the_database_has_been_broken_here() -> None:
    assert set(promises.PROMISES) <= {promise for _, found in DAMAGE.values() for promise in found}


@dataclass(frozen=True)
class Bucket:
    """Behind everybody's back."""

    client: Any
    name: str

    def read(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return content

    def write(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def erase(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)


@pytest.fixture
def bucket(settings: Settings) -> Iterator[Bucket]:
    client = boto3.session.Session().client(
        "s3", endpoint_url=settings.s3_endpoint, region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
    )  # fmt: skip
    yield Bucket(client, settings.s3_bucket)
    client.close()


NAMED = {
    "adapter": "SELECT 'departments/' || department_id || '/blobs/' || substr(manifest->'files'->0->>'digest', 8)"
    " FROM adapter_versions ORDER BY id LIMIT 1",
    "file": "SELECT 'departments/' || department_id || '/blobs/' || substr(digest, 8) FROM files"
    " WHERE deleted_at IS NULL LIMIT 1",
    "checkpoint": "SELECT 'departments/' || department_id || '/checkpoints/' || job_id || '/' || epoch || '/' || step"
    " || '/state.json' FROM job_checkpoints WHERE erased_at IS NULL LIMIT 1",
}


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("gone", [True, False])
def test_damage_to_the_bucket_is_found(
    checker: Checker, expected: Expected, database: Connection, bucket: Bucket, *, named: str, gone: bool
) -> None:
    key = database.execute(text(NAMED[named])).scalar_one()
    content = bucket.read(key)
    # Another value of the same form: only a digest tells.
    changed = content.replace(content[1:2], b"x")
    try:
        if gone:
            bucket.erase(key)
        else:
            bucket.write(key, changed)
        findings = checker.check(expected)
    finally:
        bucket.write(key, content)
    found = {finding.promise: finding.told for finding in findings}
    assert set(found) == {promises.STORED} | ({promises.WHOLE} if named == "adapter" and not gone else set())
    assert key in found[promises.STORED]


ERASED = {
    "file": "SELECT 'departments/' || department_id || '/blobs/' || substr(digest, 8) FROM files"
    " WHERE deleted_at IS NOT NULL",
    "version": "SELECT 'departments/' || department_id || '/blobs/' || substr(manifest->'files'->0->>'digest', 8)"
    " FROM adapter_versions WHERE deleted_at IS NOT NULL",
    "attestation": "SELECT 'departments/' || v.department_id || '/blobs/' || substr(a.digest, 8)"
    " FROM version_attestations a JOIN adapter_versions v ON v.id = a.version_id"
    " WHERE v.deleted_at IS NOT NULL LIMIT 1",
    "checkpoint": "SELECT 'departments/' || c.department_id || '/checkpoints/' || c.job_id || '/' || c.epoch || '/' "
    " || c.step || '/state.json' FROM job_checkpoints c JOIN adapter_versions v ON v.job_id = c.job_id"
    " WHERE v.deleted_at IS NOT NULL LIMIT 1",
}


@pytest.mark.parametrize("erased", ERASED)
def test_an_object_that_is_left_of_what_was_erased_is_found(
    checker: Checker, expected: Expected, database: Connection, bucket: Bucket, *, erased: str
) -> None:
    key = database.execute(text(ERASED[erased])).scalar_one()
    try:
        bucket.write(key, b"left")
        findings = checker.check(expected)
    finally:
        bucket.erase(key)
    assert {finding.promise for finding in findings} == {promises.GONE}
    assert all(key in finding.told for finding in findings)


def test_an_event_that_is_said_to_be_told_and_was_not_is_found(checker: Checker, expected: Expected) -> None:
    missed = min(expected.heard)
    (finding,) = checker.check(replace(expected, heard=expected.heard - {missed}))
    assert (finding.promise, missed in finding.told) == (promises.TOLD, True)


def test_an_adapter_of_a_run_that_left_a_step_out_is_found(checker: Checker, expected: Expected) -> None:
    shorter = {job: steps - 1 for job, steps in expected.steps.items()}
    told = checker.check(replace(expected, steps=shorter))
    assert {finding.promise for finding in told} == {promises.WHOLE}


def test_a_process_that_works_on_is_found(checker: Checker, expected: Expected, settings: Settings) -> None:
    command = [sys.executable, "-c", "import signal; signal.pause()", f"--plan={settings.work_dir}/runs/x/plan.json"]
    with subprocess.Popen(command) as left:
        try:
            await_(lambda: broken(checker, expected) == {promises.ORPHANS}, within_s=10, what="it is found")
        finally:
            left.send_signal(signal.SIGKILL)


def test_a_transaction_that_stays_open_is_found(checker: Checker, settings: Settings) -> None:
    assert settings.database_admin_url
    url = make_url(settings.database_admin_url.get_secret_value()).set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    with engine.begin() as open_:
        open_.execute(text("SELECT 1"))
        pid = open_.execute(text("SELECT pg_backend_pid()")).scalar_one()
        await_(
            lambda: any(told.startswith(f"{pid} idle") for told in checker.blocking(0.3)), within_s=5,
            what="it is found",
        )  # fmt: skip
        assert not any(told.startswith(f"{pid} ") for told in checker.blocking(60))
    engine.dispose()
