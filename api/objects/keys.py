from datetime import timedelta
from typing import Literal

from pydantic import Field, StrictInt, StrictStr

from api.objects.members import client_role
from api.objects.shape import Body, Identified, Shape, seconds, seconds_or_none
from domain.access import Permission
from domain.ids import IdKind, public_id
from models_db.departments import ApiKey, Membership, ServiceAccount, User
from services.keys import IssuedKey, KeyWish

# A thousand years: what the installation allows is less.
_MAX_DAYS = 365_000
_MAX_SCOPES = len(Permission)
_DEFAULT_ROLES = ["trainer", "data_steward"]


class KeyWishRequest(Body):
    """How long a key to make lives, and what it is for."""

    expires_in_days: StrictInt | None = Field(
        default=None, description="When it ends by itself; as late as is allowed when left out.", ge=1, le=_MAX_DAYS
    )
    scopes: list[StrictStr] | None = Field(
        default=None,
        description="Permissions it is made for, of those its owner has; all of them when left out.",
        max_length=_MAX_SCOPES,
    )

    def wished(self, name: str, max_age: timedelta) -> KeyWish:
        """In the words of the service."""
        age = None if self.expires_in_days is None else timedelta(days=self.expires_in_days)
        return KeyWish(name=name, max_age=max_age, age=age, scopes=self.scopes)


# --- service accounts -------------------------------------------------------------------------------------------------


class ServiceAccountRequest(KeyWishRequest):
    """A robot to create, and its first key."""

    name: StrictStr = Field(description="1 to 64 letters, digits, `.`, `_` or `-`.")
    roles: list[StrictStr] = Field(
        default=_DEFAULT_ROLES, description="Its roles; a trainer and data steward when left out.", max_length=8
    )

    def wish(self, *, max_age: timedelta) -> KeyWish:
        """Its first key."""
        return self.wished(self.name, max_age)


class ServiceAccountObject(Identified):
    """A robot of a department."""

    id: str = Field(description="`svcacct_…`.")
    object: Literal["organization.project.service_account"] = Field(
        default="organization.project.service_account", description="Always `organization.project.service_account`."
    )
    name: str = Field(description="Its name.")
    role: str = Field(description="In the client's words: `member`.")
    roles: list[str] = Field(description="Its roles. Ours.")
    answered_for_by: str | None = Field(description="The person who answers for it, `user-…`. Ours.")
    created_at: int = Field(description="When it was created, in seconds since 1970.")

    @classmethod
    def of(cls, account: ServiceAccount) -> "ServiceAccountObject":
        """From its row."""
        return cls(
            id=public_id(IdKind.SERVICE_ACCOUNT, account.id),
            name=account.name,
            role=client_role(account.roles),
            roles=account.roles,
            answered_for_by=public_id(IdKind.USER, account.answered_for_by) if account.answered_for_by else None,
            created_at=seconds(account.created_at),
        )


class NewServiceAccountKeyObject(Shape):
    """The first key of a robot, with its secret."""

    id: str = Field(description="`key_…`.")
    object: Literal["organization.project.service_account.api_key"] = Field(
        default="organization.project.service_account.api_key",
        description="Always `organization.project.service_account.api_key`.",
    )
    name: str = Field(description="Its name.")
    value: str = Field(description="The secret: shown here, and never again.")
    created_at: int = Field(description="When it was made, in seconds since 1970.")


class NewServiceAccountObject(ServiceAccountObject):
    """A robot just made, with its key."""

    api_key: NewServiceAccountKeyObject = Field(description="Its key.")

    @classmethod
    def of_new(cls, account: ServiceAccount, issued: IssuedKey) -> "NewServiceAccountObject":
        """From its row and its key."""
        key = NewServiceAccountKeyObject(
            id=public_id(IdKind.API_KEY, issued.key.id),
            name=issued.key.name,
            value=issued.secret,
            created_at=seconds(issued.key.created_at),
        )
        return cls(**ServiceAccountObject.of(account).model_dump(), api_key=key)


