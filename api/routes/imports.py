"""Adapters from elsewhere: a PEFT folder in one request, checked before any library opens it."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi import Path as PathParameter
from starlette.concurrency import run_in_threadpool

from api.deps import Authenticated, Caller, needs
from api.objects.adapters import AdapterVersionObject
from api.routes.adapters import version_object
from api.uploads import receive_files
from domain.access import Permission
from domain.peft_folders import check_file_name, max_bytes_of
from domain.refusals import Invalid, Refusal, VersionWithdrawn
from runtime.importing import import_folder
from runtime.scratch import scratch_folder
from services import imports

router = APIRouter(prefix="/v1/adapters", tags=["Adapters"])

Name = Annotated[str, PathParameter(description="The adapter's name; its next version is made, or its first.")]
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "`adapter_config.json`, `adapter_model.safetensors`, and tokenizer files.",
                        },
                    },
                }
            }
        },
    }
}


async def _received(request: Request, caller: Authenticated, name: Name) -> AsyncIterator[Path]:
    """The files in a folder that is gone after the request; who may not import is told before the body is read.

    What refuses them, here or later, is all that is left: an audit event.
    """
    imports.begin(caller.principal, name)
    _ = caller.department
    settings = caller.runtime.settings
    with ExitStack() as stack:
        scratch = await run_in_threadpool(stack.enter_context, scratch_folder(settings.work_dir, "import"))
        # The folder's name stands in the signature.
        folder = scratch / name
        folder.mkdir()
        try:
            await receive_files(request, folder, partial(_max_bytes, settings.max_file_bytes))
            yield folder
        except (Invalid, VersionWithdrawn) as refusal:
            await run_in_threadpool(_note, caller, refusal)
            raise


def _max_bytes(max_weights_bytes: int, name: str) -> int:
    check_file_name(name)
    return max_bytes_of(name, max_weights_bytes)


def _note(caller: Caller, refusal: Refusal) -> None:
    with caller.in_department() as session:
        imports.refuse(session, caller.principal, refusal)


@router.post(
    "/{name}/imports",
    summary="Import an adapter",
    dependencies=[needs(Permission.ADAPTER_IMPORT)],
    openapi_extra=_FORM,
)
def create(caller: Authenticated, name: Name, folder: Annotated[Path, Depends(_received)]) -> AdapterVersionObject:
    """Propose an adapter made elsewhere. It becomes a candidate, to be approved like any other, or nothing of it stays.

    Its configuration names a base model that is registered here. Weights come as safetensors, and no file may hold
    code: not `.bin`, not a pickle, not a chat template.
    """
    version = import_folder(caller.runtime, caller.principal, name, folder, department=caller.department)
    with caller.in_department() as session:
        return version_object(session, caller, version, adapter=name)
