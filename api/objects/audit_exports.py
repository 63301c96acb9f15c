"""Exports of the audit trail."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from api.objects.shape import Body, Identified, seconds
from api.queries import UnixSeconds, keys_of
from domain.ids import IdKind, public_id
from models_db.audit import AuditExport
from services.audit_exports import ExportFormat, ExportState, Scope


class ExportBody(Body):
    """What to export. Without a restriction it is all of the trail, and NDJSON then has what proves it."""

    format: ExportFormat = Field(default=ExportFormat.NDJSON, description="`ndjson`, `csv`, or `ocsf`: API Activity.")
    since: UnixSeconds | None = Field(default=None, description="In this second or after.")
    until: UnixSeconds | None = Field(default=None, description="Before this second.")
    project_ids: list[str] | None = Field(default=None, description="In which departments.")
    event_types: list[str] | None = Field(default=None, description="What happened.")

    def scope(self) -> Scope:
        """In the words of the service."""
        return Scope(
            since=None if self.since is None else datetime.fromtimestamp(self.since, UTC),
            until=None if self.until is None else datetime.fromtimestamp(self.until, UTC),
            departments=None if self.project_ids is None else keys_of(self.project_ids),
            actions=self.event_types,
        )


class ExportObject(Identified):
    """An export that is written in the background."""

    id: str = Field(description="`audit_export-…`.")
    object: Literal["audit.export"] = Field(default="audit.export", description="Always `audit.export`.")
    created_at: int = Field(description="When it was asked for, in seconds since 1970.")
    status: ExportState = Field(description="`pending`, or `done`: its content can be had.")
    format: ExportFormat = Field(description="How it is written; the content is compressed with gzip.")
    scope: dict[str, Any] = Field(description="What restricts it.")
    rows: int | None = Field(description="Its lines, once it is written.")
    bytes: int | None = Field(description="Its size, once it is written.")
    digest: str | None = Field(description="Its content's digest, once it is written.")

    @classmethod
    def of(cls, export: AuditExport) -> "ExportObject":
        """From its row."""
        return cls(
            id=public_id(IdKind.AUDIT_EXPORT, export.id),
            created_at=seconds(export.created_at),
            status=ExportState(export.state),
            format=ExportFormat(export.format),
            scope=export.scope,
            rows=export.rows,
            bytes=export.bytes,
            digest=export.digest,
        )
