"""Who am I?"""

from fastapi import APIRouter

from api.deps import Authenticated, needs
from api.objects.principals import PrincipalObject
from domain.access import Permission
from services import members

router = APIRouter(prefix="/v1/me", tags=["Principals"])


@router.get("", summary="Who does this key act for?", dependencies=[needs(Permission.PRINCIPAL_READ)])
def retrieve(caller: Authenticated) -> PrincipalObject:
    """The principal behind the presented key, its department and its roles."""
    with caller.anywhere() as session:
        return PrincipalObject.of(caller.principal, email=members.own_email(session, caller.principal))
