"""From a presented key to who acts."""

from hmac import compare_digest
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from domain.access import PLATFORM_ROLES, Principal, PrincipalType, Role
from domain.keys import INVALID_KEY_MESSAGE, hash_key, prefix_of
from domain.refusals import NotFound, Unauthenticated


def authenticate(
    session: Session, secret: str, *, chosen_department: UUID | None, request_id: str, source_ip: str | None
) -> Principal:
    """Resolve a key in a platform session. Raises Unauthenticated alike for every kind of bad key.

    chosen_department is the request's `OpenAI-Project`. A department's key may only name its own (NotFound
    otherwise); the platform's keys act in the one they name.
    """
    found = session.execute(
        text("SELECT * FROM authenticate_key(:prefix)"), {"prefix": prefix_of(secret)}
    ).one_or_none()
    if found is None or not compare_digest(bytes(found.secret_sha256), hash_key(secret)):
        raise Unauthenticated(INVALID_KEY_MESSAGE)
    session.execute(text("SELECT touch_key(:key)"), {"key": found.key_id})
    if found.department_id is not None and chosen_department not in {None, found.department_id}:
        raise NotFound("No such project.", param="OpenAI-Project")
    roles = frozenset(Role(name) for name in found.roles)
    return Principal(
        type=PrincipalType.USER if found.user_id else PrincipalType.SERVICE_ACCOUNT,
        id=found.user_id or found.service_account_id,
        key_id=found.key_id,
        department=found.department_id or (chosen_department if roles & PLATFORM_ROLES else None),
        roles=roles,
        request_id=request_id,
        source_ip=source_ip,
    )
