"""Exports of the audit trail: all of it with its seals, which can be verified; or a part, which cannot."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require
from domain.audit import AuditEvent
from domain.refusals import ExportNotWritten, NotFound
from evidence.events import FIELDS, SELECT_LIST
from evidence.seals import as_json
from models_db.audit import AuditArchive, AuditExport, AuditSeal
from services import audit
from services.checkpoints import seal_of
from services.ocsf import api_activity

_ROWS_AT_ONCE = 2000
_SEALS_AT_ONCE = 200
_CONDITION = """
    (CAST(:since AS timestamptz) IS NULL OR occurred_at >= :since)
    AND (CAST(:until AS timestamptz) IS NULL OR occurred_at < :until)
    AND (CAST(:departments AS uuid[]) IS NULL OR department_id = ANY (:departments))
    AND (CAST(:actions AS text[]) IS NULL OR action = ANY (:actions))
"""
_EVENTS = text(f"SELECT {SELECT_LIST} FROM audit_events WHERE {_CONDITION} ORDER BY number")  # noqa: S608 - fixed text
_COUNT = text(f"SELECT count(*) FROM (SELECT FROM audit_events WHERE {_CONDITION} LIMIT :limit) counted")  # noqa: S608


class ExportFormat(StrEnum):
    """How it is written. NDJSON alone can be verified; OCSF is API Activity, one a line."""

    NDJSON = "ndjson"
    CSV = "csv"
    OCSF = "ocsf"


class ExportState(StrEnum):
    """How far an export in the background is."""

    PENDING = "pending"
    DONE = "done"


@dataclass(frozen=True)
class Scope:
    """Which events; None: all. until is not among them."""

    since: datetime | None = None
    until: datetime | None = None
    departments: Sequence[UUID] | None = None
    actions: Sequence[str] | None = None

    def as_json(self) -> dict[str, Any]:
        """What restricts it, as exports and the trail say it."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return dict(json.loads(json.dumps(said, default=str)))

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "Scope":
        """From the same."""
        moments = {name: datetime.fromisoformat(said[name]) for name in ("since", "until") if name in said}
        departments = [UUID(each) for each in said["departments"]] if "departments" in said else None
        return cls(**moments, departments=departments, actions=said.get("actions"))


def begin(
    session: Session, principal: Principal, file_format: ExportFormat, scope: Scope, *, max_rows: int
) -> AuditExport | None:
    """Record that the trail is exported, in an auditor's session; the export in the background where it is so large.

    None where its lines can be taken at once.
    """
    require(principal, Permission.AUDIT_EXPORT)
    rows: int = session.execute(_COUNT, asdict(scope) | {"limit": max_rows + 1}).scalar_one()
    export = None
    if rows > max_rows:
        export = AuditExport(format=file_format, scope=scope.as_json(), state=ExportState.PENDING)
        session.add(export)
        session.flush()
        session.refresh(export)
    details = {"format": file_format, "scope": scope.as_json(), "rows": rows, "in_background": export is not None}
    audit.record(
        session, principal, AuditEvent.AUDIT_EXPORTED, details=details,
        resource=None if export is None else ("audit_export", export.id),
    )  # fmt: skip
    return export


def get(session: Session, principal: Principal, export: UUID) -> AuditExport:
    """One export in the background. Raises NotFound."""
    require(principal, Permission.AUDIT_EXPORT)
    found = session.get(AuditExport, export)
    if found is None:
        raise NotFound("No such export.")
    return found


def collect(session: Session, principal: Principal, export: UUID) -> AuditExport:
    """One that is written, to be handed out; that it is, is recorded. Raises NotFound, ExportNotWritten."""
    found = get(session, principal, export)
    if found.state != ExportState.DONE:
        raise ExportNotWritten("This export is not written yet: ask again in a minute.")
    audit.record(
        session, principal, AuditEvent.AUDIT_EXPORTED, resource=("audit_export", export),
        details={"format": found.format, "scope": found.scope, "rows": found.rows, "digest": found.digest},
    )  # fmt: skip
    return found


def next_pending(session: Session) -> AuditExport | None:
    """The oldest export that waits to be written. Two who write the same one store two objects, and one is named."""
    statement = select(AuditExport).where(AuditExport.state == ExportState.PENDING).order_by(AuditExport.id)
    return session.scalars(statement.limit(1)).one_or_none()


def written(session: Session, export: UUID, *, rows: int, digest: str, size_bytes: int) -> None:
    """Say that an export's bytes are stored, unless somebody did."""
    statement = update(AuditExport).where(AuditExport.id == export, AuditExport.state == ExportState.PENDING)
    session.execute(statement.values(state=ExportState.DONE, rows=rows, digest=digest, bytes=size_bytes))


def lines(session: Session, file_format: ExportFormat, scope: Scope) -> Iterator[str]:
    """The export's lines, each with its end, in an auditor's session.

    Seals before events: what is sealed meanwhile is then among the events, and not the other way round.
    """
    restricted = scope.as_json()
    if file_format is ExportFormat.NDJSON:
        yield _line({"kind": "tsugiki.audit.export/1", "filters": restricted})
        if not restricted:
            yield from (_line({"seal": each}) for each in _seals(session))
    if file_format is ExportFormat.CSV:
        yield _csv(FIELDS)
    for row in session.execute(_EVENTS.execution_options(yield_per=_ROWS_AT_ONCE), asdict(scope)):
        event = dict(zip(FIELDS, row, strict=True))
        if file_format is ExportFormat.CSV:
            yield _csv([_cell(value) for value in row])
        elif file_format is ExportFormat.OCSF:
            yield _line(api_activity(event))
        else:
            yield _line({"event": event})
    if file_format is ExportFormat.NDJSON and not restricted:
        yield from (_line({"archive": each}) for each in _archives(session))


def _seals(session: Session) -> Iterator[dict[str, Any]]:
    statement = select(AuditSeal).order_by(AuditSeal.id).execution_options(yield_per=_SEALS_AT_ONCE)
    for row in session.scalars(statement):
        # The digest it is said to have, not the one it should have: that is for the verifier to say.
        yield as_json(seal_of(row)) | {"digest": row.digest.hex()}
        session.expunge(row)


def _archives(session: Session) -> Iterator[dict[str, Any]]:
    for row in session.scalars(select(AuditArchive).order_by(AuditArchive.partition)):
        numbers = [[part.lower, part.upper] for part in row.numbers]
        yield {
            "partition": row.partition, "numbers": numbers, "events": row.events, "leaves_sha256": row.leaves_sha256,
        }  # fmt: skip


def _line(said: Mapping[str, Any]) -> str:
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")) + "\n"


def _csv(cells: Sequence[Any]) -> str:
    written_to = io.StringIO()
    csv.writer(written_to, lineterminator="\n").writerow(cells)
    return written_to.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
