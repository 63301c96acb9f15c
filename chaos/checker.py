"""What must hold of an installation after any run, read from the database and the bucket alone.

It shares nothing with the services but the tables' names: a superuser's SQL, an S3 client and digests of its own.
What it finds is a promise that was not kept, and the row that broke it.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import psutil
from botocore.exceptions import ClientError
from sqlalchemy import Connection, NullPool, RowMapping, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from chaos.short_engine import STATE, chain_of
from runtime.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MAX_LOCK_S = 15
_SERVER_BACK_WITHIN_S = 30.0


@dataclass(frozen=True)
class Finding:
    """A promise that was not kept."""

    promise: str
    told: str


@dataclass(frozen=True)
class Expected:
    """What the run knows that the database does not.

    accepted: tags of the requests that the API answered for. tried: those that it may have heard. steps: of each job
    that the short engine ran. heard: ids of the events that a receiver of all of them was told of.
    """

    accepted: frozenset[str] = frozenset()
    tried: frozenset[str] = frozenset()
    steps: Mapping[str, int] = field(default_factory=dict)
    heard: frozenset[str] = frozenset()


# Each statement names what breaks its promise, one row a breach. None of them should have a row.
PROMISES: Mapping[str, str] = {
    "every job ends": """
        SELECT id || ' is ' || state FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled')
    """,
    # Whoever submits tags each request in its job's metadata: what was asked for can be told from what was made of it.
    "a request makes one job": """
        SELECT 'request ' || (metadata->>'request') || ' made ' || count(*) || ' jobs' FROM jobs
        WHERE metadata ? 'request' GROUP BY department_id, metadata->>'request' HAVING count(*) > 1
    """,
    "a job makes one version at most": """
        SELECT job_id || ' made ' || count(*) || ' versions' FROM adapter_versions GROUP BY job_id HAVING count(*) > 1
    """,
    "a job has succeeded if and only if it made a version": """
        SELECT j.id || ' is ' || j.state || ', version ' || coalesce(v.number::text, 'none')
        FROM jobs j LEFT JOIN adapter_versions v ON v.job_id = j.id
        WHERE (j.state = 'succeeded') <> (v.id IS NOT NULL)
    """,
    "numbers of an adapter have no gap": """
        SELECT a.id || ' has ' || count(v.id) || ' versions, the last is ' || coalesce(max(v.number), 0)
            || ', the next ' || a.next_number
        FROM adapters a LEFT JOIN adapter_versions v ON v.adapter_id = a.id
        GROUP BY a.id, a.next_number
        HAVING count(DISTINCT v.number) <> coalesce(max(v.number), 0) OR a.next_number <> count(v.id) + 1
    """,
    "a version has its audit event": """
        SELECT 'version ' || v.id || ' has ' || count(e.number) || ' events'
        FROM adapter_versions v LEFT JOIN audit_events e ON e.action = 'adapter.version.registered'
            AND e.resource_id = v.id AND e.details->>'digest' = v.digest AND (e.details->>'number')::int = v.number
        GROUP BY v.id HAVING count(e.number) <> 1
    """,
    "a registration in the trail has its version": """
        SELECT 'event ' || e.number || ' tells of version ' || e.resource_id FROM audit_events e
        WHERE e.action = 'adapter.version.registered'
            AND NOT EXISTS (SELECT 1 FROM adapter_versions v WHERE v.id = e.resource_id)
    """,
    "a job's end is in the trail once": """
        SELECT j.id || ' is ' || j.state || ', events: ' || coalesce(string_agg(e.action, ', '), 'none')
        FROM jobs j LEFT JOIN audit_events e ON e.resource_id = j.id
            AND e.action IN ('job.succeeded', 'job.failed', 'job.cancelled')
        WHERE j.state IN ('succeeded', 'failed', 'cancelled')
        GROUP BY j.id, j.state
        HAVING count(e.number) <> 1 OR max(e.action) <> 'job.' || j.state
    """,
    # Only workers are lost here, and ranks killed: by a run, or by the kernel where its machine has no memory left.
    # That an inspection is killed twice, or a byte changed in three readings of a file, is rare: one job, or one in 50.
    "a job that failed says why, and it was a lost worker": """
        SELECT told FROM (
            SELECT id || ' failed as ' || coalesce(error->>'code', 'nothing') AS told, state,
                coalesce(error->>'code', '') AS code, coalesce(error->>'message', '') AS message,
                count(*) FILTER (WHERE error->>'code' IN ('inspection_failed', 'artifact_missing')) OVER () AS rare,
                count(*) OVER () AS jobs
            FROM jobs
        ) ended
        WHERE state = 'failed' AND (
            code NOT IN ('poison_job', 'worker_crash', 'oom_killed', 'inspection_failed', 'artifact_missing')
            OR message = ''
            OR (code IN ('inspection_failed', 'artifact_missing') AND rare > greatest(1, jobs / 50))
        )
    """,
    # Whoever confirms the erasing of its file, or a sweeper of it, asks as well.
    "a cancelled job was asked to end": """
        SELECT j.id || ' was asked at ' || coalesce(j.cancel_requested_at::text, 'no time') || ', requests told: '
            || count(e.number)
        FROM jobs j LEFT JOIN audit_events e ON e.resource_id = j.id AND e.action = 'job.cancel_requested'
        WHERE j.state = 'cancelled' GROUP BY j.id, j.cancel_requested_at
        HAVING j.cancel_requested_at IS NULL OR count(e.number) = 0
    """,
    "every claim is in the trail": """
        SELECT j.id || ' is of epoch ' || j.epoch || ', claims told: ' || count(e.number)
        FROM jobs j LEFT JOIN audit_events e ON e.resource_id = j.id AND e.action = 'job.claimed'
        GROUP BY j.id, j.epoch HAVING count(e.number) <> j.epoch
    """,
    "a lease ends with its job": """
        SELECT l.id || ' of ' || l.worker FROM leases l
        WHERE l.ended_at IS NULL AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.lease_id = l.id)
    """,
    "a lease that ended is charged once": """
        SELECT l.id || ' ended as ' || l.end_reason || ', charges: ' || count(u.id)
        FROM leases l LEFT JOIN usage_records u ON u.lease_id = l.id AND u.end_reason = l.end_reason
        WHERE l.ended_at IS NOT NULL GROUP BY l.id, l.end_reason HAVING count(u.id) <> 1
    """,
    "a version has its lineage": """
        SELECT 'version ' || v.id FROM adapter_versions v WHERE NOT EXISTS (
            SELECT 1 FROM lineage_edges e
            WHERE e.subject_id = v.id AND e.relation = 'produced_by' AND e.object_id = v.job_id
        )
    """,
    "whoever wants to hear of an event is told": """
        SELECT 'event ' || e.id || ', ' || e.kind || ', after ' || coalesce(d.attempts, 0) || ' attempts'
        FROM outgoing_events e LEFT JOIN outgoing_deliveries d ON d.event_id = e.id
        WHERE d.delivered_at IS NULL AND EXISTS (SELECT FROM webhook_endpoints)
    """,
    "an erasing that two people agreed to is carried out": """
        SELECT 'erasure ' || id || ' is ' || state FROM file_erasures WHERE state = 'erasing'
    """,
    "a version that learned from an erased file is revoked and erased": """
        SELECT 'version ' || v.id || ' is ' || v.state || ', erasure ' || r.id
        FROM file_erasures r JOIN lineage_edges e ON e.relation = 'trained_on' AND e.object_id = r.file_id
        JOIN adapter_versions v ON v.id = e.subject_id
        WHERE r.state = 'done' AND (v.state <> 'revoked' OR v.deleted_at IS NULL)
    """,
}

STORED = "every object that a row names is there with its digest"
CONSERVED = "every accepted request has its job"
INVENTED = "every job was asked for"
TOLD = "what is written down as told was heard"
GONE = "nothing is left of an erased file, nor of what learned from it"
WHOLE = "an adapter is that of an uninterrupted run"
ORPHANS = "no process of a run is left"
LOCKS = f"no transaction holds others up for more than {MAX_LOCK_S} s"

_REQUESTS = "SELECT metadata->>'request' AS request FROM jobs WHERE metadata ? 'request'"
_OBJECTS = """
    SELECT 'version ' || v.id AS row, 'departments/' || v.department_id || '/blobs/' || substr(f->>'digest', 8) AS key,
        f->>'digest' AS digest
    FROM adapter_versions v, jsonb_array_elements(v.manifest->'files') f WHERE v.deleted_at IS NULL
    UNION SELECT 'file ' || id, 'departments/' || department_id || '/blobs/' || substr(digest, 8), digest
    FROM files WHERE deleted_at IS NULL
    UNION SELECT a.kind || ' of ' || v.id, 'departments/' || v.department_id || '/blobs/' || substr(a.digest, 8),
        a.digest
    FROM version_attestations a JOIN adapter_versions v ON v.id = a.version_id WHERE v.deleted_at IS NULL
    UNION SELECT 'checkpoint ' || c.id, 'departments/' || c.department_id || '/checkpoints/' || c.job_id || '/'
        || c.epoch || '/' || c.step || '/' || (f->>'path'), f->>'digest'
    FROM job_checkpoints c, jsonb_array_elements(c.manifest->'files') f
    WHERE c.rejected_at IS NULL AND c.erased_at IS NULL
