from datetime import timedelta
from typing import Literal

from pydantic import Field, StrictInt, StrictStr

from api.objects.adapters import AdapterFileObject
from api.objects.shape import Body, Identified, Shape, seconds, seconds_or_none
from domain.ids import IdKind, public_id
from domain.refusals import OutOfRange
from models_db.grants import FileGrant, VersionShare
from services.shares import SharedVersion

_MAX_DAYS = 365_000
_MAX_DEPARTMENTS = 100


class LastingRequest(Body):
    """Something that is granted for a time."""

    expires_in_days: StrictInt | None = Field(
        default=None, description="When it ends by itself; as late as is allowed when left out.", ge=1, le=_MAX_DAYS
    )

    def lasts(self, most: timedelta) -> timedelta:
        """For how long. Raises OutOfRange where that is more than the installation allows."""
        wanted = most if self.expires_in_days is None else timedelta(days=self.expires_in_days)
        if wanted > most:
            raise OutOfRange(f"It lasts {most.days} days at most.", param="expires_in_days")
        return wanted


class FileGrantRequest(LastingRequest):
    """A member who is to read a file's content."""

    user_id: StrictStr = Field(description="`user-…`, a member of the department.")


class FileGrantObject(Identified):
    """A member may read a file's content."""

    id: str = Field(description="`filegrant-…`.")
    object: Literal["file.grant"] = Field(default="file.grant", description="Always `file.grant`.")
    file_id: str = Field(description="Which file.")
    user_id: str = Field(description="Who.")
    created_at: int = Field(description="Since when, in seconds since 1970.")
    expires_at: int = Field(description="Until when.")

    @classmethod
    def of(cls, grant: FileGrant) -> "FileGrantObject":
        """From its row."""
        return cls(
            id=public_id(IdKind.FILE_GRANT, grant.id),
            file_id=public_id(IdKind.FILE, grant.file_id),
            user_id=public_id(IdKind.USER, grant.user_id),
            created_at=seconds(grant.created_at),
            expires_at=seconds(grant.expires_at),
        )


class ShareRequest(LastingRequest):
    """Departments that are to have a version."""

    project_ids: list[StrictStr] = Field(
        description="`proj_…`, other departments than one's own.", min_length=1, max_length=_MAX_DEPARTMENTS
    )


class ShareObject(Identified):
    """Another department may have a version, or somebody asked that it may."""

    id: str = Field(description="`cp_…`.")
    object: Literal["checkpoint.permission"] = Field(
        default="checkpoint.permission", description="Always `checkpoint.permission`."
    )
    created_at: int = Field(description="When it was asked for, in seconds since 1970.")
    project_id: str = Field(description="The other department.")
    status: Literal["requested", "approved"] = Field(description="It has the version once it is approved. Ours.")
    version_id: str = Field(description="The version. Ours.")
    digest: str = Field(description="Of the version that is shared, and of no other. Ours.")
    decided_at: int | None = Field(description="When an approver let it; null before. Ours.")
    expires_at: int = Field(description="When it ends by itself. Ours.")

    @classmethod
    def of(cls, share: VersionShare) -> "ShareObject":
        """From its row."""
        return cls(
            id=public_id(IdKind.VERSION_SHARE, share.id),
            created_at=seconds(share.created_at),
            project_id=public_id(IdKind.DEPARTMENT, share.to_department),
            status="requested" if share.decided_at is None else "approved",
            version_id=public_id(IdKind.ADAPTER_VERSION, share.version_id),
            digest=share.digest,
            decided_at=seconds_or_none(share.decided_at),
            expires_at=seconds(share.expires_at),
        )


class ShareDeleted(Shape):
    """A share that was ended."""

    id: str = Field(description="`cp_…`.")
    object: Literal["checkpoint.permission"] = Field(
        default="checkpoint.permission", description="Always `checkpoint.permission`."
    )
    deleted: Literal[True] = Field(default=True, description="Always true.")


class SharedVersionObject(Identified):
    """A version that another department shares with one's own."""

    id: str = Field(description="Of the share, `cp_…`.")
    object: Literal["shared_version"] = Field(default="shared_version", description="Always `shared_version`.")
    adapter: str = Field(description="The adapter's name there.")
    number: int = Field(description="The version's number there.")
    model: str = Field(description="Its name as a model.")
    base_model: str = Field(description="What it was grafted on.")
    digest: str = Field(description="Of its files' manifest.")
    files: list[AdapterFileObject] = Field(description="Its files, by path: a PEFT folder.")
    bytes: int = Field(description="Of all its files.")
    created_at: int = Field(description="When it was trained, in seconds since 1970.")
    expires_at: int = Field(description="Until when it is shared.")

    @classmethod
    def of(cls, shared: SharedVersion, *, base_model: str) -> "SharedVersionObject":
        """From what was found."""
        return cls(
            id=public_id(IdKind.VERSION_SHARE, shared.share_id),
            adapter=shared.adapter,
            number=shared.number,
            model=shared.model_name,
            base_model=base_model,
            digest=shared.digest,
            files=[AdapterFileObject(path=f.path, bytes=f.bytes, digest=f.digest) for f in shared.manifest.files],
            bytes=shared.manifest.total_bytes,
            created_at=seconds(shared.created_at),
            expires_at=seconds(shared.expires_at),
        )
