"""Questions that auditors ask, saved: each by its name, with what it needs to be told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require
from domain.audit import AuditEvent
from domain.refusals import DepartmentNeeded, MissingField, NotFound
from services import audit

MAX_ROWS = 1000
Cell = str | int | UUID | datetime | None


class Parameter(StrEnum):
    """What a question can ask about."""

    FILE = "file"
    VERSION = "version"
    ADAPTER = "adapter"
    ACTOR = "actor"
    REQUEST = "request"


class Source(StrEnum):
    """Where the answer is read. DOMAIN: the department's own tables, which the trail then proves."""

    TRAIL = "trail"
    DOMAIN = "domain"


@dataclass(frozen=True)
class SavedQuery:
    """One question. days is how far it looks back where the caller does not say; None: to the beginning."""

    name: str
    question: str
    sql: str
    source: Source = Source.TRAIL
    needs: Parameter | None = None
    days: int | None = None


@dataclass(frozen=True)
class Asked:
    """What the caller told: the subject's id, or the request's; in which department, and how many days back."""

    subject: UUID | str | None = None
    department: UUID | None = None
    days: int | None = None


@dataclass(frozen=True)
class Answer:
    """A table. is_whole: there were no more rows than these."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    is_whole: bool


_EVENT = (
    "occurred_at, id AS event, department_id AS department, actor_id AS actor, action, outcome, reason_code AS reason"
)
_ABOUT = "resource_type, resource_id AS resource"
_HERE = "(CAST(:department AS uuid) IS NULL OR department_id = :department)"
_SINCE = "occurred_at >= :since"
_NEWEST = "ORDER BY number DESC LIMIT :rows"
_RIGHTS = (
    "'member.added', 'member.changed', 'member.removed', 'service_account.created', 'service_account.deleted', "
    "'key.created', 'key.revoked', 'role_grant.granted', 'role_grant.withdrawn', 'breakglass.opened', "
    "'breakglass.closed', 'file.granted', 'file.grant_ended', 'share.approved', 'share.ended'"
)

# ruff: noqa: S608 - fixed text, in parts
_ALL = (
    SavedQuery(
        "trained_on_file", "Who trained on this file, ever?",
        "SELECT occurred_at, id AS event, department_id AS department, actor_id AS actor, resource_id AS job "
        f"FROM audit_events WHERE refs @> ARRAY[:subject] AND action = 'job.submitted' AND {_HERE} {_NEWEST}",
        needs=Parameter.FILE,
    ),
    SavedQuery(
        "downloads_of_version", "Who downloaded this version?",
        f"SELECT {_EVENT}, source_ip FROM audit_events WHERE resource_id = :subject AND {_SINCE} AND {_HERE} "
        f"AND action IN ('adapter.version.downloaded', 'adapter.version.download_completed') {_NEWEST}",
        needs=Parameter.VERSION, days=90,
    ),
    SavedQuery(
        "alias_moves", "When were this adapter's aliases moved, by whom, to which version?",
        "SELECT occurred_at, id AS event, department_id AS department, actor_id AS actor, "
        "details ->> 'alias' AS alias, resource_id AS version, details ->> 'from' AS from_number, "
        "details ->> 'number' AS to_number FROM audit_events WHERE refs @> ARRAY[:subject] "
        f"AND action IN ('alias.moved', 'alias.withdrawn') AND {_HERE} {_NEWEST}",
        needs=Parameter.ADAPTER,
    ),
    SavedQuery(
        "acts_of", "What did this person or robot do, with whichever key?",
        f"SELECT {_EVENT}, {_ABOUT} FROM audit_events WHERE actor_id = :subject AND {_SINCE} AND {_HERE} {_NEWEST}",
        needs=Parameter.ACTOR, days=30,
    ),
    SavedQuery(
        "not_done", "What was denied, or failed?",
        f"SELECT {_EVENT}, {_ABOUT} FROM audit_events WHERE outcome <> 'success' AND {_SINCE} AND {_HERE} {_NEWEST}",
        days=7,
    ),
    SavedQuery(
        "story_of_version", "What happened to this version, its job, its adapter and its data?",
        # Of what is named with its registration: each of those things' own events, and what named the version.
        "WITH told AS (SELECT refs FROM audit_events WHERE resource_id = :subject "
        "AND action IN ('adapter.version.registered', 'adapter.version.imported') ORDER BY number LIMIT 1), "
        "about AS (SELECT ARRAY(SELECT unnest(refs) FROM told) || CAST(:subject AS uuid) AS ids), "
        "events AS (SELECT * FROM audit_events WHERE resource_id = ANY (ARRAY(SELECT unnest(ids) FROM about)) "
        "UNION SELECT * FROM audit_events WHERE refs @> ARRAY[:subject]) "
        f"SELECT {_EVENT}, {_ABOUT} FROM events WHERE {_HERE} ORDER BY number DESC LIMIT least(:rows, 200)",
        needs=Parameter.VERSION,
    ),
    SavedQuery(
        "own_approvals", "Did anybody approve what they submitted, or asked for? None is the answer that proves it.",
        "SELECT 'decision' AS told_by, version_id AS version, id AS record, approver_id AS actor, created_at AS at "
        "FROM approval_decisions WHERE approver_id IN (submitter_id, requester_id) "
        "UNION ALL SELECT 'trail', v.id, e.id, e.actor_id, e.occurred_at FROM audit_events e "
        "JOIN adapter_versions v ON v.id = e.resource_id AND v.submitter_id IN (e.actor_id, e.on_behalf_of) "
        "WHERE e.action IN ('adapter.version.approved', 'adapter.version.approval_given') "
        f"AND e.{_SINCE} AND e.department_id = :department LIMIT :rows",
        source=Source.DOMAIN,
    ),
    SavedQuery(
        "waiting_approvals", "Which requests to approve have waited for so long?",
        "SELECT id AS request, version_id AS version, submitter_id AS submitter, requester_id AS requester, "
        "required, created_at, expires_at FROM approval_requests WHERE state = 'pending' AND created_at < :since "
        "ORDER BY id LIMIT :rows",
        source=Source.DOMAIN, days=7,
    ),
    SavedQuery(
        "emergencies", "Which accesses in an emergency were asked for, opened and closed?",
        f"SELECT {_EVENT}, {_ABOUT}, details FROM audit_events WHERE action IN "
        f"('breakglass.requested', 'breakglass.opened', 'breakglass.closed') AND {_SINCE} AND {_HERE} {_NEWEST}",
        days=365,
    ),
    SavedQuery(
        "rights", "Who was given which right, or lost it?",
        f"SELECT {_EVENT}, {_ABOUT}, details, before, after FROM audit_events WHERE action IN ({_RIGHTS}) "
        f"AND {_SINCE} AND {_HERE} {_NEWEST}",
        days=90,
    ),
    SavedQuery(
        "holders_of_file", "Which versions descend from this file, and who downloaded them?",
        "WITH RECURSIVE descendants AS ("
        "SELECT subject_id AS id FROM lineage_edges WHERE object_id = :subject "
        "UNION SELECT e.subject_id FROM lineage_edges e JOIN descendants d ON e.object_id = d.id) "
        "SELECT v.id AS version, v.model_name AS model, v.state, e.occurred_at, e.id AS event, e.actor_id AS actor, "
        "e.source_ip FROM descendants d JOIN adapter_versions v ON v.id = d.id LEFT JOIN audit_events e "
        f"ON e.resource_id = v.id AND e.action = 'adapter.version.downloaded' AND e.{_SINCE} "
        "ORDER BY v.id, e.number DESC LIMIT :rows",
        source=Source.DOMAIN, needs=Parameter.FILE, days=90,
    ),
    SavedQuery(
        "counts", "How often did what happen, and how did it end?",
        "SELECT department_id AS department, action, outcome, count(*) AS events FROM audit_events "
        f"WHERE {_SINCE} AND {_HERE} GROUP BY department_id, action, outcome ORDER BY 1, 2, 3 LIMIT :rows",
        days=30,
    ),
    SavedQuery(
        "of_request", "What did this request do?",
        f"SELECT {_EVENT}, {_ABOUT} FROM audit_events WHERE request_id = :subject AND {_HERE} {_NEWEST}",
        needs=Parameter.REQUEST,
    ),
    SavedQuery(
        "unused_keys", "Which keys were not used for so long?",
        "SELECT id AS key, coalesce(user_id, service_account_id) AS owner, created_at, last_used_at, expires_at "
        "FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) "
        "AND coalesce(last_used_at, created_at) < :since ORDER BY id LIMIT :rows",
        source=Source.DOMAIN, days=60,
    ),
    SavedQuery(
        "audit_reads", "Who read, searched or exported the trail?",
        f"SELECT {_EVENT}, details FROM audit_events WHERE action IN ('audit.queried', 'audit.exported') "
        f"AND {_SINCE} AND {_HERE} {_NEWEST}",
        days=30,
    ),
)  # fmt: skip
QUERIES: Mapping[str, SavedQuery] = MappingProxyType({query.name: query for query in _ALL})


def find(name: str) -> SavedQuery:
    """The question of that name. Raises NotFound."""
    if (query := QUERIES.get(name)) is None:
        raise NotFound("There is no saved query of that name.")
    return query


def ask(session: Session, principal: Principal, query: SavedQuery, asked: Asked) -> Answer:
    """Answer it. The trail's in an auditor's or a department's session, the others in a department's.

    Raises MissingField where the question's subject was not told, DepartmentNeeded. The asking is itself recorded.
    """
    if not principal.may(Permission.AUDIT_READ_ALL):
        require(principal, Permission.AUDIT_READ_DEPARTMENT)
    if query.needs is not None and asked.subject is None:
        raise MissingField(f"This question needs `{query.needs}`.", param=query.needs)
    if query.source is Source.DOMAIN and asked.department is None:
        raise DepartmentNeeded("This question is one department's: choose it.", param="OpenAI-Project")
    days = asked.days or query.days
    # No month is older than the partitions' first; a plan that knows the time looks at few of them.
    since = datetime(2000, 1, 1, tzinfo=UTC) if days is None else _now(session) - timedelta(days=days)
    parameters = {"subject": asked.subject, "department": asked.department, "since": since, "rows": MAX_ROWS + 1}
    found = session.execute(text(query.sql), parameters)
    columns = tuple(found.keys())
    rows = [tuple(row) for row in found]
    audit.record(session, principal, AuditEvent.AUDIT_QUERIED, details={"query": query.name, "rows": len(rows)})
    return Answer(columns, rows[:MAX_ROWS], is_whole=len(rows) <= MAX_ROWS)


def _now(session: Session) -> datetime:
    moment: datetime = session.execute(text("SELECT now()")).scalar_one()
    return moment
