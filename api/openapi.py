"""The OpenAPI document: FastAPI's own, and what it cannot see, which is how our JSON bodies look."""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from api.bodies import JsonBody
from api.deps import Needs
from domain.access import Permission

_REF = "#/components/schemas/{model}"


def install(app: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Make `app.openapi()` describe the bodies of these routes as well."""
    generate = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _describe_bodies(document, routes)
            _tell_permissions(document, routes)
            _drop_validation_errors(document)
        assert app.openapi_schema is not None  # noqa: S101 - FastAPI keeps what it generated
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _describe_bodies(document: dict[str, Any], routes: Sequence[APIRoute]) -> None:
    bodies = [(route, body) for route in routes if (body := _body_of(route))]
    _, schemas = models_json_schema([(body.model, "validation") for _, body in bodies], ref_template=_REF)
    document["components"]["schemas"] |= schemas.get("$defs", {})
    for route, body in bodies:
        schema = {"$ref": _REF.format(model=body.model.__name__)}
        for method in route.methods or ():
            document["paths"][route.path][method.lower()]["requestBody"] = {
                "required": True, "content": {"application/json": {"schema": schema}},
            }  # fmt: skip


def _body_of(route: APIRoute) -> JsonBody[Any] | None:
    return next((call for call in calls_of(route.dependant) if isinstance(call, JsonBody)), None)


def permissions_of(route: APIRoute) -> tuple[Permission, ...]:
    """Those of which the route needs one; none where it declares none."""
    declared = (call for call in calls_of(route.dependant) if isinstance(call, Needs))
    return next((needs.permissions for needs in declared), ())


def _tell_permissions(document: dict[str, Any], routes: Sequence[APIRoute]) -> None:
    for route in routes:
        for method in route.methods or ():
            document["paths"][route.path_format][method.lower()]["x-permissions"] = list(permissions_of(route))


def calls_of(dependant: Dependant) -> Iterator[Any]:
    """Every dependency of a route, however deep."""
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from calls_of(dependency)


def _drop_validation_errors(document: dict[str, Any]) -> None:
    """FastAPI promises a 422 of its own; here a wrong parameter is a 400 in the one error body."""
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
