"""How well the audit trail is proved at this moment."""

from typing import Literal

from pydantic import Field

from api.objects.shape import Shape


class AuditStatusObject(Shape):
    """Whether the sealer keeps up."""

    object: Literal["audit.status"] = Field(default="audit.status", description="Always `audit.status`.")
    seal_lag_s: float = Field(description="For how long the oldest event without a seal has waited; 0: there is none.")
    alarm: bool = Field(description="Whether that is more than a minute: the sealer is behind, or has ended.")