"""
_ADAPTERS = """
    SELECT v.job_id::text AS job, 'departments/' || v.department_id || '/blobs/' || substr(f->>'digest', 8) AS key
    FROM adapter_versions v, jsonb_array_elements(v.manifest->'files') f
    WHERE f->>'path' = :path AND v.deleted_at IS NULL
"""
_ERASED = """
    WITH done AS (SELECT * FROM file_erasures WHERE state = 'done')
    SELECT 'file ' || f.id AS row, 'departments/' || f.department_id || '/blobs/' || substr(f.digest, 8) AS key
    FROM done JOIN files f ON f.id = done.file_id
    UNION SELECT 'version ' || v.id, 'departments/' || v.department_id || '/blobs/' || substr(f->>'digest', 8)
    FROM done JOIN jobs j ON j.training_file_id = done.file_id JOIN adapter_versions v ON v.job_id = j.id,
        jsonb_array_elements(v.manifest->'files') f
    UNION SELECT a.kind || ' of ' || v.id, 'departments/' || v.department_id || '/blobs/' || substr(a.digest, 8)
    FROM done JOIN jobs j ON j.training_file_id = done.file_id JOIN adapter_versions v ON v.job_id = j.id
        JOIN version_attestations a ON a.version_id = v.id
    UNION SELECT 'checkpoint ' || c.id, 'departments/' || c.department_id || '/checkpoints/' || c.job_id || '/'
        || c.epoch || '/' || c.step || '/' || (f->>'path')
    FROM done JOIN jobs j ON j.training_file_id = done.file_id JOIN job_checkpoints c ON c.job_id = j.id,
        jsonb_array_elements(c.manifest->'files') f
