from typing import Any, Literal

from pydantic import Field, StrictInt, StrictStr

from api.objects.shape import Body, Identified, Shape, seconds
from domain.digests import PATH_PATTERN, Digest, Manifest, ManifestFile
from models_db.base_models import BaseModel, BaseModelFile


class ProposedFile(Body):
    """A file that a base model consists of."""

    path: StrictStr = Field(
        description="Path in the folder, with forward slashes; no part begins with a dot.",
        pattern=PATH_PATTERN,
        max_length=512,
    )
    bytes: StrictInt = Field(description="Size.", ge=0)
    digest: Digest = Field(description="`sha256:` and 64 hex digits.")


class BaseModelRequest(Body):
    """A base model to be uploaded, as the manifest of its folder."""

    id: StrictStr = Field(description="The name that jobs will use as `model`.")
    source: StrictStr = Field(description="Where it came from, for people: a URL, a hub id, a licence.", max_length=512)
    files: list[ProposedFile] = Field(description="Every file of the folder.", min_length=1, max_length=1000)

    def manifest(self) -> Manifest:
        """The files as a manifest."""
        return Manifest.of(ManifestFile(path=f.path, bytes=f.bytes, digest=f.digest) for f in self.files)


class BaseModelFileObject(Shape):
    """A file of a base model."""

    path: str = Field(description="Path in the folder.")
    bytes: int = Field(description="Size.")
    digest: Digest = Field(description="What its bytes must come to.")
    uploaded: bool = Field(description="Whether its bytes are here.")

    @classmethod
    def of(cls, file: BaseModelFile) -> "BaseModelFileObject":
        """From its row."""
        return cls(path=file.path, bytes=file.bytes, digest=file.digest, uploaded=file.uploaded_at is not None)


class BaseModelObject(Identified):
    """A frozen pretrained model, shared by all departments."""

    id: str = Field(description="Its name.")
    object: Literal["base_model"] = Field(default="base_model", description="Always `base_model`.")
    status: str = Field(description="`uploading` until every file is here, then `ready`.")
    digest: Digest = Field(description="Of its manifest: it never changes.")
    source: str = Field(description="Where it came from, for people.")
    facts: dict[str, Any] = Field(description="What its files say: architecture, context length, parameters, layers.")
    files: list[BaseModelFileObject] = Field(description="Its files, by path.")
    created_at: int = Field(description="When it was proposed, in seconds since 1970.")

    @classmethod
    def of(cls, base_model: BaseModel) -> "BaseModelObject":
        """From its row."""
        return cls(
            id=base_model.name,
            status=base_model.state,
            digest=base_model.digest,
            source=base_model.source,
            facts=base_model.facts,
            files=[BaseModelFileObject.of(file) for file in base_model.files],
            created_at=seconds(base_model.created_at),
        )
