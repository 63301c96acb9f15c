"""Lineage: what a version descends from, and what descends from a file, a job or a base model."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path
from sqlalchemy.orm import Session

from api.deps import Authenticated, Caller, needs
from api.objects.lineage import LineageEdgeObject, LineageObject
from domain.access import Permission
from domain.ids import IdKind, parse_id, public_id
from domain.refusals import NotFound
from models_db.adapters import Adapter, AdapterVersion, LineageEdge
from models_db.base import Table
from models_db.base_models import BaseModel
from models_db.files import File
from models_db.jobs import Job
from services import adapters, base_models

router = APIRouter(prefix="/v1/lineage", tags=["Lineage"])

_KINDS = {
    "adapter_version": IdKind.ADAPTER_VERSION,
    "base_model": IdKind.BASE_MODEL,
    "file": IdKind.FILE,
    "job": IdKind.JOB,
}
_TABLES: dict[str, type[Table]] = {"adapter_version": AdapterVersion, "base_model": BaseModel, "file": File, "job": Job}


@router.get(
    "/{object_id}",
    summary="Read what something descends from, and what descends from it",
    dependencies=[needs(Permission.LINEAGE_READ)],
)
def retrieve(
    caller: Authenticated,
    object_id: Annotated[str, Path(description="Id of a version, a job, a file or a base model, or a model's name.")],
) -> LineageObject:
    """Both directions, for anything that has an id. A deleted file still has its lineage."""
    with caller.in_department() as session:
        subject = _subject(session, caller, object_id)
        edges = adapters.lineage(session, caller.principal, subject)
        return LineageObject(id=object_id, edges=[_edge(session, caller, edge) for edge in edges])


def _subject(session: Session, caller: Caller, object_id: str) -> UUID:
    for name, kind in _KINDS.items():
        if object_id.startswith(kind):
            try:
                key = parse_id(kind, object_id)
            except NotFound:
                # A base model may be called `file-converter`.
                break
            if session.get(_TABLES[name], key) is None:
                raise NotFound("No such object.")
            return key
    if (version := adapters.find_model(session, caller.principal, object_id)) is not None:
        return version.id
    if (base_model := base_models.find(session, caller.principal, object_id)) is not None:
        return base_model.id
    raise NotFound("No such object.")


def _edge(session: Session, caller: Caller, edge: LineageEdge) -> LineageEdgeObject:
    return LineageEdgeObject(
        subject=public_id(_KINDS[edge.subject_type], edge.subject_id),
        subject_type=edge.subject_type,
        subject_name=_name(session, caller, edge.subject_type, edge.subject_id),
        relation=edge.relation,
        object=public_id(_KINDS[edge.object_type], edge.object_id),
        object_type=edge.object_type,
        object_name=_name(session, caller, edge.object_type, edge.object_id),
    )


def _name(session: Session, caller: Caller, kind: str, key: UUID) -> str | None:
    if kind == "adapter_version" and (version := session.get(AdapterVersion, key)):
        return f"{session.get_one(Adapter, version.adapter_id).name}@{version.number}"
    if kind == "base_model" and (base_model := session.get(BaseModel, key)):
        return base_model.name
    if kind == "file" and caller.principal.may(Permission.FILE_READ) and (file := session.get(File, key)):
        return file.filename
    return None
