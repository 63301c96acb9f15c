"""Where versions are served, as inference servers say it."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Select, case, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, require
from domain.adapters import VersionState
from domain.audit import AuditEvent
from models_db.adapters import Adapter, AdapterVersion
from models_db.handouts import Deployment
from services import adapters, audit
from services.cursors import known_cursor

LOADED, UNLOADED = "loaded", "unloaded"
# A server that has one of these is to let go of it.
_WITHDRAWN = frozenset({VersionState.REJECTED, VersionState.REVOKED, VersionState.RETIRED})


@dataclass(frozen=True)
class Reported:
    """A deployment, with the names of what is deployed."""

    deployment: Deployment
    adapter: str
    version: AdapterVersion

    @property
    def must_unload(self) -> bool:
        """Whether the server has what nobody may serve any more."""
        return self.deployment.state == LOADED and self.version.state in _WITHDRAWN


def report(
    session: Session, principal: Principal, *, adapter: str, reference: str, server: str, state: str
) -> Reported:
    """A server says that it has a version loaded, or no more. What it said before is replaced. Raises NotFound."""
    require(principal, Permission.DEPLOYMENT_REPORT)
    # One that was deleted since is to be let go of all the same.
    version = adapters.get_version(session, principal, adapter, reference, deleted=True)
    said = insert(Deployment).values(
        department_id=version.department_id,
        version_id=version.id,
        server=server,
        state=state,
        reported_by=principal.id,
    )
    changed = Deployment.state != said.excluded.state
    again = {
        "state": said.excluded.state,
        "reported_by": said.excluded.reported_by,
        "reported_at": func.now(),
        "since": case((changed, func.now()), else_=Deployment.since),
    }
    before = session.scalars(_of(version.id, server)).one_or_none()
    was = before.state if before else None
    session.execute(said.on_conflict_do_update(index_elements=["department_id", "version_id", "server"], set_=again))
    deployment = session.scalars(_of(version.id, server), execution_options={"populate_existing": True}).one()
    if was != state:
        # A server may say the same every minute: only a change is an event.
        audit.record(
            session,
            principal,
            AuditEvent.DEPLOYMENT_REPORTED,
            resource=("adapter_version", version.id),
            refs=[deployment.id, version.adapter_id],
            details={"state": state, "before": was, "digest": version.digest},
        )
    return Reported(deployment, adapter, version)


def _of(version: UUID, server: str) -> Select[Deployment]:
    return select(Deployment).where(Deployment.version_id == version, Deployment.server == server)


def list_page(
    session: Session, principal: Principal, *, adapter: str | None, state: str | None, after: UUID | None, limit: int
) -> tuple[Sequence[Reported], bool]:
    """A page of what servers last said, the newest server first, and whether there are more. Raises NotFound."""
    require(principal, Permission.LINEAGE_READ)
    statement = (
        select(Deployment, Adapter.name, AdapterVersion)
        .join(AdapterVersion, AdapterVersion.id == Deployment.version_id)
        .join(Adapter, Adapter.id == AdapterVersion.adapter_id)
    )
    if adapter is not None:
        statement = statement.where(Adapter.id == adapters.get(session, principal, adapter).id)
    if state is not None:
        statement = statement.where(Deployment.state == state)
    if after is not None:
        statement = statement.where(Deployment.id < known_cursor(session, Deployment, after))
    found = session.execute(statement.order_by(Deployment.id.desc()).limit(limit + 1)).all()
    return [Reported(deployment, name, version) for deployment, name, version in found[:limit]], len(found) > limit