"""
_DELIVERED = "SELECT event_id::text AS event FROM outgoing_deliveries WHERE delivered_at IS NOT NULL"
_UNDER_WAY = """
    SELECT (SELECT count(*) FROM file_erasures WHERE state = 'erasing')
        + (SELECT count(*) FROM outgoing_deliveries WHERE due_at IS NOT NULL)
        + (SELECT count(*) FROM outgoing_events WHERE fanned_out_at IS NULL) AS under_way
"""
_UNFINISHED = "SELECT count(*) AS unfinished FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled')"
_LEASEHOLDERS = "SELECT worker FROM leases WHERE ended_at IS NULL AND expires_at > clock_timestamp()"
_BLOCKING = """
    SELECT DISTINCT a.pid || ' in a transaction since ' || a.xact_start || ' (' || a.state || ')' AS told
    FROM pg_stat_activity waiting, unnest(pg_blocking_pids(waiting.pid)) b JOIN pg_stat_activity a ON a.pid = b
    WHERE a.xact_start < clock_timestamp() - make_interval(secs => :seconds)
    UNION
    SELECT pid || ' idle in a transaction since ' || xact_start FROM pg_stat_activity
    WHERE state LIKE 'idle in transaction%' AND datname = current_database()
        AND state_change < clock_timestamp() - make_interval(secs => :seconds)
