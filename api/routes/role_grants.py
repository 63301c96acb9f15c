"""Roles that operators give: two of them where there are two."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.bodies import json_body
from api.deps import Authenticated, needs
from api.objects.role_grants import IssuedKeyObject, RoleGrantObject, RoleGrantRequest, RoleKeyRequest
from api.objects.shape import Page, page_of
from domain.access import Permission
from domain.ids import IdKind, parse_id
from services import role_grants

router = APIRouter(prefix="/v1/organization/role_grants", tags=["Organisation"])

GrantId = Annotated[str, Path(description="`rolegrant-…`.")]


@router.post("", summary="Ask for a role for a person", dependencies=[needs(Permission.ROLE_GRANT)])
def create(caller: Authenticated, wanted: Annotated[RoleGrantRequest, json_body(RoleGrantRequest)]) -> RoleGrantObject:
    """Make somebody an approver of the chosen department, an operator or an auditor.

    Given at once by the only operator there is; else once another operator has confirmed it.
    """
    user = parse_id(IdKind.USER, wanted.user_id)
    with caller.anywhere() as session:
        return RoleGrantObject.of(role_grants.request(session, caller.principal, role=wanted.role, user=user))


@router.get("", summary="List given and requested roles", dependencies=[needs(Permission.ROLE_READ)])
def list_all(caller: Authenticated) -> Page[RoleGrantObject]:
    """Those of the chosen department; the platform's where none is chosen."""
    with caller.anywhere() as session:
        return page_of(map(RoleGrantObject.of, role_grants.list_all(session, caller.principal)))


@router.post("/{grant_id}/confirm", summary="Confirm a role", dependencies=[needs(Permission.ROLE_GRANT)])
def confirm(caller: Authenticated, grant_id: GrantId) -> RoleGrantObject:
    """Give the role that another operator asked for."""
    with caller.anywhere() as session:
        return RoleGrantObject.of(role_grants.confirm(session, caller.principal, parse_id(IdKind.ROLE_GRANT, grant_id)))


@router.delete("/{grant_id}", summary="Take a role back", dependencies=[needs(Permission.ROLE_GRANT)])
def delete(caller: Authenticated, grant_id: GrantId) -> RoleGrantObject:
    """Take a request back, or the role that was given, with its keys. One operator is enough."""
    with caller.anywhere() as session:
        return RoleGrantObject.of(
            role_grants.withdraw(session, caller.principal, parse_id(IdKind.ROLE_GRANT, grant_id))
        )


@router.post("/{grant_id}/key", summary="Make the key of one's role", dependencies=[needs(Permission.ROLE_CLAIM)])
def create_key(
    caller: Authenticated, grant_id: GrantId, wanted: Annotated[RoleKeyRequest, json_body(RoleKeyRequest)]
) -> IssuedKeyObject:
    """For whom an operator's or auditor's role was given to, with their own key; the one before ends."""
    wish = wanted.wished(wanted.name, caller.runtime.settings.key_max_age)
    grant = parse_id(IdKind.ROLE_GRANT, grant_id)
    with caller.runtime.platform() as session:
        return IssuedKeyObject.of(role_grants.claim_key(session, caller.principal, grant, wish))
