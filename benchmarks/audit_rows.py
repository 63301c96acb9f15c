"""Audit events by the million: departments of unequal size, adapters and their versions, people who work on them.

Written by one statement a batch, as a superuser, so as to have years in minutes. What is written is what `audit_append`
writes: the database gives number and transaction; times are spread over the months, which `audit_append` would not do.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

# A batch is one transaction.
_INSERT = sql.SQL("""
INSERT INTO audit_events (
    xid, occurred_at, department_id, actor_type, actor_id, actor_key_id, auth_method, roles, action, outcome,
    reason_code, resource_type, resource_id, refs, request_id, source_ip, user_agent_hash, job_epoch, object_sha256,
    details
)
SELECT pg_current_xact_id()::text::bigint, %(start)s + (i - 1) * %(step)s, md5('department' || department)::uuid,
    'user', md5('user' || actor)::uuid, md5('key' || actor)::uuid, 'api_key', ARRAY['trainer', 'data_steward'], action,
    CASE action WHEN 'access.denied' THEN 'denied' WHEN 'job.failed' THEN 'failure' ELSE 'success' END,
    CASE action WHEN 'access.denied' THEN 'permission_denied' WHEN 'job.failed' THEN 'out_of_memory' END,
    CASE split_part(action, '.', 1) WHEN 'job' THEN 'job' WHEN 'file' THEN 'file' WHEN 'access' THEN NULL
        WHEN 'member' THEN 'user' WHEN 'key' THEN 'api_key' ELSE 'adapter_version' END,
    CASE split_part(action, '.', 1) WHEN 'job' THEN md5('job' || version)::uuid WHEN 'access' THEN NULL
        WHEN 'file' THEN md5('file' || version %% %(files)s)::uuid WHEN 'member' THEN md5('user' || version)::uuid
        WHEN 'key' THEN md5('key' || version)::uuid ELSE md5('version' || version)::uuid END,
    CASE split_part(action, '.', 1)
        WHEN 'job' THEN ARRAY[md5('file' || version %% %(files)s)::uuid, md5('base')::uuid]
        WHEN 'adapter' THEN ARRAY[md5('job' || version)::uuid, md5('adapter' || version %% %(adapters)s)::uuid,
            md5('file' || version %% %(files)s)::uuid]
        WHEN 'alias' THEN ARRAY[md5('adapter' || version %% %(adapters)s)::uuid] ELSE '{}'::uuid[] END,
    'req_' || md5('request' || i), '10.0.' || actor %% 256 || '.' || i %% 256, left(md5('agent' || actor), 16),
    CASE split_part(action, '.', 1) WHEN 'job' THEN 1 END, CASE split_part(action, '.', 1)
        WHEN 'adapter' THEN 'sha256:' || md5('version' || version) || md5('weights' || version) END,
    CASE split_part(action, '.', 1) WHEN 'alias' THEN jsonb_build_object('alias', 'production', 'number', i %% 40)
        WHEN 'adapter' THEN jsonb_build_object('number', version %% 40, 'epoch', 1)
        WHEN 'member' THEN '{"before": ["viewer"], "after": ["trainer"]}'
        WHEN 'access' THEN '{"route": "/v1/files/{file_id}", "method": "DELETE"}' ELSE '{}' END
FROM (
    SELECT i, version, (hashint8extended(i, 3) & 1073741823) %% %(people)s AS actor,
        -- The square of an even spread: a quarter of the departments have half of all events.
        floor(%(departments)s * (((hashint8extended(version, 4) & 1048575) / 1048576.0) ^ 2))::int AS department,
        (%(actions)s::text[])[1 + (hashint8extended(i, 5) & 1073741823) %% 100] AS action
    FROM (
        SELECT i, (hashint8extended(i, 2) & 1073741823) %% %(versions)s AS version
        FROM generate_series(%(first)s::bigint, %(last)s::bigint) i
    ) numbered
) drawn
""")
_SHARES = {
    "job.submitted": 20, "job.claimed": 10, "job.succeeded": 8, "job.failed": 4, "file.created": 4, "file.read": 4,
    "adapter.version.registered": 10, "adapter.version.downloaded": 20, "adapter.version.approved": 5,
    "alias.moved": 6, "member.changed": 3, "key.created": 3, "access.denied": 3,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """How many events over how many months to now, of how many departments; the rest is in proportion."""

    events: int
    months: int
    departments: int
    batch: int

    @property
    def start(self) -> datetime:
        """The first event's moment: that many months of 30 days before the last full hour."""
        return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=30 * self.months)

    @property
    def step(self) -> timedelta:
        """Between two events."""
        return timedelta(days=30 * self.months) / self.events


class Writer:
    """Writes the events of a shape, a batch after the other."""

    def __init__(self, connection: "psycopg.Connection[Any]", shape: Shape) -> None:
        self._connection, self._shape = connection, shape
        self.written = 0
        self._start = shape.start
        actions = [action for action, share in _SHARES.items() for _ in range(share)]
        versions = max(50, shape.events // 50)
        self.drawn_from = {
            "actions": actions, "versions": versions, "files": max(20, versions // 4),
            "adapters": max(10, versions // 20), "people": max(20, shape.events // 2000),
            "departments": shape.departments,
        }  # fmt: skip
        connection.execute("SELECT audit_ensure_partitions(%s, 3)", [self._start])
        connection.commit()

    @property
    def is_half(self) -> bool:
        """Whether the last batch went beyond the half of all events."""
        half = self._shape.events // 2
        return self.written - self._shape.batch < half <= self.written

    def write(self) -> datetime | None:
        """The next batch, committed; the moment of its last event. None where all are written."""
        first, last = self.written + 1, min(self.written + self._shape.batch, self._shape.events)
        if first > last:
            return None
        times = {"start": self._start, "step": self._shape.step, "first": first, "last": last}
        self._connection.execute(_INSERT, self.drawn_from | times)
        # A number that was taken and rolled back, as there are in life.
        self._connection.execute("SELECT nextval(pg_get_serial_sequence('audit_events', 'number'))")
        self._connection.commit()
        self.written = last
        return self._start + (last - 1) * self._shape.step
