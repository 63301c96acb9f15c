"""`tsugiki lineage`: what an object came from, and what came from it."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from cli.connection import JsonObject
from cli.output import plain
from cli.session import Session

# `subject relation object`, read from the object's end.
INVERSE = {
    "produced_by": "made",
    "grafted_on": "base of",
    "trained_on": "trained",
    "validated_on": "validated",
    "evaluated_on": "evaluated",
}


def lineage(
    context: typer.Context,
    object_id: Annotated[str, typer.Argument(metavar="ID", help="A version, job, file or base model.")],
) -> None:
    """Show the lineage of an object, both ways, as a tree."""
    session = Session.of(context)
    found = session.connection.get("lineage", object_id)
    if session.output.as_json:
        session.output.json(found)
    elif found["edges"]:
        session.output.console.print(tree(object_id, found["edges"]))
    else:
        session.output.said(found, "Nothing descends from it yet.")


def tree(object_id: str, edges: Sequence[JsonObject]) -> Tree:
    """The object, below it what it came from, then what came from it."""
    root = Tree(Text(plain(object_id), style="bold"))
    for edge in sorted(edges, key=lambda edge: _is_asked_for(object_id, edge, "object")):
        relation = str(edge["relation"])
        if _is_asked_for(object_id, edge, "object"):
            root.add(_line(INVERSE.get(relation, f"{relation} of"), _named(edge["subject_name"]), edge["subject"]))
        else:
            root.add(_line(relation, edge["object_name"], edge["object"]))
    return root


def _is_asked_for(object_id: str, edge: JsonObject, end: str) -> bool:
    """Whether this end is what was asked for, by id or, as a base model may be, by name."""
    return object_id in (edge[end], edge[f"{end}_name"])


def _named(name: str | None) -> str | None:
    """A version as it is written everywhere: `triage@1`. An older service writes `triage:1`."""
    return name.replace(":", "@") if name else None


def _line(relation: str, name: str | None, object_id: str) -> Text:
    words = relation.replace("_", " ")
    return Text.assemble((f"{plain(words)}  ", "cyan"), f"{plain(name)}  " if name else "", (plain(object_id), "dim"))
