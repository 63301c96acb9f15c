"""The public keys that check versions' signatures."""

from fastapi import APIRouter

from api.deps import Authenticated, needs
from api.objects.signing_keys import SigningKeyList, SigningKeyObject
from domain.access import Permission, require
from services import attestations

router = APIRouter(prefix="/v1", tags=["Adapters"])


@router.get("/signing_key", summary="Read the signing key", dependencies=[needs(Permission.SIGNING_KEY_READ)])
def retrieve(caller: Authenticated) -> SigningKeyObject:
    """The public key of what is signed now. Keep it where it is used: whoever could change it there could sign."""
    require(caller.principal, Permission.SIGNING_KEY_READ)
    return SigningKeyObject.current(caller.runtime.signing_key.public)


@router.get("/signing_keys", summary="List signing keys", dependencies=[needs(Permission.SIGNING_KEY_READ)])
def list_all(caller: Authenticated) -> SigningKeyList:
    """The key in force, and those before it: what they signed is checked with them."""
    current = SigningKeyObject.current(caller.runtime.signing_key.public)
    with caller.runtime.platform() as session:
        known = attestations.known_keys(session, caller.principal)
    earlier = [SigningKeyObject.earlier(key) for key in known if key.key_id != current.key_id]
    return SigningKeyList(data=[current, *earlier])
