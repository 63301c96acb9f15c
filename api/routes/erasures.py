"""Erasing a file with what learned from it: a dry run, a second person, and what became of it."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.bodies import json_body
from api.deps import Authenticated, needs
from api.objects.erasures import ErasureConfirmation, ErasureObject, ErasureRequest
from api.objects.shape import Page, page_of
from api.pages import After
from domain.access import Permission
from domain.ids import IdKind, parse_id
from services import file_erasures

router = APIRouter(prefix="/v1", tags=["Erasures"])

ErasureId = Annotated[str, Path(description="An erasure's id, `erasure-…`.")]


@router.post(
    "/files/{file_id}/erasures", summary="Ask for a file to be erased", dependencies=[needs(Permission.FILE_ERASE)]
)
def create(
    caller: Authenticated,
    file_id: Annotated[str, Path(description="A file's id, `file-…`.")],
    wanted: Annotated[ErasureRequest, json_body(ErasureRequest)],
) -> ErasureObject:
    """A dry run: the answer lists everything that descends from it. Nothing happens until somebody else agrees."""
    with caller.in_department() as session:
        asked = file_erasures.request(
            session,
            caller.principal,
            parse_id(IdKind.FILE, file_id),
            reason=wanted.reason,
            running_jobs=wanted.running_jobs,
        )
        return ErasureObject.of(asked)


@router.get("/erasures", summary="List erasures", dependencies=[needs(Permission.LINEAGE_READ)])
def list_page(
    caller: Authenticated,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Erasures a page.")] = 20,
) -> Page[ErasureObject]:
    """The department's, newest first."""
    cursor = None if after is None else parse_id(IdKind.FILE_ERASURE, after)
    with caller.in_department() as session:
        found, has_more = file_erasures.list_page(session, caller.principal, after=cursor, limit=limit)
        return page_of(map(ErasureObject.of, found), has_more=has_more)


@router.get("/erasures/{erasure_id}", summary="Look at an erasure", dependencies=[needs(Permission.LINEAGE_READ)])
def retrieve(caller: Authenticated, erasure_id: ErasureId) -> ErasureObject:
    """One that waits for its confirmation shows what descends from the file now."""
    with caller.in_department() as session:
        erasure = parse_id(IdKind.FILE_ERASURE, erasure_id)
        return ErasureObject.of(file_erasures.get(session, caller.principal, erasure))


@router.post(
    "/erasures/{erasure_id}/confirm", summary="Confirm an erasure", dependencies=[needs(Permission.FILE_ERASE_CONFIRM)]
)
def confirm(
    caller: Authenticated,
    erasure_id: ErasureId,
    agreed: Annotated[ErasureConfirmation, json_body(ErasureConfirmation)],
) -> ErasureObject:
    """Agree to what the dry run of that digest shows, as an admin who is somebody else.

    From now on the file and what learned from it are handed out to nobody; the objects are gone within a sweep.
    """
    with caller.in_department() as session:
        erasure = parse_id(IdKind.FILE_ERASURE, erasure_id)
        return ErasureObject.of(file_erasures.confirm(session, caller.principal, erasure, digest=agreed.digest))


@router.post(
    "/erasures/{erasure_id}/withdraw", summary="Withdraw an erasure", dependencies=[needs(Permission.FILE_ERASE)]
)
def withdraw(caller: Authenticated, erasure_id: ErasureId) -> ErasureObject:
    """Ask for it no more, as long as nobody has agreed."""
    with caller.in_department() as session:
        erasure = parse_id(IdKind.FILE_ERASURE, erasure_id)
        return ErasureObject.of(file_erasures.withdraw(session, caller.principal, erasure))
