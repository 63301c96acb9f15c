from typing import Literal

from pydantic import Field, StrictStr

from api.objects.shape import Body, Shape


class SessionRequest(Body):
    """A session to begin."""

    nonce: StrictStr | None = Field(default=None, description="Of the sign-in, where it had one.", max_length=255)


class SessionEnded(Shape):
    """A session that was ended."""

    object: Literal["session"] = Field(default="session", description="Always `session`.")
    deleted: Literal[True] = Field(default=True, description="Always true.")
