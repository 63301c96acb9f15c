from typing import Literal

from pydantic import Field, StrictStr

from api.objects.shape import Body, Identified, seconds, seconds_or_none
from domain.data_classes import DataClass
from domain.ids import IdKind, public_id
from models_db.departments import Department


class ProjectRequest(Body):
    """A department to create."""

    name: StrictStr = Field(description="1 to 64 letters, digits, `.`, `_` or `-`.")


class ProjectChange(Body):
    """What to change of a department."""

    default_data_class: DataClass = Field(
        description="Of files whose upload says nothing: `internal`, `confidential` or `restricted`."
    )


class ProjectObject(Identified):
    """A department."""

    id: str = Field(description="`proj_…`.")
    object: Literal["organization.project"] = Field(
        default="organization.project", description="Always `organization.project`."
    )
    name: str = Field(description="Its name.")
    created_at: int = Field(description="When it was created, in seconds since 1970.")
    status: Literal["active", "archived"] = Field(description="`archived` once it is closed.")
    archived_at: int | None = Field(description="When it was closed; null before.")

    default_data_class: str = Field(description="How confidential files are whose upload says nothing. Ours.")

    @classmethod
    def of(cls, department: Department) -> "ProjectObject":
        """From its row."""
        return cls(
            id=public_id(IdKind.DEPARTMENT, department.id),
            name=department.name,
            created_at=seconds(department.created_at),
            status="active" if department.closed_at is None else "archived",
            archived_at=seconds_or_none(department.closed_at),
            default_data_class=department.default_data_class,
        )
