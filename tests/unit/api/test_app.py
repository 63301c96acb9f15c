import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from api.app import refuse_open
from api.deps import Authenticated
from api.routes import ROUTERS


def test_a_route_that_asks_for_no_key_stops_the_start() -> None:
    router = APIRouter(prefix="/v1/open")

    @router.get("/closed")
    def closed(caller: Authenticated) -> str:
        return str(caller)

    refuse_open([route for route in router.routes if isinstance(route, APIRoute)])

    @router.get("/door")
    def door() -> str:
        return "come in"

    with pytest.raises(RuntimeError, match="/v1/open/door"):
        refuse_open([route for route in router.routes if isinstance(route, APIRoute)])


def test_every_route_is_under_v1() -> None:
    assert all(str(router.prefix).startswith("/v1/") for router in ROUTERS)
