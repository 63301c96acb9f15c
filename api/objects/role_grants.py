from typing import Literal

from pydantic import Field, StrictStr

from api.objects.keys import KeyWishRequest
from api.objects.shape import Body, Identified, Shape, seconds, seconds_or_none
from domain.ids import IdKind, public_id
from models_db.role_grants import RoleGrant
from services.keys import IssuedKey


class RoleGrantRequest(Body):
    """A role that operators give."""

    role: StrictStr = Field(description="`approver` of the chosen department, or `operator` or `auditor` of none.")
    user_id: StrictStr = Field(description="`user-…`.")


class RoleGrantObject(Identified):
    """A role that operators give, or are about to."""

    id: str = Field(description="`rolegrant-…`.")
    object: Literal["organization.role_grant"] = Field(
        default="organization.role_grant", description="Always `organization.role_grant`."
    )
    role: str = Field(description="`approver`, `operator` or `auditor`.")
    user_id: str = Field(description="Whom it is for, `user-…`.")
    project_id: str | None = Field(description="In which department; null for the platform's roles.")
    status: Literal["requested", "granted", "withdrawn"] = Field(description="How far it is.")
    needed: int = Field(description="How many operators it takes: two where there are two.")
    created_at: int = Field(description="When it was asked for, in seconds since 1970.")
    decided_at: int | None = Field(description="When it was given; null before.")

    @classmethod
    def of(cls, grant: RoleGrant) -> "RoleGrantObject":
        """From its row."""
        given = "requested" if grant.decided_at is None else "granted"
        return cls(
            id=public_id(IdKind.ROLE_GRANT, grant.id),
            role=grant.role,
            user_id=public_id(IdKind.USER, grant.user_id),
            project_id=public_id(IdKind.DEPARTMENT, grant.department_id) if grant.department_id else None,
            status=given if grant.withdrawn_at is None else "withdrawn",
            needed=grant.needed,
            created_at=seconds(grant.created_at),
            decided_at=seconds_or_none(grant.decided_at),
        )


class RoleKeyRequest(KeyWishRequest):
    """A key of a role that one was given."""

    name: StrictStr = Field(default="key", description="What it is for.", min_length=1, max_length=64)


class IssuedKeyObject(Shape):
    """A key just made, with its secret."""

    id: str = Field(description="`key_…`.")
    object: Literal["organization.key"] = Field(default="organization.key", description="Always `organization.key`.")
    value: str = Field(description="The secret: shown here, and never again.")
    expires_at: int | None = Field(description="When it ends by itself, in seconds since 1970.")

    @classmethod
    def of(cls, issued: IssuedKey) -> "IssuedKeyObject":
        """From the issued key."""
        return cls(
            id=public_id(IdKind.API_KEY, issued.key.id),
            value=issued.secret,
            expires_at=seconds_or_none(issued.key.expires_at),
        )
