"""Files: uploaded in one request, checked row by row, kept by digest."""

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import StreamingResponse

from api.deps import Authenticated, Caller, needs
from api.objects.files import FileObject
from api.objects.shape import Deleted, Page, page_of
from api.pages import After
from api.uploads import Form, Spool, open_spool, receive_form
from domain.access import Permission, require
from domain.data_classes import DataClass
from domain.ids import IdKind, parse_id
from domain.refusals import Invalid, MissingField, UnknownField
from domain.rows import RowsReport, check_rows
from models_db.files import File
from services import blobs, files
from services.blobs import BytesErased
from storage.keys import Key

router = APIRouter(prefix="/v1/files", tags=["Files"])

FileId = Annotated[str, Path(description="A file's id, `file-…`.")]
PURPOSE = "fine-tune"
# An erasing of equal bytes takes a request and a commit.
_TRIES, _RETRY_AFTER_S = 20, 0.1
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": 'JSON Lines, a conversation a line: `{"messages": [...]}`.',
                        },
                        "purpose": {"type": "string", "enum": [PURPOSE], "description": "What it is for."},
                        "data_class": {
                            "type": "string",
                            "enum": [data_class.value for data_class in DataClass],
                            "description": "How confidential the rows are; as the department says when left out. Ours.",
                        },
                    },
                }
            }
        },
    }
}


async def _received(request: Request, caller: Authenticated) -> AsyncIterator[Form]:
    """The form, its file in a spool; who may not upload is told before the body is read."""
    require(caller.principal, Permission.FILE_UPLOAD)
    _ = caller.department
    settings = caller.runtime.settings
    with open_spool(settings.work_dir, max_bytes=settings.max_file_bytes) as spool:
        yield await receive_form(request, spool)


@router.post("", summary="Upload a file", dependencies=[needs(Permission.FILE_UPLOAD)], openapi_extra=_FORM)
def create(caller: Authenticated, form: Annotated[Form, Depends(_received)]) -> FileObject:
    """Upload the rows to train, validate or evaluate on. Every row is checked; a file with a bad one is refused whole.

    The first problem is in `param` as `file:line`, up to 100 in `details`.
    """
    _check_fields(form)
    spool, filename, data_class = form.spool, form.filename or "", _data_class(form)
    report = check_rows(spool.stream, filename)
    with caller.in_department() as session:
        files.check_room(session, caller.principal, spool.digest, spool.size_bytes, data_class=data_class)
    for _ in range(_TRIES - 1):
        with suppress(BytesErased):
            return FileObject.of(_stored(caller, spool, filename, report=report, data_class=data_class))
        time.sleep(_RETRY_AFTER_S)
    return FileObject.of(_stored(caller, spool, filename, report=report, data_class=data_class))


def _stored(caller: Caller, spool: Spool, filename: str, *, report: RowsReport, data_class: DataClass | None) -> File:
    """Store the bytes, then enter them: an object without a row is waste; a row without its object is a lie.

    Raises BytesErased where equal bytes are being erased at this moment.
    """
    with caller.in_department() as session:
        stored_since = blobs.clock(session)
    spool.stream.seek(0)
    caller.runtime.objects.put(Key.blob(caller.department, spool.digest), spool.stream, spool.digest, spool.size_bytes)
    with caller.in_department() as session:
        return files.register(
            session,
            caller.principal,
            filename=filename,
            purpose=PURPOSE,
            digest=spool.digest,
            size_bytes=spool.size_bytes,
            rows=report,
            stored_since=stored_since,
            data_class=data_class,
        )


def _check_fields(form: Form) -> None:
    if unknown := sorted(set(form.fields) - {"purpose", "data_class"}):
        raise UnknownField("A field is not supported here.", param=unknown[0][:64])
    if "purpose" not in form.fields:
        raise MissingField("purpose is missing.", param="purpose")
    if form.fields["purpose"] != PURPOSE:
        raise Invalid(f"The one purpose here is `{PURPOSE}`.", param="purpose")


def _data_class(form: Form) -> DataClass | None:
    given = form.fields.get("data_class")
    if given is None:
        return None
    if given not in set(DataClass):
        raise Invalid(f"A data class is one of {', '.join(DataClass)}.", param="data_class")
    return DataClass(given)


@router.get("", summary="List files", dependencies=[needs(Permission.FILE_READ)])
def list_page(
    caller: Authenticated,
    *,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Files a page.")] = 10_000,
    order: Annotated[Literal["asc", "desc"], Query(description="By the time of upload.")] = "desc",
    purpose: Annotated[str | None, Query(description="Only files of this purpose.")] = None,
) -> Page[FileObject]:
    """The department's files, newest first."""
    cursor = None if after is None else parse_id(IdKind.FILE, after)
    with caller.in_department() as session:
        found, has_more = files.list_page(
            session, caller.principal, after=cursor, limit=limit, ascending=order == "asc", purpose=purpose
        )
        return page_of(map(FileObject.of, found), has_more=has_more)


@router.get("/{file_id}", summary="Look at a file", dependencies=[needs(Permission.FILE_READ)])
def retrieve(caller: Authenticated, file_id: FileId) -> FileObject:
    """A file's metadata."""
    with caller.in_department() as session:
        return FileObject.of(files.get(session, caller.principal, parse_id(IdKind.FILE, file_id)))


@router.delete("/{file_id}", summary="Delete a file", dependencies=[needs(Permission.FILE_DELETE)])
def delete(caller: Authenticated, file_id: FileId) -> Deleted:
    """Delete a file and its bytes; what was trained on it keeps its lineage.

    Refused while a job that is not finished needs it.
    """
    with caller.in_department() as session:
        digest = files.delete(session, caller.principal, parse_id(IdKind.FILE, file_id))
    caller.erase_blobs([digest])
    return Deleted(id=file_id, object="file")


@router.get(
    "/{file_id}/content",
    summary="Read a file's content",
    dependencies=[needs(Permission.FILE_READ_CONTENT)],
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "The bytes as uploaded."}},
)
def content(caller: Authenticated, file_id: FileId) -> StreamingResponse:
    """The bytes as they were uploaded; for data stewards. Every reading is recorded."""
    with caller.in_department() as session:
        file = files.open_content(session, caller.principal, parse_id(IdKind.FILE, file_id))
    chunks = caller.runtime.objects.stream(Key.blob(caller.department, file.digest), file.digest)
    headers = {"content-length": str(file.bytes), "content-disposition": "attachment"}
    return StreamingResponse(chunks, media_type="application/octet-stream", headers=headers)
