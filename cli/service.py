"""`tsugiki up`, and its parts for a deployment: the one module of the command line that starts services."""

import errno
import os
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from runtime import installation, service
from runtime.embedded.data_directory import write_private
from runtime.embedded.errors import EmbeddedServicesError
from runtime.installation import PlatformKeys
from runtime.processes import ChildEnded
from runtime.settings import Settings, load

console = Console(stderr=True, highlight=False)
# By pydantic's name of the fault.
_UNUSABLE = {
    "missing": "Setting {name} is missing.",
    "extra_forbidden": "There is no setting {name}.",
}


class WorkerKind(StrEnum):
    """What a worker process does."""

    TRAIN = "train"
    VALIDATE = "validate"
    SWEEP = "sweep"
    SEAL = "seal"


def up(
    directory: Annotated[Path, typer.Option("--dir", help="Where all data of the service live.")] = Path(".tsugiki"),
    *,
    host: Annotated[str, typer.Option(help="Address the API listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the API; 0 takes a free one.", min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(help="Training workers.", min=1, max=64)] = 1,
) -> None:
    """Start PostgreSQL, Valkey, SeaweedFS, migrations, API, workers and beat; Ctrl-C stops all."""
    if directory.exists() and not directory.is_dir():
        _refuse(f"{directory} is not a folder.")
    _say(f"Starting Tsugiki on {directory} …")
    try:
        service.up(directory, host=host, port=port, workers=workers, announce=lambda url: _say_where(directory, url))
    except (EmbeddedServicesError, ChildEnded) as error:
        _refuse(str(error))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            _refuse(f"Port {port} of {host} is in use: choose another with --port.")
        _refuse(_of_machine(error))
    except ValidationError as error:
        _refuse_settings(error)
    console.print("Stopped.")


def _say_where(directory: Path, base_url: str) -> None:
    _say(f"Tsugiki answers at {base_url}", style="bold green")
    _say(f"  docs      {base_url.removesuffix('/v1')}/docs")
    _say(f"  keys      {directory / 'endpoint.json'}")
    _say(f"  logs      {directory / 'logs'}")


def api() -> None:
    """Serve the API against the PostgreSQL, broker and S3 of the settings."""
    settings = _load()
    _become("api.main", "--host", settings.host, "--port", str(settings.port))


def worker(
    kind: Annotated[
        WorkerKind,
        typer.Argument(
            help="Train adapters, validate jobs' files, take jobs back from lost workers, or seal the audit trail."
        ),
    ],
) -> None:
    """Run one worker against the PostgreSQL, broker and S3 of the settings."""
    _load()
    _become("workers.main", kind.value)


def beat() -> None:
    """Ring for the sweeper at its interval; one is enough for an installation."""
    _load()
    _become("workers.main", "beat")


def migrate(
    keys_file: Annotated[
        Path | None, typer.Option(help="Write a new installation's two keys here (0600) instead of printing them.")
    ] = None,
) -> None:
    """Bring schema and bucket up to date; a new installation's operator's and auditor's keys are shown once."""
    settings = _load()
    try:
        is_new = installation.prepare(settings, keep=partial(_keep, keys_file))
    except ValueError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(_of_machine(error))
    console.print("A new installation: keep its two keys." if is_new else "The installation is up to date.")


def _keep(keys_file: Path | None, made: PlatformKeys) -> None:
    if keys_file is not None:
        write_private(keys_file, made.as_json())
        return
    # To standard output, so that a script can take them.
    sys.stdout.write(made.as_json() + "\n")


def _become(module: str, *arguments: str) -> NoReturn:
    """Run a module in place of this process: signals reach it, and its exit status is ours."""
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - no shell


def _load() -> Settings:
    try:
        return load()
    except ValidationError as error:
        _refuse_settings(error)


def _refuse_settings(error: ValidationError) -> NoReturn:
    for item in error.errors(include_url=False, include_input=False):
        name = "TSUGIKI_" + "_".join(str(part) for part in item["loc"]).upper()
        _say(
            _UNUSABLE.get(item["type"], "Setting {name} has a value that it cannot have.").format(name=name),
            style="red",
        )
    raise typer.Exit(1)


def _refuse(message: str) -> NoReturn:
    _say(message, style="red")
    raise typer.Exit(1)


def _of_machine(error: OSError) -> str:
    # Our own ConnectionError has a sentence, and no number of the system's.
    return f"{error.filename or 'This machine'}: {error.strerror}" if error.strerror else str(error)


def _say(sentence: str, *, style: str = "") -> None:
    # As Text: a path may hold what rich would take for its markup.
    console.print(Text(sentence, style=style), soft_wrap=True)
