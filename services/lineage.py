"""The lineage graph: what something descends from, and what descends from it, as far as the caller wants to follow.

An edge is `subject relation object`: the subject descends from the object. Up is to objects, down is to subjects.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Text, Uuid, cast, func, select, text
from sqlalchemy.orm import Session

from domain.access import Permission, Principal, PrincipalType, require
from domain.ids import IdKind, public_id
from models_db.adapters import Adapter, AdapterVersion, Alias, Evaluation
from models_db.approvals import ApprovalRequest
from models_db.base_models import BaseModel
from models_db.files import File
from models_db.handouts import Deployment, Download
from models_db.jobs import Job

MAX_DEPTH = 20
MAX_EDGES = 1000


class Direction(StrEnum):
    """Which way to follow edges from what was asked about."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"


class NodeType(StrEnum):
    """What can be in the graph."""

    FILE = "file"
    BASE_MODEL = "base_model"
    JOB = "job"
    ADAPTER_VERSION = "adapter_version"
    EVALUATION = "evaluation"
    APPROVAL = "approval"
    ALIAS = "alias"
    DOWNLOAD = "download"
    DEPLOYMENT = "deployment"


class Node(NamedTuple):
    """One thing, by kind and row."""

    type: NodeType
    key: UUID


@dataclass(frozen=True)
class Edge:
    """`subject relation object`, so many steps from what was asked about."""

    subject: Node
    relation: str
    object: Node
    depth: int


@dataclass(frozen=True)
class Label:
    """How a node is shown: its public id, its name where it has one that the caller may read, and its state."""

    id: str
    name: str | None = None
    state: str | None = None


@dataclass(frozen=True)
class Graph:
    """What was found. is_cut: there is more than MAX_EDGES, and the nearest are here."""

    root: Node
    edges: Sequence[Edge]
    labels: dict[Node, Label]
    is_cut: bool


# Edges that are kept as such, and those that other rows are: one list, so that whoever adds a kind of row adds it here.
# An alias has no id of its own; one is made of what it is.
_LINKS = """
    SELECT subject_type, subject_id, relation, object_type, object_id FROM lineage_edges
    UNION ALL SELECT 'job', id, 'trains_on', 'file', training_file_id FROM jobs
    UNION ALL SELECT 'job', id, 'validates_on', 'file', validation_file_id FROM jobs
    UNION ALL SELECT 'job', id, 'evaluates_on', 'file', evaluation_file_id FROM jobs
    UNION ALL SELECT 'job', id, 'grafts_on', 'base_model', base_model_id FROM jobs
    UNION ALL SELECT 'job', id, 'continues', 'adapter_version', parent_version_id FROM jobs
    UNION ALL SELECT 'evaluation', id, 'measures', 'adapter_version', version_id FROM evaluations
    UNION ALL SELECT 'evaluation', id, 'measured_on', 'file', file_id FROM evaluations
    UNION ALL SELECT 'approval', id, 'decides', 'adapter_version', version_id FROM approval_requests
    UNION ALL SELECT 'alias', md5(adapter_id || name)::uuid, 'stands_for', 'adapter_version', version_id FROM aliases
    UNION ALL SELECT 'download', id, 'took', 'adapter_version', version_id FROM downloads
    UNION ALL SELECT 'deployment', id, state, 'adapter_version', version_id FROM deployments
"""
# Breadth first, as PostgreSQL evaluates it: what the limit leaves is the nearest. Both ways start at the root and none
# turns round: what else was made from the same file is no ancestor.
_WALK = text(f"""
    WITH RECURSIVE walk (way, id, depth, subject_type, subject_id, relation, object_type, object_id) AS (
        SELECT way, CAST(:root AS uuid), 0, NULL::text, NULL::uuid, NULL::text, NULL::text, NULL::uuid
        FROM unnest(CAST(:ways AS text[])) AS way
        UNION
        SELECT w.way, next.id, w.depth + 1, next.subject_type, next.subject_id, next.relation, next.object_type,
            next.object_id
        FROM walk w CROSS JOIN LATERAL (
            SELECT l.object_id AS id, l.* FROM ({_LINKS}) l WHERE w.way = 'up' AND l.subject_id = w.id
            UNION ALL
            SELECT l.subject_id AS id, l.* FROM ({_LINKS}) l WHERE w.way = 'down' AND l.object_id = w.id
        ) next
        WHERE w.depth < :depth AND next.id IS NOT NULL
    )
    SELECT depth, subject_type, subject_id, relation, object_type, object_id FROM walk WHERE depth > 0 LIMIT :limit
""")  # noqa: S608 - the text is all ours


