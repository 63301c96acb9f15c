"""The first start of an installation: its two keys."""

import json
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain import access
from domain.access import Role
from models_db.departments import ServiceAccount
from services import keys


@dataclass(frozen=True)
class PlatformKeys:
    """The operator's and the auditor's secrets."""

    operator: str
    auditor: str

    def as_json(self) -> str:
        """As they stand in endpoint.json."""
        return json.dumps({"admin_key": self.operator, "auditor_key": self.auditor}, indent=2)


def is_new(session: Session) -> bool:
    """Whether nobody can administer this installation yet, from a platform session."""
    return (
        session.scalars(select(ServiceAccount.id).where(ServiceAccount.department_id.is_(None)).limit(1)).first()
        is None
    )


def create_platform_keys(session: Session) -> PlatformKeys:
    """Make an operator and an auditor with a key each, in a platform session: an installation starts with these."""
    principal = access.system(None)
    return PlatformKeys(
        operator=keys.create_platform_account(session, principal, Role.OPERATOR).secret,
        auditor=keys.create_platform_account(session, principal, Role.AUDITOR).secret,
    )
