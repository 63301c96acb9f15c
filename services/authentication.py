"""From a presented key to who acts."""

from hmac import compare_digest

from sqlalchemy import text
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, PrincipalType, Role
from domain.keys import INVALID_KEY_MESSAGE, hash_key, prefix_of
from domain.refusals import Unauthenticated


def authenticate(session: Session, secret: str, *, request_id: str, source_ip: str | None) -> Principal:
    """Resolve a key in a platform session. Raises Unauthenticated alike for every kind of bad key."""
    found = session.execute(
        text("SELECT * FROM authenticate_key(:prefix)"), {"prefix": prefix_of(secret)}
    ).one_or_none()
    if found is None or not compare_digest(bytes(found.secret_sha256), hash_key(secret)):
        raise Unauthenticated(INVALID_KEY_MESSAGE)
    session.execute(text("SELECT touch_key(:key)"), {"key": found.key_id})
    return Principal(
        type=PrincipalType.USER if found.user_id else PrincipalType.SERVICE_ACCOUNT,
        id=found.user_id or found.service_account_id,
        key_id=found.key_id,
        department=found.department_id,
        roles=frozenset(Role(name) for name in found.roles),
        request_id=request_id,
        source_ip=source_ip,
        # A permission that a later version does not know any more is one that the key does not have.
        scopes=None if found.scopes is None else frozenset(Permission) & frozenset(found.scopes),
        answered_for_by=found.answered_for_by,
    )
