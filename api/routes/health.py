"""For load balancers: is the process up, and is everything that it stands on."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from runtime import queue
from runtime.wiring import Runtime
from storage.errors import StorageError

router = APIRouter(tags=["Health"])

Condition = Literal["ok", "down"]
_UNAVAILABLE = 503


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = Field(default="ok", description="Always `ok`.")


class Readiness(BaseModel):
    """What the API stands on."""

    database: Condition = Field(description="PostgreSQL answers.")
    broker: Condition = Field(description="Valkey answers. While it is down, jobs are accepted and start later.")
    storage: Condition = Field(description="The object store answers, and has the bucket.")


@router.get("/healthz", summary="Is the process up?")
async def healthz() -> Alive:
    """Touches nothing else, and waits for none of the threads that do."""
    return Alive()


@router.get("/readyz", summary="Can the process serve?", responses={503: {"model": Readiness, "description": "No."}})
def readyz(request: Request, response: Response) -> Readiness:
    """Asks database, broker and storage; 503 where one is down."""
    runtime: Runtime = request.app.state.runtime
    found = Readiness(
        database="ok" if _database(runtime) else "down",
        broker="ok" if queue.answers(runtime.queue) else "down",
        storage="ok" if _storage(runtime) else "down",
    )
    if "down" in found.model_dump().values():
        response.status_code = _UNAVAILABLE
    return found


def _database(runtime: Runtime) -> bool:
    try:
        with runtime.platform() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return False
    return True


def _storage(runtime: Runtime) -> bool:
    try:
        runtime.objects.check()
    except StorageError:
        return False
    return True
