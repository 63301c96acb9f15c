"""People in a department, and their roles there."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path
from sqlalchemy.orm import Session

from api.bodies import json_body
from api.deps import Caller, InProject, needs
from api.objects.members import MemberObject, MemberRequest, RolesRequest
from api.objects.shape import Deleted, Page, page_of
from domain.access import Permission
from domain.ids import IdKind, parse_id
from domain.refusals import ConflictingFields
from services import members

router = APIRouter(prefix="/v1/organization/projects/{project_id}/users", tags=["Organisation"])

UserId = Annotated[str, Path(description="`user-…`.")]


@router.post(
    "",
    summary="Add a person to a department",
    dependencies=[needs(Permission.MEMBER_MANAGE, Permission.MEMBER_NAME_FIRST_ADMIN)],
)
def create(caller: InProject, wanted: Annotated[MemberRequest, json_body(MemberRequest)]) -> MemberObject:
    """Give a person roles in the department. The operator names its first admin; its admins do the rest."""
    with caller.in_department() as session:
        user = _person(session, caller, wanted)
        return MemberObject.of(*members.set_roles(session, caller.principal, user, wanted.wanted()))


def _person(session: Session, caller: Caller, wanted: MemberRequest) -> UUID:
    if (wanted.user_id is None) == (wanted.email is None):
        raise ConflictingFields("Give `user_id` or `email`.", param="user_id")
    if wanted.email is not None:
        return members.find_user(session, caller.principal, wanted.email).id
    return parse_id(IdKind.USER, wanted.user_id or "")


@router.get("", summary="List a department's people", dependencies=[needs(Permission.MEMBER_READ)])
def list_all(caller: InProject) -> Page[MemberObject]:
    """The department's people and their roles, newest first."""
    with caller.in_department() as session:
        found = members.list_members(session, caller.principal)
        return page_of(MemberObject.of(membership, user) for membership, user in found)


@router.get("/{user_id}", summary="Look at one of a department's people", dependencies=[needs(Permission.MEMBER_READ)])
def retrieve(caller: InProject, user_id: UserId) -> MemberObject:
    """A person and their roles in the department."""
    with caller.in_department() as session:
        return MemberObject.of(*members.get_member(session, caller.principal, parse_id(IdKind.USER, user_id)))


@router.post(
    "/{user_id}",
    summary="Change a person's roles in a department",
    dependencies=[needs(Permission.MEMBER_MANAGE, Permission.MEMBER_NAME_FIRST_ADMIN)],
)
def modify(
    caller: InProject, user_id: UserId, wanted: Annotated[RolesRequest, json_body(RolesRequest)]
) -> MemberObject:
    """Give a member other roles, in place of those they have. Nobody changes their own."""
    user = parse_id(IdKind.USER, user_id)
    with caller.in_department() as session:
        members.get_member(session, caller.principal, user)
        return MemberObject.of(*members.set_roles(session, caller.principal, user, wanted.wanted()))


@router.delete(
    "/{user_id}", summary="Take a person out of a department", dependencies=[needs(Permission.MEMBER_MANAGE)]
)
def delete(caller: InProject, user_id: UserId) -> Deleted:
    """Take a person out of the department; their keys to it end. Its last admin stays."""
    with caller.in_department() as session:
        members.remove(session, caller.principal, parse_id(IdKind.USER, user_id))
    return Deleted(id=user_id, object="organization.project.user.deleted")
