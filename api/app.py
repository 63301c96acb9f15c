"""The application: routes, the layer around them, and the check that none of them is open."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline

from api import errors, openapi
from api.denials import DenialBudget
from api.deps import authenticated
from api.edge import Edge
from api.routes import ROUTERS, health
from runtime.wiring import Runtime

_DESCRIPTION = """Fine-tuning for organisations, on the OpenAI client's surface: an existing script moves by changing
its `base_url`. A *project* is a department. Every error has the one body of `ErrorAnswer`; ids begin with their kind.
"""


def create_app(runtime: Runtime) -> FastAPI:
    """Wire the routes to a runtime, which the application closes when it ends."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        runtime.close()

    # Serves what the page /docs needs by itself: an installation has no way out.
    app = FastAPIOffline(
        title="Tsugiki", description=_DESCRIPTION, version="1", lifespan=lifespan, redirect_slashes=False,
        redoc_url=None, generate_unique_id_function=_operation,
    )  # fmt: skip
    app.state.runtime = runtime
    app.state.denials = DenialBudget()
    app.include_router(health.router)
    for router in ROUTERS:
        app.include_router(router, responses={"default": {"model": errors.ErrorAnswer, "description": "A refusal."}})
    routes = _routes(ROUTERS)
    refuse_open(routes)
    openapi.install(app, routes)
    errors.install(app)
    app.add_middleware(Edge)
    return app


def _operation(route: APIRoute) -> str:
    """`jobs_create`: what generated clients call it."""
    return f"{route.endpoint.__module__.rpartition('.')[2]}_{route.name}"


def _routes(routers: Sequence[APIRouter]) -> list[APIRoute]:
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]


def refuse_open(routes: Sequence[APIRoute]) -> None:
    """Raise where a route could be called by nobody in particular, or by anybody."""
    for route in routes:
        if authenticated not in openapi.calls_of(route.dependant):
            raise RuntimeError(f"{route.path} asks for no key")
        if not openapi.permissions_of(route):
            raise RuntimeError(f"{route.path} asks for no permission")
