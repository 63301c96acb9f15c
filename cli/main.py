"""`tsugiki`: the command line, a client of the HTTP API, and the commands that start the service."""

import itertools
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cli import (
    access,
    adapters,
    approvals,
    audit,
    audit_questions,
    audit_verify,
    base_models,
    break_glass,
    departments,
    deployments,
    erasures,
    files,
    jobs,
    keys,
    lineage,
    login,
    members,
    policies,
    roles,
    service,
    service_accounts,
    shares,
    usage,
    users,
    verify,
    webhooks,
    workers,
)
from cli.audit_verify import NotVerified
from cli.connection import JsonObject, Refused, Unreachable
from cli.endpoint import EndpointUnknown
from cli.gguf import NotConverted
from cli.jobs import NotMeasured, WatchingEnded
from cli.login import NotSignedIn
from cli.output import Column, Output, plain
from cli.policies import Undecided
from cli.pull import AdapterDamaged, FolderInUse
from cli.session import NotNamed, Options, Session
from domain.refusals import DepartmentNeeded, Refusal

JSON_FLAG = "--json"
DEPARTMENT_OPTION = "--department"
# The other root options whose value is a word of its own.
VALUE_OPTIONS = ("--base-url", "--api-key", "--endpoint")
AUDIT = "audit"
MAX_FINDINGS = 10
# Exit status of a check that could not be made.
UNDECIDED = 2
BASE_URL_VARIABLE = "TSUGIKI_BASE_URL"
API_KEY_VARIABLE = "TSUGIKI_API_KEY"
DEPARTMENT_VARIABLE = "TSUGIKI_DEPARTMENT"
DEPARTMENT_REQUIRED = DepartmentNeeded.code

app = typer.Typer(
    help=f"""Fine-tune adapters of one frozen base model, governed from their data to the server that runs them.

    {BASE_URL_VARIABLE} says where the service is, {API_KEY_VARIABLE} is your key, and {DEPARTMENT_VARIABLE} is the
    department to act in where the key stands outside all.""",
    no_args_is_help=True,
    add_completion=False,
    # The edge below prints errors; a bug shows the plain traceback, without local values.
    pretty_exceptions_enable=False,
)