"""


class Checker:
    """Looks at one installation. Nothing it does changes anything.

    With a connection it looks from within that one's transaction.
    """

    def __init__(self, settings: Settings, connection: Connection | None = None) -> None:
        if settings.database_admin_url is None:
            raise ValueError("the checker reads as a superuser")
        url = make_url(settings.database_admin_url.get_secret_value()).set(drivername="postgresql+psycopg")
        self.engine = create_engine(url, poolclass=NullPool)
        self._within = connection
        self._bucket, self._work_dir = settings.s3_bucket, settings.work_dir
        self._client: S3Client = boto3.session.Session().client(
            "s3", endpoint_url=settings.s3_endpoint, region_name=settings.s3_region,
            aws_access_key_id=settings.s3_access_key.get_secret_value(),
            aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
        )  # fmt: skip

    def check(self, expected: Expected) -> list[Finding]:
        """Every promise that was not kept, each breach once."""
        return [
            *self._statements(),
            *self._conserved(expected),
            *self._stored(),
            *self._gone(),
            *self._told(expected.heard),
            *self._whole(expected.steps),
            *(Finding(ORPHANS, told) for told in orphans(self._work_dir)),
            *(Finding(LOCKS, told) for told in self.blocking(MAX_LOCK_S)),
        ]

    def blocking(self, seconds: float) -> Sequence[str]:
        """Transactions that have been idle, or kept another one waiting, for so long."""
        return [str(row["told"]) for row in self._rows(_BLOCKING, seconds=seconds)]

    def unfinished(self) -> int:
        """How many jobs wait or run."""
        return int(self._rows(_UNFINISHED)[0]["unfinished"])

    def under_way(self) -> int:
        """How much there is beside jobs that has begun and not ended: erasings, and events to tell."""
        return int(self._rows(_UNDER_WAY)[0]["under_way"])

    def leaseholders(self) -> Sequence[str]:
        """The workers that hold a living lease, by the names they gave."""
        return [str(row["worker"]) for row in self._rows(_LEASEHOLDERS)]

    def _statements(self) -> Iterator[Finding]:
        for promise, statement in PROMISES.items():
            for row in self._rows(statement):
                yield Finding(promise, str(next(iter(row.values()))))

    def _conserved(self, expected: Expected) -> Iterator[Finding]:
        made = {str(row["request"]) for row in self._rows(_REQUESTS)}
        for request in sorted(expected.accepted - made):
            yield Finding(CONSERVED, f"request {request} was accepted")
        for request in sorted(made - expected.accepted - expected.tried):
            yield Finding(INVENTED, f"a job of request {request}")

    def _stored(self) -> Iterator[Finding]:
        seen: dict[str, str | None] = {}
        for row in self._rows(_OBJECTS):
            key = str(row["key"])
            if key not in seen:
                content = self._content(key)
                seen[key] = None if content is None else f"sha256:{hashlib.sha256(content).hexdigest()}"
            if seen[key] != row["digest"]:
                yield Finding(STORED, f"{row['row']}: {key} is {'gone' if seen[key] is None else 'changed'}")

    def _gone(self) -> Iterator[Finding]:
        # The same bytes in another file or version are that one's.
        named = {str(row["key"]) for row in self._rows(_OBJECTS)}
        for row in self._rows(_ERASED):
            key = str(row["key"])
            if key not in named and self._content(key) is not None:
                yield Finding(GONE, f"{row['row']}: {key} is there")

    def _told(self, heard: frozenset[str]) -> Iterator[Finding]:
        for row in self._rows(_DELIVERED):
            if row["event"] not in heard:
                yield Finding(TOLD, f"event {row['event']} was not heard of")

    def _whole(self, steps: Mapping[str, int]) -> Iterator[Finding]:
        for row in self._rows(_ADAPTERS, path=STATE):
            job = str(row["job"])
            content = self._content(str(row["key"]))
            # A missing one is the finding of another check.
            if job in steps and content is not None:
                right = chain_of(job.replace("-", ""), steps[job])
                if json.loads(content) != right:
                    yield Finding(WHOLE, f"job {job} of {steps[job]} steps came to other bytes")

    def _content(self, key: str) -> bytes | None:
        try:
            return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return None
            raise

    def _rows(self, statement: str, **parameters: object) -> Sequence[RowMapping]:
        if self._within is not None:
            return self._within.execute(text(statement), parameters).mappings().all()
        begun = time.monotonic()
        while True:
            try:
                with self.engine.connect() as connection:
                    return connection.execute(text(statement), parameters).mappings().all()
            except OperationalError:
                # The server may be one of the things that are just being broken.
                if time.monotonic() - begun > _SERVER_BACK_WITHIN_S:
                    raise
                time.sleep(0.1)

    def close(self) -> None:
        """Give back connections."""
        self._client.close()
        self.engine.dispose()


def orphans(work_dir: Path) -> list[str]:
    """Processes that still work on a plan below this folder."""
    return [
        f"process {process.pid}: {' '.join(process.info['cmdline'])[:200]}"
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and any(word.startswith(f"--plan={work_dir}/") for word in process.info["cmdline"] or ())
    ]
