from typing import Literal

from pydantic import Field

from api.objects.shape import Shape
from domain.access import Permission, Principal, PrincipalType
from domain.ids import IdKind, public_id


class PrincipalObject(Shape):
    """Who a key acts for."""

    object: Literal["principal"] = Field(default="principal", description="Always `principal`.")
    type: PrincipalType = Field(description="A `user` or a `service_account`.")
    id: str | None = Field(description="Id of the user or the service account.")
    email: str | None = Field(description="The user's e-mail address; null for a service account.")
    department: str | None = Field(description="The department it acts in, `proj_…`; null for a platform key.")
    roles: list[str] = Field(description="What it may do.")
    permissions: list[str] = Field(description="What the roles come to, within the key's scopes.")
    human: str | None = Field(description="The person behind the key, `user-…`; null for the platform's first keys.")
    key_id: str | None = Field(description="Id of the key.")

    @classmethod
    def of(cls, principal: Principal, *, email: str | None) -> "PrincipalObject":
        """From the principal of a request, and what their own row says."""
        kind = IdKind.USER if principal.type is PrincipalType.USER else IdKind.SERVICE_ACCOUNT
        return cls(
            type=principal.type,
            id=public_id(kind, principal.id) if principal.id else None,
            email=email,
            department=public_id(IdKind.DEPARTMENT, principal.department) if principal.department else None,
            roles=sorted(principal.roles),
            permissions=sorted(permission for permission in Permission if principal.may(permission)),
            human=public_id(IdKind.USER, principal.human) if principal.human else None,
            key_id=public_id(IdKind.API_KEY, principal.key_id) if principal.key_id else None,
        )
