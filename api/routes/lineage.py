"""Lineage: what something descends from, what descends from it, and which versions saw a file."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from sqlalchemy.orm import Session

from api.deps import Authenticated, Caller, needs
from api.objects.lineage import DescendantObject, LineageObject
from api.objects.shape import Page, page_of
from domain.access import Permission
from domain.ids import IdKind, parse_id
from domain.refusals import NotFound
from models_db.adapters import AdapterVersion
from models_db.base import Table
from models_db.base_models import BaseModel
from models_db.files import File
from models_db.jobs import Job
from services import adapters, base_models, descent, lineage
from services.lineage import MAX_DEPTH, Direction, Node, NodeType

router = APIRouter(prefix="/v1", tags=["Lineage"])

# What can be asked about, by the prefix of its id.
_ROOTS: dict[IdKind, tuple[NodeType, type[Table]]] = {
    IdKind.ADAPTER_VERSION: (NodeType.ADAPTER_VERSION, AdapterVersion),
    IdKind.BASE_MODEL: (NodeType.BASE_MODEL, BaseModel),
    IdKind.FILE: (NodeType.FILE, File),
    IdKind.JOB: (NodeType.JOB, Job),
}


@router.get(
    "/lineage/{object_id}",
    summary="Read what something descends from, and what descends from it",
    dependencies=[needs(Permission.LINEAGE_READ)],
)
def retrieve(
    caller: Authenticated,
    object_id: Annotated[str, Path(description="Id of a version, a job, a file or a base model, or a model's name.")],
    direction: Annotated[Direction, Query(description="Which way to follow.")] = Direction.BOTH,
    depth: Annotated[int, Query(ge=1, le=MAX_DEPTH, description="How many steps.")] = 2,
) -> LineageObject:
    """Either way, for anything that has an id. A deleted or erased file still has its lineage."""
    with caller.in_department() as session:
        root = _root(session, caller, object_id)
        found = lineage.graph(session, caller.principal, root, direction=direction, depth=depth)
        return LineageObject.of(object_id, found, direction=direction, depth=depth)


def _root(session: Session, caller: Caller, object_id: str) -> Node:
    for kind, (node_type, table) in _ROOTS.items():
        if object_id.startswith(kind):
            try:
                key = parse_id(kind, object_id)
            except NotFound:
                # A base model may be called `file-converter`.
                break
            if session.get(table, key) is None:
                raise NotFound("No such object.")
            return Node(node_type, key)
    if (version := adapters.find_model(session, caller.principal, object_id)) is not None:
        return Node(NodeType.ADAPTER_VERSION, version.id)
    if (base_model := base_models.find(session, caller.principal, object_id)) is not None:
        return Node(NodeType.BASE_MODEL, base_model.id)
    raise NotFound("No such object.")


@router.get(
    "/files/{file_id}/descendants",
    summary="List the versions that saw a file",
    dependencies=[needs(Permission.LINEAGE_READ)],
)
def list_descendants(
    caller: Authenticated,
    file_id: Annotated[str, Path(description="A file's id, `file-…`.")],
    *,
    live: Annotated[bool | None, Query(description="Only versions that can, or can no longer, be handed out.")] = None,
) -> Page[DescendantObject]:
    """Every version that was trained, validated or evaluated on a file, or goes on from one that was trained on it.

    The newest first, in one page. A file that was deleted or erased still has its descendants.
    """
    with caller.in_department() as session:
        _file, found = descent.of_file(session, caller.principal, parse_id(IdKind.FILE, file_id))
        return page_of(DescendantObject.of(each) for each in found if live in {None, each.is_live})
