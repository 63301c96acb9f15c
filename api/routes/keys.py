"""API keys of a department's people and robots."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.bodies import json_body
from api.deps import InProject, needs
from api.objects.keys import ApiKeyObject, ApiKeyRequest, NewApiKeyObject
from api.objects.shape import Deleted, Page, page_of
from domain.access import Permission
from domain.ids import IdKind, parse_id
from services import keys

router = APIRouter(prefix="/v1/organization/projects/{project_id}/api_keys", tags=["Organisation"])

KeyId = Annotated[str, Path(description="`key_…`.")]


@router.post("", summary="Make a key", dependencies=[needs(Permission.KEY_MANAGE, Permission.KEY_MANAGE_FIRST)])
def create(caller: InProject, wanted: Annotated[ApiKeyRequest, json_body(ApiKeyRequest)]) -> NewApiKeyObject:
    """Make a key for a member: one's own, or anyone's as an admin. Its secret is shown in this answer only."""
    user = parse_id(IdKind.USER, wanted.user_id)
    wish = wanted.wish(max_age=caller.runtime.settings.key_max_age)
    with caller.in_department() as session:
        issued = keys.issue_to_user(session, caller.principal, user, wish)
        return NewApiKeyObject.of_new(issued, keys.owner_of(session, issued.key))


@router.get("", summary="List keys", dependencies=[needs(Permission.KEY_READ)])
def list_all(caller: InProject) -> Page[ApiKeyObject]:
    """The department's keys that are in force, newest first, without their secrets."""
    with caller.in_department() as session:
        found = keys.list_keys(session, caller.principal)
        return page_of(ApiKeyObject.of(key, keys.owner_of(session, key)) for key in found)


@router.get("/{key_id}", summary="Look at a key", dependencies=[needs(Permission.KEY_READ)])
def retrieve(caller: InProject, key_id: KeyId) -> ApiKeyObject:
    """One key, without its secret."""
    with caller.in_department() as session:
        key = keys.get_key(session, caller.principal, parse_id(IdKind.API_KEY, key_id))
        return ApiKeyObject.of(key, keys.owner_of(session, key))


@router.delete("/{key_id}", summary="Revoke a key", dependencies=[needs(Permission.KEY_MANAGE)])
def delete(caller: InProject, key_id: KeyId) -> Deleted:
    """End a key, with the next request: one's own, or anyone's as an admin."""
    with caller.in_department() as session:
        keys.revoke(session, caller.principal, parse_id(IdKind.API_KEY, key_id))
    return Deleted(id=key_id, object="organization.project.api_key.deleted")
