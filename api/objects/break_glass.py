from datetime import timedelta
from typing import Literal

from pydantic import Field, StrictInt, StrictStr

from api.objects.shape import Body, Identified, seconds, seconds_or_none
from domain.ids import IdKind, public_id
from models_db.role_grants import BreakGlass

MAX_MINUTES = 240


class BreakGlassRequest(Body):
    """Access to the chosen department in an emergency."""

    reason: StrictStr = Field(
        description="Why, for whoever agrees, and for whoever asks later.", min_length=1, max_length=500
    )
    minutes: StrictInt = Field(default=60, description="For how long, once it is open.", ge=1, le=MAX_MINUTES)

    @property
    def lasts(self) -> timedelta:
        """How long, as a time."""
        return timedelta(minutes=self.minutes)


class BreakGlassObject(Identified):
    """Access to a department in an emergency."""

    id: str = Field(description="`glass-…`.")
    object: Literal["organization.break_glass"] = Field(
        default="organization.break_glass", description="Always `organization.break_glass`."
    )
    project_id: str = Field(description="To which department.")
    reason: str = Field(description="Why.")
    status: Literal["requested", "open", "closed"] = Field(description="How far it is.")
    created_at: int = Field(description="When it was asked for, in seconds since 1970.")
    opened_at: int | None = Field(description="When somebody else agreed; null before.")
    expires_at: int | None = Field(description="When it ends by itself.")
    closed_at: int | None = Field(description="When it ended.")
    service_account_id: str | None = Field(description="Under which account the audit trail has its acts.")

    @classmethod
    def of(cls, glass: BreakGlass) -> "BreakGlassObject":
        """From its row."""
        begun = "requested" if glass.opened_at is None else "open"
        return cls(
            id=public_id(IdKind.BREAK_GLASS, glass.id),
            project_id=public_id(IdKind.DEPARTMENT, glass.department_id),
            reason=glass.reason,
            status=begun if glass.closed_at is None else "closed",
            created_at=seconds(glass.created_at),
            opened_at=seconds_or_none(glass.opened_at),
            expires_at=seconds_or_none(glass.expires_at),
            closed_at=seconds_or_none(glass.closed_at),
            service_account_id=public_id(IdKind.SERVICE_ACCOUNT, glass.account_id) if glass.account_id else None,
        )