def graph(session: Session, principal: Principal, root: Node, *, direction: Direction, depth: int) -> Graph:
    """Everything within `depth` steps of the root, in one query. The caller knows that the root is there."""
    require(principal, Permission.LINEAGE_READ)
    ways = [Direction.UP, Direction.DOWN] if direction is Direction.BOTH else [direction]
    # A step more than is shown: one edge may be found on two ways, and counts twice.
    limit = 2 * MAX_EDGES + 1
    rows = session.execute(_WALK, {"root": root.key, "ways": ways, "depth": depth, "limit": limit}).all()
    nearest: dict[tuple[Node, str, Node], int] = {}
    for row in rows:
        subject, target = (
            Node(NodeType(row.subject_type), row.subject_id),
            Node(NodeType(row.object_type), row.object_id),
        )
        edge = (subject, row.relation, target)
        nearest[edge] = min(row.depth, nearest.get(edge, row.depth))
    edges = sorted((Edge(*edge, depth=steps) for edge, steps in nearest.items()), key=lambda edge: edge.depth)
    shown = edges[:MAX_EDGES]
    nodes = {root, *(edge.subject for edge in shown), *(edge.object for edge in shown)}
    is_cut = len(rows) == limit or len(edges) > MAX_EDGES
    return Graph(root, shown, _labels(session, principal, nodes), is_cut)


# --- what nodes are called --------------------------------------------------------------------------------------------


def _labels(session: Session, principal: Principal, nodes: Iterable[Node]) -> dict[Node, Label]:
    keys: dict[NodeType, list[UUID]] = {}
    for node in nodes:
        keys.setdefault(node.type, []).append(node.key)
    labels = {}
    for kind, wanted in keys.items():
        for key, label in _LABELS[kind](session, principal, wanted):
            labels[Node(kind, key)] = label
    return labels


Labelled = Iterable[tuple[UUID, Label]]


def _files(session: Session, principal: Principal, keys: Sequence[UUID]) -> Labelled:
    may_read = principal.may(Permission.FILE_READ)
    for file in session.scalars(select(File).where(File.id.in_(keys))):
        state = "deleted" if file.deleted_at else "stored"
        yield file.id, Label(public_id(IdKind.FILE, file.id), file.filename if may_read else None, state)


def _base_models(session: Session, _principal: Principal, keys: Sequence[UUID]) -> Labelled:
    for base_model in session.scalars(select(BaseModel).where(BaseModel.id.in_(keys))):
        yield base_model.id, Label(public_id(IdKind.BASE_MODEL, base_model.id), base_model.name)


def _jobs(session: Session, _principal: Principal, keys: Sequence[UUID]) -> Labelled:
    for job in session.scalars(select(Job).where(Job.id.in_(keys))):
        yield job.id, Label(public_id(IdKind.JOB, job.id), state=job.state)


def _versions(session: Session, _principal: Principal, keys: Sequence[UUID]) -> Labelled:
    named = select(AdapterVersion, Adapter.name).join(Adapter, Adapter.id == AdapterVersion.adapter_id)
    for version, adapter in session.execute(named.where(AdapterVersion.id.in_(keys))):
        name = f"{adapter}@{version.number}"
        yield version.id, Label(public_id(IdKind.ADAPTER_VERSION, version.id), name, version.state)


def _evaluations(session: Session, _principal: Principal, keys: Sequence[UUID]) -> Labelled:
    for key in session.scalars(select(Evaluation.id).where(Evaluation.id.in_(keys))):
        yield key, Label(public_id(IdKind.EVALUATION, key))


def _approvals(session: Session, _principal: Principal, keys: Sequence[UUID]) -> Labelled:
    for asked in session.scalars(select(ApprovalRequest).where(ApprovalRequest.id.in_(keys))):
        yield asked.id, Label(public_id(IdKind.APPROVAL, asked.id), state=asked.state)


def _aliases(session: Session, _principal: Principal, keys: Sequence[UUID]) -> Labelled:
    key = cast(func.md5(cast(Alias.adapter_id, Text) + Alias.name), Uuid)
    named = select(key, Alias.name, Adapter.name).join(Adapter, Adapter.id == Alias.adapter_id).where(key.in_(keys))
    for made, alias, adapter in session.execute(named):
        yield made, Label(f"{adapter}@{alias}", alias)


def _downloads(session: Session, _principal: Principal, keys: Sequence[UUID]) -> Labelled:
    for download in session.scalars(select(Download).where(Download.id.in_(keys))):
        yield download.id, Label(public_id(IdKind.DOWNLOAD, download.id), holder_id(download))


def holder_id(download: Download) -> str:
    """Public id of who was sent it."""
    by_user = download.holder_type == PrincipalType.USER
    return public_id(IdKind.USER if by_user else IdKind.SERVICE_ACCOUNT, download.holder_id)


def _deployments(session: Session, _principal: Principal, keys: Sequence[UUID]) -> Labelled:
    for deployment in session.scalars(select(Deployment).where(Deployment.id.in_(keys))):
        label = Label(public_id(IdKind.DEPLOYMENT, deployment.id), deployment.server, deployment.state)
        yield deployment.id, label


_LABELS: Mapping[NodeType, Callable[[Session, Principal, Sequence[UUID]], Labelled]] = {
    NodeType.FILE: _files,
    NodeType.BASE_MODEL: _base_models,
    NodeType.JOB: _jobs,
    NodeType.ADAPTER_VERSION: _versions,
    NodeType.EVALUATION: _evaluations,
    NodeType.APPROVAL: _approvals,
    NodeType.ALIAS: _aliases,
    NodeType.DOWNLOAD: _downloads,
    NodeType.DEPLOYMENT: _deployments,
}
