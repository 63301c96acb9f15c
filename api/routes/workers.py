"""Train workers: look at them, drain them, let them go. The operator's."""

from collections.abc import Callable
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from sqlalchemy.orm import Session

from api.deps import Authenticated, Caller, needs
from api.objects.shape import Page, page_of
from api.objects.workers import WorkerObject
from api.pages import After
from domain.access import Permission, Principal
from domain.ids import IdKind, parse_id
from services import workers

router = APIRouter(prefix="/v1/workers", tags=["Workers"])

WorkerId = Annotated[str, Path(description="A worker's id, `worker-…`.")]
Now = Annotated[bool, Query(description="Give back the job it has, from a checkpoint, instead of finishing it.")]


@router.get("", summary="List workers", dependencies=[needs(Permission.WORKER_READ)])
def list_page(
    caller: Authenticated,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Workers a page.")] = 20,
    retired: Annotated[bool, Query(description="Also those that have ended.")] = False,  # noqa: FBT002 - of a query
) -> Page[WorkerObject]:
    """Every worker that is not retired, newest first."""
    cursor = None if after is None else parse_id(IdKind.WORKER, after)
    lease_s = caller.runtime.settings.lease_s
    with caller.runtime.platform() as session:
        found, has_more = workers.list_page(
            session, caller.principal, after=cursor, limit=limit, retired=retired, lease_s=lease_s
        )
        return page_of(map(WorkerObject.of, found), has_more=has_more)


@router.get("/{worker_id}", summary="Look at a worker", dependencies=[needs(Permission.WORKER_READ)])
def retrieve(caller: Authenticated, worker_id: WorkerId) -> WorkerObject:
    """A worker: what it can, and what it is at."""
    with caller.runtime.platform() as session:
        return _object(session, caller, parse_id(IdKind.WORKER, worker_id))


@router.post("/{worker_id}/drain", summary="Drain a worker", dependencies=[needs(Permission.WORKER_MANAGE)])
def drain(caller: Authenticated, worker_id: WorkerId, *, now: Now = False) -> WorkerObject:
    """Give it no more jobs. It finishes the one it has, or gives it back: another goes on from its checkpoint."""
    return _managed(caller, worker_id, partial(workers.drain, now=now))


@router.post(
    "/{worker_id}/undrain", summary="Let a worker take jobs again", dependencies=[needs(Permission.WORKER_MANAGE)]
)
def undrain(caller: Authenticated, worker_id: WorkerId) -> WorkerObject:
    """Take a drain back, and a retirement that has not come about."""
    return _managed(caller, worker_id, workers.undrain)


@router.post("/{worker_id}/retire", summary="Retire a worker", dependencies=[needs(Permission.WORKER_MANAGE)])
def retire(caller: Authenticated, worker_id: WorkerId, *, now: Now = False) -> WorkerObject:
    """Drain it; when it holds no job any more, its process ends with status 0."""
    return _managed(caller, worker_id, partial(workers.retire, now=now))


def _managed(caller: Caller, worker_id: str, ask: Callable[[Session, Principal, UUID], None]) -> WorkerObject:
    worker = parse_id(IdKind.WORKER, worker_id)
    with caller.runtime.platform() as session:
        ask(session, caller.principal, worker)
        return _object(session, caller, worker)


def _object(session: Session, caller: Caller, worker: UUID) -> WorkerObject:
    return WorkerObject.of(workers.get(session, caller.principal, worker, lease_s=caller.runtime.settings.lease_s))