def _say_version(wanted: bool) -> None:  # noqa: FBT001 - typer hands the value over by position
    if wanted:
        sys.stdout.write(f"tsugiki {metadata.version('tsugiki')}\n")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    *,
    base_url: Annotated[
        str | None, typer.Option(envvar=BASE_URL_VARIABLE, help="Where the service is, ending in /v1.")
    ] = None,
    # Hidden: whoever lists processes reads a key on a command line, and not one in the environment.
    api_key: Annotated[str | None, typer.Option(envvar=API_KEY_VARIABLE, hidden=True)] = None,
    endpoint: Annotated[
        Path | None,
        typer.Option(help="endpoint.json of a local service; ./.tsugiki/endpoint.json when left out."),
    ] = None,
    department: Annotated[
        str | None,
        typer.Option(
            envvar=DEPARTMENT_VARIABLE,
            help="Name or id of the department to act in; the key's own when left out. Works after a command too.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option(JSON_FLAG, help="Print the API's objects; works after a command too.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Remember who calls and how to answer; nothing connects before a command needs it."""
    _ = version
    options = Options(base_url=base_url, api_key=api_key, endpoint_file=endpoint, department=department)
    context.obj = session = Session(options, Output(as_json=as_json))
    context.call_on_close(session.close)


@app.command()
def whoami(context: typer.Context) -> None:
    """Show whom the key acts for, in which department, with which roles."""
    session = Session.of(context)
    columns = (
        Column("type", "type"),
        Column("id", "id"),
        Column("department", "department"),
        Column("roles", "roles"),
        Column("key", "key_id"),
        Column("service", lambda _: session.endpoint.base_url),
    )
    session.output.one(session.connection.get("me"), columns)


SERVICE = "Running the service"
NOUNS = {
    "departments": departments.app,
    "members": members.app,
    "roles": roles.app,
    "users": users.app,
    "keys": keys.app,
    "service-accounts": service_accounts.app,
    "base-models": base_models.app,
    "files": files.app,
    "jobs": jobs.app,
    "adapters": adapters.app,
    "approvals": approvals.app,
    "policy": policies.app,
    "deployments": deployments.app,
    "erasures": erasures.app,
    "webhooks": webhooks.app,
    "shares": shares.app,
    "break-glass": break_glass.app,
    "workers": workers.app,
}
for name, noun in NOUNS.items():
    app.add_typer(noun, name=name, no_args_is_help=True)
app.command()(login.login)
app.command()(login.logout)
app.command()(access.access)
app.command()(lineage.lineage)
audit.app.command("query")(audit_questions.query)
audit.app.command("export")(audit_questions.export)
audit.app.command("verify")(audit_verify.verify_trail)
app.add_typer(audit.app, name=AUDIT)
app.command()(usage.usage)
app.command()(verify.verify)
app.command("signing-key")(verify.signing_key)
for start in (service.up, service.api, service.worker, service.beat, service.migrate):
    app.command(rich_help_panel=SERVICE)(start)


def main() -> None:
    """Run the command line and exit: 0, 1 where the service or the machine says no, 2 for a wrong command.

    2 too for a check that could not be made, and 130 where Ctrl-C ends it.
    """
    try:
        app(args=hoisted(sys.argv[1:]))
    except (Refused, Refusal) as refused:
        _fail(_told(refused), code=refused.code, param=refused.param, details=refused.details)
    except Undecided as undecided:
        why = undecided.error
        if isinstance(why, (Refused, Refusal)):
            _fail(_told(why), code=why.code, param=why.param, details=why.details, status=UNDECIDED)
        _fail(str(why), status=UNDECIDED)
    except WatchingEnded as ended:
        sys.stderr.write(f"The job goes on: tsugiki jobs watch {ended}\n")
        sys.exit(128 + signal.SIGINT)
    except (
        Unreachable,
        EndpointUnknown,
        AdapterDamaged,
        FolderInUse,
        NotConverted,
        NotMeasured,
        NotNamed,
        NotSignedIn,
        NotVerified,
    ) as fact:
        _fail(str(fact))
    except OSError as error:
        # The path and the system's own words: a full disk, a folder that may not be written.
        _fail(f"{error.filename or 'This machine'}: {error.strerror}")


def hoisted(arguments: list[str]) -> list[str]:
    """`--json` and `--department` are options of the root command; wherever they stand, they count.

    `audit --department` is its own: it may be repeated. Of two departments the last is taken, as of any option.
    """
    own, literal = arguments, []
    if "--" in arguments:
        at = arguments.index("--")
        own, literal = arguments[:at], arguments[at:]
    lifted: list[str] = []
    rest: list[str] = []
    command: str | None = None
    words = iter(own)
    for word in words:
        name = word.partition("=")[0]
        takes = [word, *itertools.islice(words, 1)] if word == DEPARTMENT_OPTION or _is_roots(word, command) else [word]
        if word == JSON_FLAG or (name == DEPARTMENT_OPTION and command != AUDIT):
            lifted += takes
        else:
            rest += takes
        if command is None and not word.startswith("-"):
            command = word
    return [*lifted, *rest, *literal]


def _is_roots(word: str, command: str | None) -> bool:
    """Whether the next word is this root option's value, and not yet the command."""
    return command is None and word in VALUE_OPTIONS


def _told(refused: Refused | Refusal) -> str:
    """The message, and what it means at a command line."""
    if isinstance(refused, Refused) and refused.code == DEPARTMENT_REQUIRED:
        return "This key stands outside all departments: say which with --department."
    return refused.message


def _fail(
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    details: Sequence[JsonObject] = (),
    status: int = 1,
) -> NoReturn:
    lines = [f"error: {plain(message)}{_facts(code, param)}"]
    # The first finding is the message itself.
    further = details[1:] if details and details[0].get("message") == message else details
    lines += [
        f"  {plain(each.get('message'))}{_facts(each.get('code'), each.get('param'))}"
        for each in further[:MAX_FINDINGS]
    ]
    if (left := len(further) - MAX_FINDINGS) > 0:
        lines.append(f"  and {left} more")
    sys.stderr.write("\n".join(lines) + "\n")
    sys.exit(status)


def _facts(code: str | None, param: str | None) -> str:
    facts = ", ".join(f"{name} {plain(value)}" for name, value in (("code", code), ("param", param)) if value)
    return f" ({facts})" if facts else ""


if __name__ == "__main__":
    main()
