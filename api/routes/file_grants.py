"""A file's content for members who are no data stewards."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.bodies import json_body
from api.deps import Authenticated, needs
from api.objects.grants import FileGrantObject, FileGrantRequest
from api.objects.shape import Deleted, Page, page_of
from domain.access import Permission
from domain.ids import IdKind, parse_id
from services import file_grants

router = APIRouter(prefix="/v1/files/{file_id}/grants", tags=["Files"])

FileId = Annotated[str, Path(description="A file's id, `file-…`.")]
GrantId = Annotated[str, Path(description="`filegrant-…`.")]


@router.post("", summary="Let a member read a file's content", dependencies=[needs(Permission.FILE_GRANT)])
def create(
    caller: Authenticated, file_id: FileId, wanted: Annotated[FileGrantRequest, json_body(FileGrantRequest)]
) -> FileGrantObject:
    """Let a trainer of the department read the content for a time; for data stewards."""
    file, user = parse_id(IdKind.FILE, file_id), parse_id(IdKind.USER, wanted.user_id)
    lasts = wanted.lasts(caller.runtime.settings.grant_max_age)
    with caller.in_department() as session:
        return FileGrantObject.of(file_grants.give(session, caller.principal, file, user=user, lasts=lasts))


@router.get("", summary="List who may read a file's content", dependencies=[needs(Permission.FILE_GRANT)])
def list_all(caller: Authenticated, file_id: FileId) -> Page[FileGrantObject]:
    """The grants in force, newest first."""
    with caller.in_department() as session:
        found = file_grants.list_all(session, caller.principal, parse_id(IdKind.FILE, file_id))
        return page_of(map(FileGrantObject.of, found))


@router.delete(
    "/{file_grant_id}", summary="End a grant of a file's content", dependencies=[needs(Permission.FILE_GRANT)]
)
def delete(caller: Authenticated, file_id: FileId, file_grant_id: GrantId) -> Deleted:
    """End it before its time, with the next request."""
    file, grant = parse_id(IdKind.FILE, file_id), parse_id(IdKind.FILE_GRANT, file_grant_id)
    with caller.in_department() as session:
        file_grants.end(session, caller.principal, file, grant)
    return Deleted(id=file_grant_id, object="file.grant")
