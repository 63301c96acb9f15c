"""Robots of a department."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.bodies import json_body
from api.deps import InProject, needs
from api.objects.keys import NewServiceAccountObject, ServiceAccountObject, ServiceAccountRequest
from api.objects.shape import Deleted, Page, page_of
from domain.access import Permission
from domain.ids import IdKind, parse_id
from services import keys

router = APIRouter(prefix="/v1/organization/projects/{project_id}/service_accounts", tags=["Organisation"])

AccountId = Annotated[str, Path(description="`svcacct_…`.")]


@router.post("", summary="Create a robot", dependencies=[needs(Permission.SERVICE_ACCOUNT_MANAGE)])
def create(
    caller: InProject, wanted: Annotated[ServiceAccountRequest, json_body(ServiceAccountRequest)]
) -> NewServiceAccountObject:
    """Create a robot with a key, which is shown in this answer only."""
    wish = wanted.wish(max_age=caller.runtime.settings.key_max_age)
    with caller.in_department() as session:
        account, issued = keys.create_service_account(session, caller.principal, wanted.roles, wish)
        return NewServiceAccountObject.of_new(account, issued)


@router.get("", summary="List robots", dependencies=[needs(Permission.KEY_READ)])
def list_all(caller: InProject) -> Page[ServiceAccountObject]:
    """The department's robots, newest first."""
    with caller.in_department() as session:
        return page_of(map(ServiceAccountObject.of, keys.list_service_accounts(session, caller.principal)))


@router.get("/{service_account_id}", summary="Look at a robot", dependencies=[needs(Permission.KEY_READ)])
def retrieve(caller: InProject, service_account_id: AccountId) -> ServiceAccountObject:
    """One robot and its roles."""
    account = parse_id(IdKind.SERVICE_ACCOUNT, service_account_id)
    with caller.in_department() as session:
        return ServiceAccountObject.of(keys.get_service_account(session, caller.principal, account))


@router.delete(
    "/{service_account_id}", summary="Delete a robot", dependencies=[needs(Permission.SERVICE_ACCOUNT_MANAGE)]
)
def delete(caller: InProject, service_account_id: AccountId) -> Deleted:
    """End a robot: its keys stop working with the next request."""
    account = parse_id(IdKind.SERVICE_ACCOUNT, service_account_id)
    with caller.in_department() as session:
        keys.delete_service_account(session, caller.principal, account)
    return Deleted(id=service_account_id, object="organization.project.service_account.deleted")
