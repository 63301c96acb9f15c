"""Sessions of people who have signed in: a token of the provider becomes a key that lasts a working day."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.security import HTTPAuthorizationCredentials

from api.bodies import json_body
from api.deps import Authenticated, bearer, needs
from api.objects.role_grants import IssuedKeyObject
from api.objects.sessions import SessionEnded, SessionRequest
from domain.access import Permission
from domain.refusals import Denied
from services import keys

router = APIRouter(prefix="/v1/sessions", tags=["Principals"])


@router.post("", summary="Begin a session", dependencies=[needs(Permission.SESSION_MANAGE)])
def create(
    caller: Authenticated,
    presented: Annotated[HTTPAuthorizationCredentials, Depends(bearer)],
    wanted: Annotated[SessionRequest, json_body(SessionRequest)],
) -> IssuedKeyObject:
    """Present the provider's ID token, and get a key of the department in its place. It ends by itself.

    `nonce` is the one that the sign-in began with: a token of another sign-in is refused.
    """
    if caller.runtime.tokens is None or caller.principal.key_id is not None:
        raise Denied("A session begins with a token of the identity provider, not with a key.")
    if caller.runtime.tokens.verify(presented.credentials).nonce != wanted.nonce:
        raise Denied("The token is of another sign-in.")
    with caller.in_department() as session:
        issued = keys.begin_session(session, caller.principal, lasts=caller.runtime.settings.session_age)
        return IssuedKeyObject.of(issued)


@router.delete("", summary="End one's session", dependencies=[needs(Permission.SESSION_MANAGE)])
def delete(caller: Authenticated) -> SessionEnded:
    """End the key that this request is made with."""
    with caller.in_department() as session:
        keys.end_session(session, caller.principal)
    return SessionEnded()
