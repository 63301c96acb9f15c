from typing import Literal

from pydantic import Field, StrictStr

from api.objects.shape import Body, Identified, seconds
from domain.access import Role
from domain.ids import IdKind, public_id
from domain.refusals import ConflictingFields, MissingField
from models_db.departments import Membership, User


class UserRequest(Body):
    """A person to enter into the organisation."""

    email: StrictStr = Field(description="Their e-mail address.", min_length=3, max_length=254)
    name: StrictStr = Field(description="Their name.", min_length=1, max_length=200)


class UserObject(Identified):
    """A person of the organisation."""

    id: str = Field(description="`user-…`.")
    object: Literal["organization.user"] = Field(default="organization.user", description="Always `organization.user`.")
    email: str = Field(description="Their e-mail address.")
    name: str = Field(description="Their name.")
    role: Literal["reader"] = Field(default="reader", description="Always `reader`: rights are held in departments.")
    added_at: int = Field(description="When they were entered, in seconds since 1970.")

    @classmethod
    def of(cls, user: User) -> "UserObject":
        """From their row."""
        return cls(
            id=public_id(IdKind.USER, user.id), email=user.email, name=user.name, added_at=seconds(user.created_at)
        )


class RolesRequest(Body):
    """Roles in a department: `role` as the client gives it, or `roles`."""

    role: StrictStr | None = Field(default=None, description="`owner`, `member`, or one role by name.")
    roles: list[StrictStr] | None = Field(default=None, description="Several roles by name.", max_length=8)

    def wanted(self) -> list[str]:
        """The names. Raises MissingField or ConflictingFields."""
        if self.role is not None and self.roles is not None:
            raise ConflictingFields("Give `role` or `roles`, not both.", param="roles")
        if self.roles is not None:
            return self.roles
        if self.role is None:
            raise MissingField("role is missing.", param="role")
        return [self.role]


class MemberRequest(RolesRequest):
    """A person to add to a department: by id, as the client does, or by e-mail address."""

    user_id: StrictStr | None = Field(default=None, description="`user-…`.")
    email: StrictStr | None = Field(default=None, description="Their e-mail address, in place of the id. Ours.")


class MemberObject(Identified):
    """A person in a department."""

    id: str = Field(description="`user-…`.")
    object: Literal["organization.project.user"] = Field(
        default="organization.project.user", description="Always `organization.project.user`."
    )
    email: str = Field(description="Their e-mail address.")
    name: str = Field(description="Their name.")
    role: str = Field(description="In the client's words: `owner` for an admin, else `member`.")
    roles: list[str] = Field(description="Their roles here. Ours.")
    added_at: int = Field(description="When they were added, in seconds since 1970.")

    @classmethod
    def of(cls, membership: Membership, user: User) -> "MemberObject":
        """From their rows."""
        return cls(
            id=public_id(IdKind.USER, user.id),
            email=user.email,
            name=user.name,
            role=client_role(membership.roles),
            roles=membership.roles,
            added_at=seconds(membership.created_at),
        )


def client_role(roles: list[str]) -> str:
    """The nearest of the client's project roles."""
    return "owner" if Role.DEPARTMENT_ADMIN in roles else "member"
