"""Who was sent which version: they may have it still."""

from uuid import UUID

from sqlalchemy import func, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from domain.access import Principal
from models_db.adapters import AdapterVersion
from models_db.handouts import Download


def remember(session: Session, principal: Principal, version: AdapterVersion) -> None:
    """A principal is sent a version: entered once, and counted from then on."""
    sent = insert(Download).values(
        department_id=version.department_id,
        version_id=version.id,
        holder_id=principal.id,
        holder_type=principal.type,
    )
    again = {"times": Download.times + 1, "last_at": func.now()}
    session.execute(sent.on_conflict_do_update(index_elements=["department_id", "version_id", "holder_id"], set_=again))


_REMEMBER_SHARED = text("SELECT remember_shared_download(:share, :holder, :holder_type)")


def remember_shared(session: Session, principal: Principal, share: UUID) -> None:
    """The same of a version that another department shares with the session's: its owner is to know who has it."""
    session.execute(_REMEMBER_SHARED, {"share": share, "holder": principal.id, "holder_type": principal.type})
