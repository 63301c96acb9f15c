"""Access to a department in an emergency: two people, four hours at most, and all of it recorded."""

from collections.abc import Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path
from sqlalchemy.orm import Session

from api.bodies import json_body
from api.deps import Authenticated, Caller, needs
from api.objects.break_glass import BreakGlassObject, BreakGlassRequest
from api.objects.role_grants import IssuedKeyObject
from api.objects.shape import Page, page_of
from domain.access import Permission, Principal
from domain.ids import IdKind, parse_id
from models_db.role_grants import BreakGlass
from services import break_glass

router = APIRouter(prefix="/v1/organization/break_glass", tags=["Organisation"])

GlassId = Annotated[str, Path(description="`glass-…`.")]


@router.post("", summary="Ask for access in an emergency", dependencies=[needs(Permission.BREAK_GLASS_REQUEST)])
def create(
    caller: Authenticated, wanted: Annotated[BreakGlassRequest, json_body(BreakGlassRequest)]
) -> BreakGlassObject:
    """Ask for access to the chosen department. It opens when another operator, or the department's admin, agrees."""
    with caller.in_department() as session:
        asked = break_glass.request(session, caller.principal, reason=wanted.reason, lasts=wanted.lasts)
        return BreakGlassObject.of(asked)


@router.get("", summary="List accesses in emergencies", dependencies=[needs(Permission.BREAK_GLASS_READ)])
def list_all(caller: Authenticated) -> Page[BreakGlassObject]:
    """The department's, newest first."""
    with caller.in_department() as session:
        return page_of(map(BreakGlassObject.of, break_glass.list_all(session, caller.principal)))


@router.post("/{glass_id}/open", summary="Agree to an access", dependencies=[needs(Permission.BREAK_GLASS_OPEN)])
def open_up(caller: Authenticated, glass_id: GlassId) -> BreakGlassObject:
    """Open what somebody else asked for. Its time begins now, and ends by itself."""
    return _decided(caller, glass_id, break_glass.open_up)


@router.post(
    "/{glass_id}/key", summary="Make the key of an access", dependencies=[needs(Permission.BREAK_GLASS_REQUEST)]
)
def create_key(caller: Authenticated, glass_id: GlassId) -> IssuedKeyObject:
    """For who asked for it, as long as it is open; the key ends with the access, and the one before at once."""
    glass = parse_id(IdKind.BREAK_GLASS, glass_id)
    with caller.in_department() as session:
        return IssuedKeyObject.of(break_glass.issue_key(session, caller.principal, glass))


@router.post("/{glass_id}/close", summary="End an access", dependencies=[needs(Permission.BREAK_GLASS_CLOSE)])
def close(caller: Authenticated, glass_id: GlassId) -> BreakGlassObject:
    """End it before its time, or take the request back."""
    return _decided(caller, glass_id, break_glass.close)


def _decided(
    caller: Caller, glass_id: str, decide: Callable[[Session, Principal, UUID], BreakGlass]
) -> BreakGlassObject:
    glass = parse_id(IdKind.BREAK_GLASS, glass_id)
    with caller.in_department() as session:
        return BreakGlassObject.of(decide(session, caller.principal, glass))
