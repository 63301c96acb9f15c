"""The base of every object, and the envelope of every list."""

from collections.abc import Iterable
from datetime import datetime
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field


class Shape(BaseModel):
    """An object of the API."""

    model_config = ConfigDict(frozen=True)


class Body(BaseModel):
    """A body that a caller sends: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Identified(Shape):
    """An object that lists hold: its id is the cursor."""

    id: str = Field(description="Its id.")


Item = TypeVar("Item", bound=Identified)


class Page(Shape, Generic[Item]):
    """A page of a list. The client asks for the next one with `after` = `last_id`."""

    object: Literal["list"] = Field(default="list", description="Always `list`.")
    data: list[Item] = Field(description="The objects of this page.")
    has_more: bool = Field(description="Whether there are objects after the last of these.")
    first_id: str | None = Field(description="Id of the first object of the page; null for an empty page.")
    last_id: str | None = Field(description="Id of the last object of the page; null for an empty page.")


def page_of(items: Iterable[Item], *, has_more: bool = False) -> Page[Item]:
    """The envelope of some objects."""
    data = list(items)
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return Page(data=data, has_more=has_more, first_id=first, last_id=last)


class Deleted(Shape):
    """What a deletion answers."""

    id: str = Field(description="Id of what was deleted.")
    object: str = Field(description="The kind of object, as the client names it.")
    deleted: Literal[True] = Field(default=True, description="Always true: a deletion that fails is an error.")


def seconds(moment: datetime) -> int:
    """Whole seconds since 1970, as the client has its times."""
    return int(moment.timestamp())


def seconds_or_none(moment: datetime | None) -> int | None:
    """The same for a time that may not have come."""
    return None if moment is None else seconds(moment)
