from typing import Literal

from pydantic import Field

from api.objects.shape import Identified, Shape, seconds
from domain.ids import IdKind, public_id
from services.deployments import LOADED
from services.descent import Descendant
from services.lineage import Edge, Graph, Label, Node, holder_id


class LineageNodeObject(Shape):
    """One thing in the graph."""

    id: str = Field(description="Its public id; of an alias `adapter@alias`.")
    type: str = Field(
        description="`file`, `base_model`, `job`, `adapter_version`, `evaluation`, `approval`, `alias`, `download` or"
        " `deployment`."
    )
    name: str | None = Field(
        description="Its name, such as `adapter@3`; of a download its holder, of a deployment its server. Null where it"
        " has none, or the caller may not read it."
    )
    state: str | None = Field(description="Its state, where it has one.")
    depth: int = Field(description="Steps from what was asked about.")


class LineageEdgeObject(Shape):
    """`subject relation object`, such as version trained_on file: the subject descends from the object."""

    subject: str = Field(description="Public id of what descends.")
    subject_type: str = Field(description="Its kind.")
    subject_name: str | None = Field(description="Its name; null where it has none, or the caller may not read it.")
    relation: str = Field(
        description="Of a version: `produced_by`, `grafted_on`, `trained_on`, `validated_on`, `evaluated_on`,"
        " `continued_from`. Of a job: `trains_on`, `validates_on`, `evaluates_on`, `grafts_on`, `continues`. Of an"
        " evaluation: `measures`, `measured_on`. Of others: `stands_for`, `decides`, `took`, `loaded`, `unloaded`."
    )
    object: str = Field(description="Public id of what it descends from.")
    object_type: str = Field(description="Its kind.")
    object_name: str | None = Field(description="Its name; null where it has none, or the caller may not read it.")
    depth: int = Field(description="Steps from what was asked about: 1 touches it.")


class LineageObject(Shape):
    """What something descends from, and what descends from it."""

    object: Literal["lineage"] = Field(default="lineage", description="Always `lineage`.")
    id: str = Field(description="The thing asked about.")
    direction: str = Field(description="`up` to what it descends from, `down` to what descends from it, or `both`.")
    depth: int = Field(description="How many steps were followed at most.")
    nodes: list[LineageNodeObject] = Field(description="Everything that was found, the nearest first.")
    edges: list[LineageEdgeObject] = Field(description="Every relation that was followed, the nearest first.")
    is_cut: bool = Field(description="Whether there is more than could be shown: ask about something nearer to it.")

    @classmethod
    def of(cls, asked: str, graph: Graph, *, direction: str, depth: int) -> "LineageObject":
        """From what was found."""
        steps = {graph.root: 0}
        for edge in graph.edges:
            for node in (edge.subject, edge.object):
                steps.setdefault(node, edge.depth)
        return cls(
            id=asked,
            direction=direction,
            depth=depth,
            nodes=[_node(node, graph.labels[node], far) for node, far in steps.items()],
            edges=[_edge(edge, graph.labels) for edge in graph.edges],
            is_cut=graph.is_cut,
        )


def _node(node: Node, label: Label, depth: int) -> LineageNodeObject:
    return LineageNodeObject(id=label.id, type=node.type, name=label.name, state=label.state, depth=depth)


def _edge(edge: Edge, labels: dict[Node, Label]) -> LineageEdgeObject:
    subject, target = labels[edge.subject], labels[edge.object]
    return LineageEdgeObject(
        subject=subject.id,
        subject_type=edge.subject.type,
        subject_name=subject.name,
        relation=edge.relation,
        object=target.id,
        object_type=edge.object.type,
        object_name=target.name,
        depth=edge.depth,
    )


class DescendantObject(Identified):
    """A version that has to do with a file."""

    id: str = Field(description="`adapterver-…`.")
    object: Literal["file.descendant"] = Field(default="file.descendant", description="Always `file.descendant`.")
    adapter: str = Field(description="Its adapter's name.")
    version: int = Field(description="Its number.")
    state: str = Field(description="Its state.")
    live: bool = Field(description="Whether it can still be handed out: it is a candidate, or approved.")
    relation: str = Field(
        description="`trained_on`, or `continued_from` where it goes on from a version that learned from the file: its"
        " weights saw it. `validated_on` or `evaluated_on`: it was only measured on it."
    )
    through: str | None = Field(description="The version that it goes on from, `adapterver-…`; null for the file.")
    aliases: list[str] = Field(description="Names that stand for it now.")
    servers: list[str] = Field(description="Inference servers that last said that they have it loaded.")
    holders: list[str] = Field(description="Who was sent it: `user-…` or `svcacct_…`.")
    created_at: int = Field(description="When it was made, in seconds since 1970.")

    @classmethod
    def of(cls, found: Descendant) -> "DescendantObject":
        """From the version and where it is."""
        through = found.descent.through
        return cls(
            id=public_id(IdKind.ADAPTER_VERSION, found.version.id),
            adapter=found.adapter,
            version=found.version.number,
            state=found.version.state,
            live=found.is_live,
            relation=found.descent.relation,
            through=public_id(IdKind.ADAPTER_VERSION, through) if through else None,
            aliases=list(found.aliases),
            servers=[each.server for each in found.deployments if each.state == LOADED],
            holders=[holder_id(each) for each in found.holders],
            created_at=seconds(found.version.created_at),
        )
