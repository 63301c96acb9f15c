"""What a department may use at most, and what it has used."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, WithJsonSchema
from pydantic_core import PydanticCustomError

from domain.usage import SECONDS_PER_HOUR

# At so much of a month's budget its department is warned.
WARN_AT = Decimal("0.8")

# What a department has that was given nothing else; of the rest it has no limit.
ORDINARY: Mapping[str, float | bool] = {"weight": 1.0, "preempts": False}


def _exact(value: object) -> Decimal:
    """A JSON number as the decimal that was written: 0.1 and not the float nearest to it."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise PydanticCustomError("float_type", "not a number")
    return Decimal(str(value))


# Nine thousand terabytes: the audit trail holds no greater number, since not every reader of JSON does.
_MAX_BYTES = 2**53 - 1

Quantity = Annotated[
    Decimal,
    BeforeValidator(_exact),
    Field(ge=0, le=10**12, decimal_places=6),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 10**12}),
]


class LimitChange(BaseModel):
    """Limits to set for a department, and its place among others.

    What is left out stays as it is; null takes a limit away.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_running_jobs: Annotated[StrictInt, Field(ge=0, le=10**6)] | None = Field(
        default=None, description="Jobs that run at a time; further ones wait."
    )
    max_unfinished_jobs: Annotated[StrictInt, Field(ge=0, le=10**6)] | None = Field(
        default=None, description="Jobs that are not finished, at a time; null for the installation's default."
    )
    max_gpu_hours: Quantity | None = Field(default=None, description="GPU-hours of a calendar month, UTC.")
    max_storage_bytes: Annotated[StrictInt, Field(ge=0, le=_MAX_BYTES)] | None = Field(
        default=None,
        description="Bytes of files, adapter versions and checkpoints; uploads beyond are refused; null for no limit.",
    )
    monthly_budget: Quantity | None = Field(
        default=None, description="What a calendar month, UTC, may cost, in the installation's currency."
    )

    weight: Annotated[StrictFloat | StrictInt, Field(gt=0, le=1000)] | None = Field(
        default=None, description="Its share of the devices beside the other departments' weights; null for 1."
    )
    preempts: StrictBool | None = Field(
        default=None,
        description="Whether its more urgent jobs may take the place of its running ones; null for false.",
    )

    def chosen(self) -> Mapping[str, int | float | Decimal | None]:
        """What is to change, by name."""
        given = {name: getattr(self, name) for name in sorted(self.model_fields_set)}
        return {name: ORDINARY.get(name) if value is None else value for name, value in given.items()}


@dataclass(frozen=True)
class Limits:
    """What is in force for a department; None is no limit."""

    max_running_jobs: int | None
    max_unfinished_jobs: int
    max_gpu_hours: Decimal | None
    max_storage_bytes: int | None
    monthly_budget: Decimal | None
    weight: float
    preempts: bool


@dataclass(frozen=True)
class MonthsUse:
    """What a department has used in the current month: leases that ended, those it holds so far, storage by the day."""

    gpu_seconds: Decimal
    amount: Decimal
    began_at: datetime
    # When the use begins anew.
    ends_at: datetime

    @property
    def gpu_hours(self) -> Decimal:
        """The same in hours."""
        return self.gpu_seconds / SECONDS_PER_HOUR


@dataclass(frozen=True)
class Allowance:
    """A department's limits, and what it has of each."""

    limits: Limits
    running_jobs: int
    unfinished_jobs: int
    month: MonthsUse
    stored_bytes: int
    budget_warned_at: datetime | None
