"""Models as the client lists them: ready base models, and the department's fine-tuned ones."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.deps import Authenticated, needs
from api.objects.models import ModelList, ModelObject
from api.objects.shape import Deleted
from domain.access import Permission
from domain.refusals import NotFound
from services import adapters, base_models, versions

router = APIRouter(prefix="/v1/models", tags=["Models"])

Model = Annotated[str, Path(description="A base model's name, or `ft:…`.")]


@router.get("", summary="List models", dependencies=[needs(Permission.ADAPTER_READ)])
def list_all(caller: Authenticated) -> ModelList:
    """What can be named as `model`: ready base models, and the department's adapter versions."""
    organisation = caller.runtime.settings.organisation
    with caller.anywhere() as session:
        ready = [found for found in base_models.list_all(session, caller.principal) if found.state == base_models.READY]
        versions = adapters.list_models(session, caller.principal)
        data = [ModelObject.of_base_model(found, organisation=organisation) for found in ready]
        data += [ModelObject.of_version(found, organisation=organisation) for found in versions]
        return ModelList(data=data)


@router.get("/{model}", summary="Look at a model", dependencies=[needs(Permission.ADAPTER_READ)])
def retrieve(caller: Authenticated, model: Model) -> ModelObject:
    """One model by name."""
    organisation = caller.runtime.settings.organisation
    with caller.anywhere() as session:
        version = adapters.find_model(session, caller.principal, model)
        if version is not None:
            return ModelObject.of_version(version, organisation=organisation)
        base_model = base_models.find(session, caller.principal, model)
        if base_model is None or base_model.state != base_models.READY:
            raise NotFound("No such model.", param="model")
        return ModelObject.of_base_model(base_model, organisation=organisation)


@router.delete("/{model}", summary="Delete a fine-tuned model", dependencies=[needs(Permission.ADAPTER_DELETE)])
def delete(caller: Authenticated, model: Model) -> Deleted:
    """Delete the adapter version behind an `ft:…` name, as `DELETE /v1/adapters/{name}/versions/{version}` does.

    A base model is deleted by nobody.
    """
    with caller.in_department() as session:
        version = adapters.find_model(session, caller.principal, model)
        if version is None:
            raise NotFound("No such fine-tuned model.", param="model")
        digests = versions.delete(session, caller.principal, version)
    caller.erase_blobs(digests)
    return Deleted(id=model, object="model")
