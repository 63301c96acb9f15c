"""Exports of the audit trail: at once, or in the background where there is too much for one answer."""

from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import IO, Annotated

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse, Response, StreamingResponse

from api.deps import Authenticated, needs
from api.objects.audit_exports import ExportBody, ExportObject
from domain.access import Permission
from domain.ids import IdKind, parse_id
from services import audit_exports
from services.audit_exports import ExportFormat
from storage.keys import Key

router = APIRouter(prefix="/v1/audit/exports", tags=["Audit"], dependencies=[needs(Permission.AUDIT_EXPORT)])

ExportId = Annotated[str, Path(description="An export's id, `audit_export-…`.")]
_TYPES = {
    ExportFormat.NDJSON: "application/x-ndjson", ExportFormat.OCSF: "application/x-ndjson",
    ExportFormat.CSV: "text/csv",
}  # fmt: skip
_CHUNK_BYTES = 1 << 20


@router.post(
    "",
    summary="Export the audit trail",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/x-ndjson": {}, "text/csv": {}}, "description": "The events, one a line."},
        202: {"model": ExportObject, "description": "Too many for an answer: written in the background."},
    },
)
def create(caller: Authenticated, body: ExportBody) -> Response:
    """All events, or those of some time, departments or types; for auditors. The export is itself recorded."""
    settings = caller.runtime.settings
    with caller.runtime.auditor() as session:
        export = audit_exports.begin(
            session, caller.principal, body.format, body.scope(), max_rows=settings.audit_export_max_rows
        )
    if export is not None:
        return JSONResponse(ExportObject.of(export).model_dump(), status_code=202)
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    # Written whole first: a transaction must not wait for a slow reader.
    spool = TemporaryFile("w+b", dir=settings.work_dir)  # noqa: SIM115 - closed with the answer
    with caller.runtime.auditor() as session:
        for line in audit_exports.lines(session, body.format, body.scope()):
            spool.write(line.encode())
    headers = {"content-length": str(spool.tell()), "content-disposition": "attachment"}
    return StreamingResponse(_chunks(spool), media_type=_TYPES[body.format], headers=headers)


@router.get("/{export_id}", summary="Look at an export")
def retrieve(caller: Authenticated, export_id: ExportId) -> ExportObject:
    """How far an export in the background is."""
    with caller.runtime.auditor() as session:
        export = audit_exports.get(session, caller.principal, parse_id(IdKind.AUDIT_EXPORT, export_id))
        return ExportObject.of(export)


@router.get(
    "/{export_id}/content",
    summary="Read an export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/gzip": {}}, "description": "The lines, compressed."}},
)
def content(caller: Authenticated, export_id: ExportId) -> StreamingResponse:
    """The written export. Every reading is recorded."""
    with caller.runtime.auditor() as session:
        export = audit_exports.collect(session, caller.principal, parse_id(IdKind.AUDIT_EXPORT, export_id))
    digest = str(export.digest)
    chunks = caller.runtime.objects.stream(Key.audit_export(export.id, digest), digest)
    headers = {"content-length": str(export.bytes), "content-disposition": "attachment"}
    return StreamingResponse(chunks, media_type="application/gzip", headers=headers)


def _chunks(spool: IO[bytes]) -> Iterator[bytes]:
    with spool:
        spool.seek(0)
        while chunk := spool.read(_CHUNK_BYTES):
            yield chunk
