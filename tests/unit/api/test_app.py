import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from api.app import refuse_open
from api.deps import Authenticated, needs
from api.openapi import permissions_of
from api.routes import ROUTERS
from domain.access import Permission


def routes_of(router: APIRouter) -> list[APIRoute]:
    return [route for route in router.routes if isinstance(route, APIRoute)]


def test_a_route_that_asks_for_no_key_or_no_permission_stops_the_start() -> None:
    router = APIRouter(prefix="/v1/open")

    @router.get("/closed", dependencies=[needs(Permission.JOB_READ)])
    def closed(caller: Authenticated) -> str:
        return str(caller)

    refuse_open(routes_of(router))

    @router.get("/door")
    def door() -> str:
        return "come in"

    with pytest.raises(RuntimeError, match="/v1/open/door asks for no key"):
        refuse_open(routes_of(router))
    router.routes.pop()

    @router.get("/window")
    def window(caller: Authenticated) -> str:
        return str(caller)

    with pytest.raises(RuntimeError, match="/v1/open/window asks for no permission"):
        refuse_open(routes_of(router))


def test_every_permission_but_what_services_ask_of_themselves_is_some_routes() -> None:
    declared = {permission for router in ROUTERS for route in routes_of(router) for permission in permissions_of(route)}
    # Asked for inside: the list of all departments, and a class that an upload lowers.
    assert set(Permission) - declared == {Permission.DEPARTMENT_LIST, Permission.FILE_CLASSIFY}


def test_every_route_is_under_v1() -> None:
    assert all(route.path.startswith("/v1/") for router in ROUTERS for route in routes_of(router))
