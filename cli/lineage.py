"""`tsugiki lineage`: what an object came from, and what came from it."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from cli.connection import JsonObject
from cli.output import plain
from cli.session import Session
from cli.versions import split

# `subject relation object`, read from the object's end.
INVERSE = {
    "produced_by": "made",
    "grafted_on": "base of",
    "trained_on": "trained",
    "validated_on": "validated",
    "evaluated_on": "evaluated",
    "continued_from": "continued by",
    "trains_on": "trains",
    "validates_on": "validates",
    "evaluates_on": "evaluates",
    "grafts_on": "base of",
    "continues": "continued by",
    "measures": "measured by",
    "measured_on": "measured",
    "stands_for": "is",
    "decides": "decided by",
    "took": "taken by",
    "loaded": "loaded by",
    "unloaded": "unloaded by",
}


class Direction(StrEnum):
    """Which way to look."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"


def lineage(
    context: typer.Context,
    object_id: Annotated[
        str, typer.Argument(metavar="ID", help="A version, also as `triage@3`; a job, file or base model.")
    ],
    *,
    direction: Annotated[Direction, typer.Option(help="Up to what it came from, down to what came from it.")] = (
        Direction.BOTH
    ),
    depth: Annotated[int, typer.Option(min=1, max=20, help="How many steps.")] = 2,
) -> None:
    """Show the lineage of an object, both ways, as a tree."""
    session = Session.of(context)
    if "@" in object_id:
        name, wanted = split(object_id)
        object_id = session.connection.get("adapters", name, "versions", wanted)["id"]
    query = {"direction": direction.value, "depth": str(depth)}
    found = session.connection.get("lineage", object_id, query=query)
    if session.output.as_json:
        session.output.json(found)
    elif found["edges"]:
        session.output.console.print(tree(object_id, found["edges"]))
        if found.get("is_cut"):
            session.output.console.print("There is more: ask about something nearer to it.", style="yellow")
    else:
        session.output.said(found, "Nothing descends from it yet.")


def tree(object_id: str, edges: Sequence[JsonObject]) -> Tree:
    """The object, below it what it came from, then what came from it, each followed further the same way."""
    root = Tree(Text(plain(object_id), style="bold"))
    own = _own_id(object_id, edges)
    _grow(root, own, edges, end="subject", words=str, seen={own})
    _grow(root, own, edges, end="object", words=lambda relation: INVERSE.get(relation, f"{relation} of"), seen={own})
    return root


def _own_id(object_id: str, edges: Sequence[JsonObject]) -> str:
    """The id of what was asked for, by id or, as a base model may be, by name."""
    for edge in edges:
        for end in ("subject", "object"):
            if object_id in (edge[end], edge.get(f"{end}_name")):
                return str(edge[end])
    return object_id


def _grow(
    branch: Tree, own: str, edges: Sequence[JsonObject], *, end: str, words: Callable[[str], str], seen: set[str]
) -> None:
    """Add what stands at the other end of the edges at whose `end` it stands. What was followed once is not again."""
    other = "object" if end == "subject" else "subject"
    for edge in (edge for edge in edges if edge[end] == own):
        found = str(edge[other])
        grown = branch.add(_line(words(str(edge["relation"])), edge[f"{other}_name"], found))
        if found not in seen:
            seen.add(found)
            _grow(grown, found, edges, end=end, words=words, seen=seen)


def _line(relation: str, name: str | None, object_id: str) -> Text:
    words = relation.replace("_", " ")
    shown = f"{plain(name)}  " if name and name != object_id else ""
    return Text.assemble((f"{plain(words)}  ", "cyan"), shown, (plain(object_id), "dim"))
