"""People of the organisation."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.bodies import json_body
from api.deps import Authenticated, needs
from api.objects.members import UserObject, UserRequest
from api.objects.shape import Page, page_of
from domain.access import Permission
from domain.ids import IdKind, parse_id
from services import members

router = APIRouter(prefix="/v1/organization/users", tags=["Organisation"])


@router.post("", summary="Enter a person", dependencies=[needs(Permission.USER_CREATE)])
def create(caller: Authenticated, wanted: Annotated[UserRequest, json_body(UserRequest)]) -> UserObject:
    """Enter a person into the organisation. What they may do is decided in each department."""
    with caller.anywhere() as session:
        return UserObject.of(members.create_user(session, caller.principal, email=wanted.email, name=wanted.name))


@router.get("", summary="List people", dependencies=[needs(Permission.USER_READ)])
def list_all(caller: Authenticated) -> Page[UserObject]:
    """Everyone, for the operator and the auditor; the department's own, for its admin."""
    with caller.anywhere() as session:
        return page_of(map(UserObject.of, members.list_users(session, caller.principal)))


@router.get("/{user_id}", summary="Look at a person", dependencies=[needs(Permission.USER_READ)])
def retrieve(caller: Authenticated, user_id: Annotated[str, Path(description="`user-…`.")]) -> UserObject:
    """One person."""
    with caller.anywhere() as session:
        return UserObject.of(members.get_user(session, caller.principal, parse_id(IdKind.USER, user_id)))
