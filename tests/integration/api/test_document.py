"""The OpenAPI document says everything that a client generator, and a reader, needs."""

import re
from typing import Any

import httpx
import pytest

WITHOUT_BODY = (
    "/cancel", "/pause", "/resume", "/drain", "/undrain", "{worker_id}/retire", "/rollback", "/withdraw",
    "{share_id}/approve", "/archive", "{grant_id}/confirm", "/open", "{glass_id}/key", "/close",
)  # fmt: skip


@pytest.fixture(scope="module")
def document(api_url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(api_url.removesuffix("/v1") + "/openapi.json", timeout=60).json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, found in document["paths"].items()
        for method, operation in found.items()
    ]


def test_every_operation_is_told_of(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name
        assert all(parameter.get("description") for parameter in operation.get("parameters", [])), name
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names)


def test_every_field_is_told_of(document: dict[str, Any]) -> None:
    untold = {
        f"{name}.{field}"
        for name, schema in document["components"]["schemas"].items()
        for field, described in schema.get("properties", {}).items()
        if not described.get("description")
    }
    assert untold == set()


def test_every_body_is_told_of_and_errors_have_one_shape(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        takes_a_body = name.startswith(("POST", "PUT")) and not name.endswith(WITHOUT_BODY)
        assert ("requestBody" in operation) == takes_a_body, name
        if "/v1/" in name:
            answer = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert answer == {"$ref": "#/components/schemas/ErrorAnswer"}, name
            assert "422" not in operation["responses"], name
            assert operation["security"], name


def test_the_interactive_page_loads_nothing_from_elsewhere(api_url: str) -> None:
    with httpx.Client(base_url=api_url.removesuffix("/v1")) as browser:
        page = browser.get("/docs").raise_for_status().text
        sources = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(sources) >= 2
        for source in sources:
            assert source.startswith("/")
            assert browser.get(source).is_success
