"""Base models: proposed as a manifest, then filled file by file."""

from collections.abc import AsyncIterator
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Depends, Path, Request

from api.bodies import json_body
from api.deps import Authenticated, needs
from api.objects.base_models import BaseModelObject, BaseModelRequest
from api.objects.shape import Page, page_of
from api.uploads import Spool, open_spool, receive_raw
from domain.access import Permission
from domain.base_models import BaseModelFacts, WeightsFacts, facts_of_config, weights_of_header
from domain.digests import ManifestFile
from domain.refusals import BodyTooLarge, ChecksumMismatch
from services import base_models
from storage.keys import Key

router = APIRouter(prefix="/v1/base_models", tags=["Base models"])

Name = Annotated[str, Path(description="A base model's name.")]
FilePath = Annotated[str, Path(description="The file's path in the folder.")]
_OCTETS = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("", summary="Propose a base model", dependencies=[needs(Permission.BASE_MODEL_REGISTER)])
def create(
    caller: Authenticated, proposed: Annotated[BaseModelRequest, json_body(BaseModelRequest)]
) -> BaseModelObject:
    """Say which files it consists of; then upload each. The same manifest again answers with what is here already.

    A name never stands for other files than at first.
    """
    manifest = proposed.manifest()
    max_bytes = caller.runtime.settings.max_base_model_file_bytes
    if any(file.bytes > max_bytes for file in manifest.files):
        raise BodyTooLarge(f"A file of a base model has {max_bytes} bytes at most.", param="files")
    with caller.anywhere() as session:
        found = base_models.propose(
            session, caller.principal, name=proposed.id, source=proposed.source, manifest=manifest
        )
        return BaseModelObject.of(found)


@router.get("", summary="List base models", dependencies=[needs(Permission.BASE_MODEL_READ)])
def list_all(caller: Authenticated) -> Page[BaseModelObject]:
    """Every base model, newest first, ready or not."""
    with caller.anywhere() as session:
        return page_of(map(BaseModelObject.of, base_models.list_all(session, caller.principal)))


@router.get("/{base_model}", summary="Look at a base model", dependencies=[needs(Permission.BASE_MODEL_READ)])
def retrieve(caller: Authenticated, base_model: Name) -> BaseModelObject:
    """A base model, and which of its files are here."""
    with caller.anywhere() as session:
        return BaseModelObject.of(base_models.get(session, caller.principal, base_model))


def _expected(caller: Authenticated, base_model: Name, path: FilePath) -> ManifestFile:
    with caller.anywhere() as session:
        return base_models.expected_file(session, caller.principal, base_model, path)


Expected = Annotated[ManifestFile, Depends(_expected)]


async def _received(request: Request, caller: Authenticated, expected: Expected) -> AsyncIterator[Spool]:
    """The body in a spool; a caller who may not, or a file that nobody waits for, is refused before it is read."""
    with open_spool(caller.runtime.settings.work_dir, max_bytes=expected.bytes) as spool:
        try:
            await receive_raw(request, spool)
        except BodyTooLarge:
            raise _mismatch() from None
        yield spool


def _mismatch() -> ChecksumMismatch:
    return ChecksumMismatch("The bytes are not those of the manifest.", param="path")


@router.put(
    "/{base_model}/files/{path:path}",  # noqa: FAST003 - taken by _expected
    summary="Upload a base model's file",
    dependencies=[needs(Permission.BASE_MODEL_REGISTER)],
    openapi_extra=_OCTETS,
)
def upload_file(
    caller: Authenticated,
    base_model: Name,
    expected: Expected,
    spool: Annotated[Spool, Depends(_received)],
) -> BaseModelObject:
    """Upload the bytes of one file. With the last one the base model is ready."""
    if (spool.digest, spool.size_bytes) != (expected.digest, expected.bytes):
        raise _mismatch()
    config, weights = _config(expected.path, spool.stream), _weights(expected.path, spool.stream)
    spool.stream.seek(0)
    caller.runtime.objects.put(Key.base_model(expected.digest), spool.stream, expected.digest, expected.bytes)
    with caller.anywhere() as session:
        found = base_models.record_file(
            session, caller.principal, base_model, expected.path, config=config, weights=weights
        )
        return BaseModelObject.of(found)


def _config(path: str, stream: BinaryIO) -> BaseModelFacts | None:
    return facts_of_config(stream.read()) if path == "config.json" else None


def _weights(path: str, stream: BinaryIO) -> WeightsFacts | None:
    return weights_of_header(stream) if path.endswith(".safetensors") else None
