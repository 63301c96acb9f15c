"""JSON bodies: read with a limit, parsed strictly, checked against one model, and said in the OpenAPI document."""

from dataclasses import dataclass
from typing import Annotated, Any, Generic

from fastapi import Depends, Request

from api.deps import Authenticated, Caller
from domain import strict_json
from domain.parsing import Model, parse_as
from domain.refusals import BodyTooLarge, UnsupportedMediaType


def refuse_encoded(request: Request) -> None:
    """A compressed body is refused: a small one may unpack to any size."""
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("A compressed body is not accepted.")


def media_type(request: Request) -> str:
    """The body's type, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def raw_json(request: Request, caller: Authenticated) -> bytes:
    """The whole body of an authenticated request, as long as it is JSON and small enough."""
    return await _read(request, caller, "application/json")


async def raw_yaml(request: Request, caller: Authenticated) -> bytes:
    """The whole body of an authenticated request, as long as it is called YAML (RFC 9512) and small enough."""
    return await _read(request, caller, "application/yaml")


async def _read(request: Request, caller: Caller, expected: str) -> bytes:
    if media_type(request) != expected:
        raise UnsupportedMediaType(f"The body must be {expected}.")
    refuse_encoded(request)
    max_bytes = caller.runtime.settings.max_body_bytes
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise BodyTooLarge(f"The body is larger than {max_bytes} bytes.")
    return bytes(body)


YamlBody = Annotated[bytes, Depends(raw_yaml)]
# How the OpenAPI document tells of it.
YAML_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/yaml": {"schema": {"type": "string", "description": "The document."}}},
    }
}


@dataclass(frozen=True)
class JsonBody(Generic[Model]):
    """A dependency that gives the body as `model`. `api.openapi` finds it and describes the body."""

    model: type[Model]

    def __call__(self, raw: Annotated[bytes, Depends(raw_json)]) -> Model:
        """Parse; runs in a worker thread, so that a large body holds up nobody else."""
        return parse_as(self.model, strict_json.parse(raw))


def json_body(model: type[Model]) -> Any:
    """What `Annotated` takes to make a parameter the parsed body: `Annotated[JobRequest, …]`."""
    return Depends(JsonBody(model))