# --- keys -------------------------------------------------------------------------------------------------------------


class ApiKeyRequest(KeyWishRequest):
    """A key to make for a member."""

    user_id: StrictStr = Field(description="`user-…`.")
    name: StrictStr = Field(description="What it is for.", min_length=1, max_length=64)

    def wish(self, *, max_age: timedelta) -> KeyWish:
        """In the words of the service."""
        return self.wished(self.name, max_age)


class KeyOwnerUser(Shape):
    """A person who owns a key."""

    id: str = Field(description="`user-…`.")
    email: str = Field(description="Their e-mail address.")
    name: str = Field(description="Their name.")
    created_at: int = Field(description="When they were entered, in seconds since 1970.")
    role: str = Field(description="In the client's words: `owner` or `member`.")


class KeyOwnerServiceAccount(Shape):
    """A robot that owns a key."""

    id: str = Field(description="`svcacct_…`.")
    name: str = Field(description="Its name.")
    created_at: int = Field(description="When it was created, in seconds since 1970.")
    role: str = Field(description="In the client's words: `member`.")


class KeyOwner(Shape):
    """Who a key acts for."""

    type: Literal["user", "service_account"] = Field(description="Which of the two it is.")
    user: KeyOwnerUser | None = Field(default=None, description="The person.")
    service_account: KeyOwnerServiceAccount | None = Field(default=None, description="The robot.")

    @classmethod
    def of(cls, owner: tuple[Membership, User] | ServiceAccount) -> "KeyOwner":
        """From the owner's rows."""
        if isinstance(owner, ServiceAccount):
            account = ServiceAccountObject.of(owner)
            return cls(
                type="service_account",
                service_account=KeyOwnerServiceAccount(
                    id=account.id, name=account.name, created_at=account.created_at, role=account.role
                ),
            )
        membership, user = owner
        person = KeyOwnerUser(
            id=public_id(IdKind.USER, user.id),
            email=user.email,
            name=user.name,
            created_at=seconds(user.created_at),
            role=client_role(membership.roles),
        )
        return cls(type="user", user=person)


class ApiKeyObject(Identified):
    """A key, without its secret."""

    id: str = Field(description="`key_…`.")
    object: Literal["organization.project.api_key"] = Field(
        default="organization.project.api_key", description="Always `organization.project.api_key`."
    )
    name: str = Field(description="What it is for.")
    redacted_value: str = Field(description="How it begins.")
    created_at: int = Field(description="When it was made, in seconds since 1970.")
    last_used_at: int | None = Field(description="When it was last used, to the minute; null if never.")
    expires_at: int | None = Field(description="When it ends by itself; null if never.")
    scopes: list[str] | None = Field(description="The permissions it was made for; null for all its owner's. Ours.")
    owner: KeyOwner = Field(description="Who it acts for.")
    owner_project_access: Literal["active"] = Field(default="active", description="Always `active`.")

    @classmethod
    def of(cls, key: ApiKey, owner: tuple[Membership, User] | ServiceAccount) -> "ApiKeyObject":
        """From its row and its owner's."""
        return cls(
            id=public_id(IdKind.API_KEY, key.id),
            name=key.name,
            redacted_value=f"tsk_{key.prefix}_…",
            created_at=seconds(key.created_at),
            last_used_at=seconds_or_none(key.last_used_at),
            expires_at=seconds_or_none(key.expires_at),
            scopes=key.scopes,
            owner=KeyOwner.of(owner),
        )


class NewApiKeyObject(ApiKeyObject):
    """A key just made, with its secret."""

    value: str = Field(description="The secret: shown here, and never again.")

    @classmethod
    def of_new(cls, issued: IssuedKey, owner: tuple[Membership, User] | ServiceAccount) -> "NewApiKeyObject":
        """From the issued key and its owner's rows."""
        return cls(**ApiKeyObject.of(issued.key, owner).model_dump(), value=issued.secret)
