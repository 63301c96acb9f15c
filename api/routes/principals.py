"""Who am I?"""

from fastapi import APIRouter

from api.deps import Authenticated
from api.objects.principals import PrincipalObject

router = APIRouter(prefix="/v1/me", tags=["Principals"])


@router.get("", summary="Who does this key act for?")
def retrieve(caller: Authenticated) -> PrincipalObject:
    """The principal behind the presented key, its department and its roles."""
    return PrincipalObject.of(caller.principal)
