"""Every route, for every role: on its own object, another's, another department's, and a missing one.

What is expected comes from `domain.access.MATRIX` and from the permission that each route declares, and from nothing
else but `RULES`, which are the rules beside the table.
"""

import sys
from collections.abc import Callable, Iterator, Mapping

import httpx
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import create_engine

from api.app import create_app
from api.openapi import permissions_of
from api.routes import ROUTERS
from domain.access import MATRIX, PLATFORM_ROLES, Permission, Reach, Role, reach_of
from runtime.wiring import Runtime
from services.installation import PlatformKeys
from tests.integration.api.conftest import Finished
from tests.integration.api.rehearsal import Rehearsal
from tests.integration.api.world import (
    ALIAS,
    ANOTHERS,
    ELSEWHERE,
    FOREIGN,
    GRANTED,
    IMPORTS,
    MISSING,
    NOWHERE,
    OWN,
    PROJECT,
    SHARED,
    VERSION,
    World,
    furnish,
    govern,
)
from tests.integration.conftest import Database

Answer = tuple[int, str | None]
DENIED: Answer = (403, "permission_denied")
NOT_FOUND: Answer = (404, "not_found")
DONE: Answer = (200, None)
# There is no key of a worker's, and cannot be: test_row_level_security.
WITH_KEYS = tuple(role for role in Role if role is not Role.WORKER)


