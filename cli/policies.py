"""`tsugiki policy`: what may be trained and released, as documents; and would a version pass."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cli.connection import JsonObject, Refused, Unreachable
from cli.endpoint import EndpointUnknown
from cli.output import Column, Output, plain, when
from cli.session import NotNamed, Session
from domain.adapters import LATEST
from domain.parsing import parse_as
from domain.policies import Scope
from domain.refusals import Invalid, Refusal
from domain.servability import AdapterTraits, Servers, VllmLimits, refusals
from domain.verdicts import Purpose

app = typer.Typer(help="Policies: which versions may be trained, approved and served.")

CURRENT = "current"
ADAPTER_CONFIG = "adapter_config.json"
_MEDIA_TYPE = "application/yaml"
_PATHS = {Scope.DEPARTMENT: ("policies",), Scope.ORGANISATION: ("organization", "policies")}

Whose = Annotated[Scope, typer.Option("--scope", help="Whose document: the department's own, or the organisation's.")]
Document = Annotated[Path, typer.Argument(metavar="FILE", help="The document, YAML.", exists=True, dir_okay=False)]
Number = Annotated[str, typer.Argument(metavar="[VERSION]", help="A version's number; the one in force when left out.")]

HISTORY_COLUMNS = (
    Column("version", "version"),
    Column("digest", "digest"),
    Column("by", "created_by"),
    Column("at", lambda item: when(item["created_at"])),
    Column("id", "id"),
)
CHANGE_COLUMNS = (Column("rule", "path"), Column("before", "before"), Column("after", "after"))


class Undecided(Exception):  # noqa: N818 - named for the fact, as refusals are
    """Whether something passes could not be found out; error says why."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _undecided() -> Iterator[None]:
    """What goes wrong in here is neither a pass nor a failure."""
    try:
        yield
    except (Refused, Refusal, Unreachable, EndpointUnknown, NotNamed) as error:
        raise Undecided(error) from error


@app.command()
def show(context: typer.Context, version: Number = CURRENT, scope: Whose = Scope.DEPARTMENT) -> None:
    """Print a document as it was put."""
    session = Session.of(context)
    found = session.connection.get(*_PATHS[scope], version)
    if session.output.as_json:
        session.output.json(found)
    else:
        session.output.console.file.write(found["document"])


@app.command()
def put(context: typer.Context, file: Document, scope: Whose = Scope.DEPARTMENT) -> None:
    """Put a document in force: as an admin the department's, as the operator the organisation's."""
    session = Session.of(context)
    made = session.connection.post_bytes(*_PATHS[scope], content=file.read_bytes(), media_type=_MEDIA_TYPE)
    session.output.said(made, f"Version {made['version']} of the {scope}'s policy is in force: {made['digest']}.")


@app.command()
def history(context: typer.Context, scope: Whose = Scope.DEPARTMENT) -> None:
    """List every version that was ever in force, newest first."""
    session = Session.of(context)
    session.output.rows(session.connection.pages(*_PATHS[scope]), HISTORY_COLUMNS)


@app.command()
def diff(
    context: typer.Context,
    version: Number = CURRENT,
    against: Annotated[
        str | None, typer.Argument(metavar="[OLDER]", help="An older version; the one before it when left out.")
    ] = None,
    scope: Whose = Scope.DEPARTMENT,
) -> None:
    """Show which rules a version changed, and the lines."""
    session = Session.of(context)
    found = session.connection.get(*_PATHS[scope], version, "diff", query={"against": against})
    if session.output.as_json:
        session.output.json(found)
        return
    session.output.rows(found["changes"], CHANGE_COLUMNS)
    for line in found["text"].splitlines():
        session.output.console.print(Text(plain(line)), soft_wrap=True)


@app.command("test")
def try_on(
    context: typer.Context,
    file: Document,
    scope: Whose = Scope.DEPARTMENT,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many versions, newest first.")] = 100,
) -> None:
    """Try a document on the department's versions: which would pass, and every reason of those that would not."""
    session = Session.of(context)
    found = session.connection.post_bytes(
        *_PATHS[scope], "test", content=file.read_bytes(), media_type=_MEDIA_TYPE, query={"limit": limit}
    )
    if session.output.as_json:
        session.output.json(found)
        return
    for verdict in found["data"]:
        _tell(session.output, verdict)
    session.output.said(found, f"{found['passed']} would pass, {found['failed']} would not.")


@app.command()
def check(
    context: typer.Context,
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="An adapter's name.")],
    version: Annotated[str, typer.Argument(metavar="[VERSION]", help="A number or an alias.")] = LATEST,
    purpose: Annotated[Purpose, typer.Option("--for", help="What it is asked for.")] = Purpose.APPROVAL,
) -> None:
    """Would this version pass? Exits 0 where it would, 1 with every reason where not, 2 where that cannot be told."""
    with _undecided():
        session = Session.of(context)
        verdict = session.connection.get(
            "adapters", adapter, "versions", version, "verdict", query={"purpose": purpose}
        )
    if session.output.as_json:
        session.output.json(verdict)
    else:
        _tell(session.output, verdict)
    if not verdict["passed"]:
        raise typer.Exit(1)


@app.command()
def servable(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A PEFT folder.", exists=True, file_okay=False)],
    max_lora_rank: Annotated[int, typer.Option(help="The server's --max-lora-rank.")] = 16,
) -> None:
    """Would vLLM load this folder? Exits as `check` does; asks no service."""
    with _undecided():
        servers = Servers(vllm=parse_as(VllmLimits, {"max_lora_rank": max_lora_rank}))
        found = [each.message for each in refusals(_traits(folder), servers)]
    output = Session.of(context).output
    if output.as_json:
        output.json({"passed": not found, "reasons": found})
    else:
        output.console.print(Text("\n".join(found) or "vLLM would load it."), soft_wrap=True)
    if found:
        raise typer.Exit(1)


def _traits(folder: Path) -> AdapterTraits:
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    except (OSError, ValueError):
        raise Invalid(f"There is no {ADAPTER_CONFIG} that can be read.", param=ADAPTER_CONFIG) from None
    return AdapterTraits.of_config(config if isinstance(config, dict) else {})


def _tell(output: Output, verdict: JsonObject) -> None:
    """A line for the version, and one for each reason."""
    passed = "passes" if verdict["passed"] else "does not pass"
    name = f"{plain(verdict['adapter'])}@{plain(verdict['version'])}"
    lines = [f"{name} ({plain(verdict['state'])}) {passed}; approvals needed: {plain(verdict['required_approvals'])}"]
    lines += [
        f"  {plain(each['message'])} ({plain(each['code'])}, {plain(each['param'])})" for each in verdict["reasons"]
    ]
    output.console.print(Text("\n".join(lines)), soft_wrap=True)
