from typing import Literal

from pydantic import Field

from api.objects.shape import Shape, seconds
from models_db.adapters import AdapterVersion
from models_db.base_models import BaseModel


class ModelObject(Shape):
    """A model as the client knows it: a base model, or a fine-tuned one, which is an adapter version."""

    id: str = Field(description="The name to use as `model`.")
    object: Literal["model"] = Field(default="model", description="Always `model`.")
    created: int = Field(description="When it was made, in seconds since 1970.")
    owned_by: str = Field(description="The organisation.")

    @classmethod
    def of_base_model(cls, base_model: BaseModel, *, organisation: str) -> "ModelObject":
        """From a base model's row."""
        return cls(id=base_model.name, created=seconds(base_model.created_at), owned_by=organisation)

    @classmethod
    def of_version(cls, version: AdapterVersion, *, organisation: str) -> "ModelObject":
        """From a version's row."""
        return cls(id=version.model_name, created=seconds(version.created_at), owned_by=organisation)


class ModelList(Shape):
    """All models, on one page."""

    object: Literal["list"] = Field(default="list", description="Always `list`.")
    data: list[ModelObject] = Field(description="Base models first, then the department's own, newest first.")
