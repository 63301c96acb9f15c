"""`tsugiki adapters`: versions, and bringing one here."""

from pathlib import Path
from typing import Annotated

import typer

from cli import aliases, importing, versions
from cli import pull as pulling
from cli.connection import Connection, JsonObject
from cli.output import Column, duration, number, share, size, when
from cli.pull import AdapterDamaged
from cli.session import Session
from domain.adapters import LATEST
from domain.digests import CHUNK_BYTES

app = typer.Typer(help="Adapters and their immutable versions.")

COLUMNS = (
    Column("name", "name"),
    Column("latest", "latest"),
    Column("aliases", "aliases"),
    Column("created", lambda item: when(item["created_at"])),
)
VERSION_COLUMNS = (
    Column("version", lambda item: f"{item['adapter']}@{item['number']}"),
    Column("state", "state"),
    Column("base model", "base_model"),
    Column("size", lambda item: size(item["bytes"])),
    Column("accuracy", lambda item: _before_after(item, "accuracy", percent=True)),
    Column("loss", lambda item: _before_after(item, "loss", percent=False)),
    Column("created", lambda item: when(item["created_at"])),
)
VERSION_DETAILS = (
    *VERSION_COLUMNS,
    Column("reason", "state_reason"),
    Column("data class", "data_class"),
    Column("labels", "labels"),
    Column("description", "description"),
    Column("model", "model"),
    Column("id", "id"),
    Column("digest", "digest"),
    Column("job", "job_id"),
    Column("trained in", lambda item: duration(_metric(item, "train_s"))),
    Column("tokens/s", lambda item: number(_metric(item, "tokens_per_s"), digits=0)),
    Column("peak memory", lambda item: size(_metric(item, "peak_memory_bytes"))),
    Column("trainable parameters", lambda item: number(_metric(item, "trainable_parameters"), digits=0)),
    Column("files", lambda item: [file["path"] for file in item["files"]]),
)
Reference = Annotated[
    str, typer.Argument(metavar="NAME@REF", help=f"A version by number or alias; `{LATEST}` when left out.")
]


def _metric(version: JsonObject, name: str) -> float | None:
    """A figure of the run that made a version; an imported one has none."""
    return (version["metrics"] or {}).get(name)


def _before_after(version: JsonObject, measure: str, *, percent: bool) -> str | None:
    """`17.0% -> 89.0%`: the base model alone, then with the adapter, on the newest held-out rows."""
    shown = share if percent else number
    for evaluation in version["evaluation"][:1]:
        return f"{shown(evaluation['base'][measure])} → {shown(evaluation['adapter'][measure])}"
    return None


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List the department's adapters."""
    session = Session.of(context)
    session.output.rows(session.connection.pages("adapters"), COLUMNS)


@app.command()
def show(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="NAME[@REF]", help="An adapter, or one version of it.")],
) -> None:
    """Show an adapter's versions, or one version in full."""
    session = Session.of(context)
    name, _, wanted = reference.partition("@")
    if wanted:
        session.output.one(session.connection.get("adapters", name, "versions", wanted), VERSION_DETAILS)
    elif session.output.as_json:
        session.output.json(session.connection.get("adapters", name))
    else:
        session.output.rows(session.connection.pages("adapters", name, "versions"), VERSION_COLUMNS)


@app.command()
def pull(
    context: typer.Context,
    reference: Reference,
    out: Annotated[Path, typer.Option(help="The folder to write: missing, or empty.")],
) -> None:
    """Bring a version here, every file checked against the version's digest, as a PEFT folder."""
    session = Session.of(context)
    name, _, wanted = reference.partition("@")
    version = fetch(session.connection, name, wanted or LATEST, out)
    session.output.said(version, f"{name}@{version['number']} is in {out}: {size(version['bytes'])}, verified.")


@app.command("import")
def import_folder(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A PEFT folder: configuration, safetensors, tokenizer files.")],
    name: Annotated[str, typer.Option(help="The adapter whose next version it is to be.")],
    base_model: Annotated[
        str | None,
        typer.Option(help="The base model as it is registered, in place of what the configuration says."),
    ] = None,
) -> None:
    """Propose an adapter made elsewhere: it is checked, and then waits for approval like any other."""
    session = Session.of(context)
    version = importing.send(session.connection, folder, name=name, base_model=base_model)
    session.output.said(version, f"{name}@{version['number']} is a candidate: {version['digest']}")


def fetch(connection: Connection, name: str, reference: str, out: Path) -> JsonObject:
    """Write a version's folder. Raises FolderInUse before anything is asked for, and AdapterDamaged."""
    pulling.check_free(out)
    version = connection.get("adapters", name, "versions", reference)
    manifest = pulling.manifest_of(version)
    # By number: an alias may move between the two requests.
    with connection.stream("adapters", name, "versions", str(version["number"]), "content") as response:
        if response.headers.get("x-adapter-digest") != version["digest"]:
            raise AdapterDamaged("The service sent another version.")
        pulling.receive(response.iter_bytes(CHUNK_BYTES), manifest, out)
    return version


versions.add_to(app)
aliases.add_to(app)
