"""`tsugiki departments`."""

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer

from cli.connection import JsonObject
from cli.output import Column, number, size, when
from cli.session import Session
from domain.data_classes import DataClass

app = typer.Typer(help="Departments: the tenants, each with its own people, files, jobs and adapters.")

COLUMNS = (
    Column("name", "name"),
    Column("id", "id"),
    Column("status", "status"),
    Column("created", lambda item: when(item["created_at"])),
    Column("files are", "default_data_class"),
)
NO_LIMIT = "none"


def _of(limit: str, have: str, shown: Callable[[float], str] = str) -> Callable[[JsonObject], str]:
    """`3 of 10`: what there is, and how much of it there may be."""

    def told(item: JsonObject) -> str:
        most = item[limit]
        return f"{shown(item['in_use'][have])} of {NO_LIMIT if most is None else shown(most)}"

    return told


LIMIT_COLUMNS = (
    Column("running jobs", _of("max_running_jobs", "running_jobs")),
    Column("unfinished jobs", _of("max_unfinished_jobs", "unfinished_jobs")),
    Column("GPU-hours this month", _of("max_gpu_hours", "gpu_hours", lambda hours: number(hours, digits=2))),
    Column("storage", _of("max_storage_bytes", "storage_bytes", size)),
    Column("spent this month", _of("monthly_budget", "amount", lambda amount: number(amount, digits=2))),
    Column("weight", "weight"),
    Column("preempts", "preempts"),
    Column("currency", "currency"),
    Column("month ends", lambda item: when(item["month_ends_at"])),
    Column("warned of its budget", lambda item: when(item["budget_warned_at"])),
)


@app.command()
def create(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Letters, digits, '.', '_', '-'.")]
) -> None:
    """Create a department; the operator's to do."""
    session = Session.of(context)
    created = session.connection.post("organization", "projects", body={"name": name})
    session.output.said(created, f"Created the department {created['name']}: {created['id']}")


@app.command("list")
def list_all(context: typer.Context) -> None:
    """List the departments that the key may see."""
    session = Session.of(context)
    session.output.rows(session.connection.pages("organization", "projects"), COLUMNS)


@app.command()
def show(context: typer.Context, department: Annotated[str, typer.Argument(help="Name or id.")]) -> None:
    """Show one department."""
    session = Session.of(context)
    session.output.one(session.connection.get("organization", "projects", session.department_id(department)), COLUMNS)


@app.command()
def change(
    context: typer.Context,
    department: Annotated[str, typer.Argument(help="Name or id.")],
    *,
    default_data_class: Annotated[DataClass, typer.Option(help="Of files whose upload says nothing.")],
) -> None:
    """Say how confidential the department's files are by default; its admin's to do."""
    session = Session.of(context)
    path = ("organization", "projects", session.department_id(department))
    changed = session.connection.post(*path, body={"default_data_class": default_data_class.value})
    said = f"Files of {changed['name']} are {changed['default_data_class']} where their upload says nothing."
    session.output.said(changed, said)


@app.command()
def close(
    context: typer.Context,
    department: Annotated[str, typer.Argument(help="Name or id.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Close a department for ever; the operator's to do. Its rows and objects are erased later, its trail stays."""
    session = Session.of(context)
    if not yes:
        typer.confirm(f"{department}: end all keys and jobs, with no way back?", abort=True)
    closed = session.connection.post("organization", "projects", session.department_id(department), "archive")
    session.output.said(closed, f"Closed {closed['name']} at {when(closed['archived_at'])}.")


@app.command()
def limits(
    context: typer.Context,
    department: Annotated[str, typer.Argument(help="Name or id.")],
    *,
    max_running_jobs: Annotated[str | None, typer.Option(help="Jobs that run at a time.")] = None,
    max_unfinished_jobs: Annotated[str | None, typer.Option(help="Jobs that are not finished, at a time.")] = None,
    max_gpu_hours: Annotated[str | None, typer.Option(help="GPU-hours of a calendar month.")] = None,
    max_storage_bytes: Annotated[str | None, typer.Option(help="Bytes kept.")] = None,
    monthly_budget: Annotated[str | None, typer.Option(help="What a calendar month may cost.")] = None,
    weight: Annotated[str | None, typer.Option(help="Its share of the devices beside the others' weights.")] = None,
    preempts: Annotated[
        bool | None, typer.Option(help="Let its more urgent jobs take the place of its running ones.")
    ] = None,
) -> None:
    """Show what a department may use and has used. With options, set limits, the operator's to do; `none` lifts one."""
    session = Session.of(context)
    asked = {
        "max_running_jobs": max_running_jobs,
        "max_unfinished_jobs": max_unfinished_jobs,
        "max_gpu_hours": max_gpu_hours,
        "max_storage_bytes": max_storage_bytes,
        "monthly_budget": monthly_budget,
        "weight": weight,
    }
    changes: JsonObject = {name: _limit(name, value) for name, value in asked.items() if value is not None}
    if preempts is not None:
        changes["preempts"] = preempts
    path = ("organization", "projects", session.department_id(department), "limits")
    connection = session.connection
    found = connection.post(*path, body=changes) if changes else connection.get(*path)
    session.output.one(found, LIMIT_COLUMNS)


def _limit(name: str, value: str) -> float | None:
    if value == NO_LIMIT:
        return None
    try:
        wanted = Decimal(value)
    except InvalidOperation:
        wanted = Decimal("nan")
    if not wanted.is_finite():
        raise typer.BadParameter(f"a number, or {NO_LIMIT}", param_hint=f"--{name.replace('_', '-')}")
    return int(wanted) if wanted == wanted.to_integral_value() else float(wanted)
