"""`tsugiki lineage`: what an object came from, and what came from it."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from cli.connection import JsonObject
from cli.output import plain
from cli.session import Session
from domain.ids import IdKind


def lineage(
    context: typer.Context,
    object_id: Annotated[str, typer.Argument(metavar="ID", help="A version, job, file or base model.")],
) -> None:
    """Show the lineage of an object, both ways, as a tree."""
    session = Session.of(context)
    found = session.connection.get("lineage", object_id)
    if session.output.as_json:
        session.output.json(found)
    else:
        session.output.console.print(tree(object_id, found["edges"]))


def tree(object_id: str, edges: Sequence[JsonObject]) -> Tree:
    """The object, below it what it came from, then what came from it."""
    root = Tree(Text(plain(object_id), style="bold"))
    # A version may be asked for by its model's name.
    is_version = object_id.startswith((IdKind.ADAPTER_VERSION, "ft:"))
    for edge in edges:
        if is_version:
            root.add(_line(edge["relation"], edge["object_name"], edge["object"]))
        else:
            root.add(_line(f"{edge['relation']} of", edge["subject_name"], edge["subject"]))
    return root


def _line(relation: str, name: str | None, object_id: str) -> Text:
    words = relation.replace("_", " ")
    return Text.assemble((f"{plain(words)}  ", "cyan"), f"{plain(name)}  " if name else "", (plain(object_id), "dim"))