@pytest.fixture(scope="module")
def world(
    *, runtime: Runtime, database: Database, make_finished: Callable[[str], Finished], finish: Callable[..., None],
    platform_keys: PlatformKeys, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:  # fmt: skip
    ours, theirs = make_finished("ours"), make_finished("theirs")
    administrator = create_engine(database.admin_url)
    with TestClient(create_app(Rehearsal.of(runtime)), raise_server_exceptions=False) as client:
        made = World(client, ours.department.id)
        made.keys |= {Role.OPERATOR: platform_keys.operator, Role.AUDITOR: platform_keys.auditor}
        furnish(made, runtime, administrator, tmp_path_factory.mktemp("half"), ours=ours, theirs=theirs)
        govern(made, finish, ours=ours, theirs=theirs)
        yield made
    administrator.dispose()


def relations(route: APIRoute) -> tuple[str, ...]:
    """Whose the object of a route can be."""
    parameters = {parameter.name for parameter in route.dependant.path_params} | _nested(route)
    (method,) = route.methods
    if not parameters or f"{method} {route.path_format}" == IMPORTS:
        return (OWN,)
    if Permission.FILE_READ_CONTENT in permissions_of(route):
        return (OWN, GRANTED, ANOTHERS, FOREIGN, MISSING)
    if parameters <= SHARED:
        return (OWN, MISSING)
    if parameters == {"project_id"}:
        return (OWN, ANOTHERS, ELSEWHERE, NOWHERE)
    return (OWN, ANOTHERS, FOREIGN, MISSING, *((ELSEWHERE, NOWHERE) if "project_id" in parameters else ()))


def _nested(route: APIRoute) -> set[str]:
    return {part.strip("{}") for part in route.path_format.split("/") if part.startswith("{")}


# Rules beside the table: what is answered in place of what it says, to whom, about whose.
ANY = (OWN, ANOTHERS)
CLAIM, GLASS = "POST /v1/organization/role_grants/{grant_id}/key", "POST /v1/organization/break_glass/{glass_id}"
SAMPLE = "POST /v1/webhook_endpoints/{endpoint_id}/test"
RULES: Mapping[tuple[str, Role, str], Answer] = {
    (route, role, relation): answer
    for route, roles, relations, answer in (
        # A department that has an admin needs no first one, nor a key for them.
        (f"POST {PROJECT}/users", {Role.OPERATOR}, (*ANY, ELSEWHERE), DENIED),
        (f"POST {PROJECT}/users/{{user_id}}", {Role.OPERATOR}, (*ANY, ELSEWHERE), DENIED),
        (f"POST {PROJECT}/api_keys", {Role.OPERATOR}, ANY, DENIED),
        # The person of the body is no member there.
        (f"POST {PROJECT}/api_keys", {Role.OPERATOR}, (ELSEWHERE,), NOT_FOUND),
        # People are the organisation's.
        ("GET /v1/organization/users/{user_id}", PLATFORM_ROLES, (FOREIGN,), DONE),
        # A platform's role is for whom it was given to; nobody else learns that it is there.
        (CLAIM, set(Role), (ANOTHERS,), NOT_FOUND),
        (CLAIM, {Role.TRAINER, Role.DATA_STEWARD, Role.DEPARTMENT_ADMIN, Role.APPROVER}, (OWN,), NOT_FOUND),
        # What is open is not opened again, and its key is for who asked for it.
        (f"{GLASS}/open", {Role.OPERATOR}, (OWN,), (409, "already_decided")),
        (f"{GLASS}/key", {Role.OPERATOR}, (ANOTHERS,), NOT_FOUND),
        # It begins with a token of the identity provider: test_sign_in.
        ("POST /v1/sessions", set(Role) - PLATFORM_ROLES, (OWN,), DENIED),
        # It leads to an address where nothing is sent.
        (SAMPLE, {Role.DEPARTMENT_ADMIN, Role.OPERATOR}, ANY, (400, "forbidden_address")),
        # What an alias stands for stays.
        (f"POST {VERSION}/retire", {Role.DEPARTMENT_ADMIN}, ANY, (409, "in_use")),
        (f"DELETE {VERSION}", {Role.DEPARTMENT_ADMIN}, ANY, (409, "in_use")),
        ("DELETE /v1/models/{model}", {Role.DEPARTMENT_ADMIN}, ANY, (409, "in_use")),
        # It has stood for one version only; and an emergency rolls back what is protected.
        (f"POST {ALIAS}/rollback", {Role.TRAINER, Role.DEPARTMENT_ADMIN}, ANY, (409, "no_earlier_version")),
        (f"POST {ALIAS}/rollback", {Role.BREAK_GLASS}, ANY, DENIED),
    )
    for role in roles
    for relation in relations
}


def expected(route: APIRoute, role: Role, relation: str) -> Answer:
    """What the table says."""
    (method,) = route.methods
    reaches = [reach_of([role], permission) for permission in permissions_of(route)]
    reach = max((reach for reach in reaches if reach), key=tuple(Reach).index, default=None)
    if reach is None:
        return DENIED
    # Who stands outside departments acts in any that is named.
    named = relation == ELSEWHERE and role in PLATFORM_ROLES
    if (rule := RULES.get((f"{method} {route.path_format}", role, relation))) is not None:
        return rule
    if relation in {FOREIGN, MISSING, ELSEWHERE, NOWHERE} and not named:
        return NOT_FOUND
    if (reach is Reach.GRANTED and relation != GRANTED) or (reach is Reach.OWN and relation != OWN):
        return DENIED
    return DONE


def said(answer: httpx.Response) -> Answer:
    if answer.is_success:
        return (200, None)
    error = answer.json()["error"]
    return (answer.status_code, error["code"])


def routes() -> list[APIRoute]:
    return [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]


def test_every_role_gets_from_every_route_what_the_table_says(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    cells, deviations = 0, []
    for route in routes():
        for role in WITH_KEYS:
            answers = {}
            for relation in relations(route):
                answer = answers[relation] = world.ask(route, role, relation)
                cells += 1
                if said(answer) != expected(route, role, relation):
                    wanted = expected(route, role, relation)
                    deviations.append(f"{route.methods} {route.path} {role} {relation}: {said(answer)} not {wanted}")
            deviations += _told_apart(route, role, answers)
    with capsys.disabled():
        sys.stdout.write(f"\naccess matrix: {len(routes())} routes, {cells} cells, {len(deviations)} deviations\n")
    assert not deviations, "\n".join(deviations)
    assert {permission for route in routes() for permission in permissions_of(route)} <= set(Permission)


def _told_apart(route: APIRoute, role: Role, answers: Mapping[str, httpx.Response]) -> list[str]:
    """Another department's object and a missing one answer with the same bytes, but for the request's id."""
    found = []
    for foreign, missing in ((FOREIGN, MISSING), (ELSEWHERE, NOWHERE)):
        # To who stands outside departments all of them are known.
        if foreign not in answers or (
            role in PLATFORM_ROLES and (foreign == ELSEWHERE or said(answers[foreign]) == DONE)
        ):
            continue
        if _bytes(answers[foreign]) != _bytes(answers[missing]):
            found.append(f"{route.methods} {route.path} {role}: {foreign} is told from {missing}")
    return found


def _bytes(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    headers = {name: value for name, value in answer.headers.items() if name not in {"x-request-id", "date"}}
    return answer.status_code, answer.content, headers


def test_a_table_that_says_something_else_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # The negative control: a row of the table changed for the application alone.
    row = {role: reach for role, reach in MATRIX[Permission.JOB_SUBMIT].items() if role is not Role.TRAINER}
    (route,) = (each for each in routes() if each.path == "/v1/fine_tuning/jobs" and each.methods == {"POST"})
    wanted = expected(route, Role.TRAINER, OWN)
    assert said(world.ask(route, Role.TRAINER, OWN)) == wanted
    monkeypatch.setitem(MATRIX, Permission.JOB_SUBMIT, row)
    assert said(world.ask(route, Role.TRAINER, OWN)) != wanted
