from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from pydantic import Field

from api.objects.shape import Shape
from domain.access import PrincipalType
from domain.ids import IdKind, public_id
from domain.usage import LineItem
from services.usage import UsageSum

_HOURS_PER_DAY, _SECONDS_PER_HOUR, _BYTES_PER_GIB = 24, 3600, 2**30
SECONDS_PER_DAY = 86_400


def day_start(day: date) -> int:
    """Its first second, UTC."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


class AmountObject(Shape):
    """Money."""

    value: float = Field(description="How much.")
    currency: str = Field(description="Of what, as ISO 4217 has it, in small letters.")

    @classmethod
    def of(cls, amount: Decimal, currency: str) -> "AmountObject":
        """From a decimal: counted exactly, and written as a number at the end."""
        return cls(value=float(amount), currency=currency)


class CostsResultObject(Shape):
    """What one group cost on one day. What is not asked to be told apart is null."""

    object: Literal["organization.costs.result"] = Field(
        default="organization.costs.result", description="Always `organization.costs.result`."
    )
    amount: AmountObject = Field(description="What it cost.")
    line_item: str | None = Field(description="`gpu` or `storage`.")
    project_id: str | None = Field(description="The department.")
    user_id: str | None = Field(description="Who submitted the jobs, `user-…` or `svcacct_…`; null for storage.")
    api_key_id: str | None = Field(description="The key they were submitted with; null for storage.")
    api_source: None = Field(default=None, description="Always null.")
    quantity: float | None = Field(description="How much of the line item.")
    quantity_unit: Literal["duration_hours", "gibibyte_hours"] | None = Field(
        description="GPU-hours are `duration_hours`, storage is `gibibyte_hours`."
    )

    @classmethod
    def of(cls, used: UsageSum, *, currency: str) -> "CostsResultObject":
        """From a sum."""
        quantity: Decimal | None = None
        unit: Literal["duration_hours", "gibibyte_hours"] | None = None
        if used.item is LineItem.GPU:
            quantity, unit = used.gpu_seconds / _SECONDS_PER_HOUR, "duration_hours"
        elif used.item is LineItem.STORAGE:
            quantity, unit = Decimal(used.storage_byte_days) * _HOURS_PER_DAY / _BYTES_PER_GIB, "gibibyte_hours"
        return cls(
            amount=AmountObject.of(used.amount, currency),
            line_item=used.item,
            project_id=_public(IdKind.DEPARTMENT, used.department),
            user_id=_user(used),
            api_key_id=_public(IdKind.API_KEY, used.key),
            quantity=None if quantity is None else float(quantity),
            quantity_unit=unit,
        )


class CostsBucketObject(Shape):
    """One day, UTC."""

    object: Literal["bucket"] = Field(default="bucket", description="Always `bucket`.")
    start_time: int = Field(description="Its first second, since 1970.")
    end_time: int = Field(description="The first second after it.")
    results: list[CostsResultObject] = Field(description="What it cost, a group each; none where nothing was used.")

    @classmethod
    def of(cls, day: date, sums: Iterable[UsageSum], *, currency: str) -> "CostsBucketObject":
        """From the day's sums."""
        start = day_start(day)
        results = [CostsResultObject.of(used, currency=currency) for used in sums]
        return cls(start_time=start, end_time=start + SECONDS_PER_DAY, results=results)


class CostsPage(Shape):
    """Some days of costs, oldest first."""

    object: Literal["page"] = Field(default="page", description="Always `page`.")
    data: list[CostsBucketObject] = Field(description="A bucket for each day.")
    has_more: bool = Field(description="Whether there are days after these.")
    next_page: str | None = Field(description="What to give as `page` to get them; null where there are none.")


class UsageObject(Shape):
    """What was used, summed over everything that is null here."""

    object: Literal["usage"] = Field(default="usage", description="Always `usage`.")
    day: str | None = Field(description="A day, UTC, as `2026-11-25`.")
    project_id: str | None = Field(description="The department.")
    user_id: str | None = Field(description="Who submitted the jobs, `user-…` or `svcacct_…`.")
    job_id: str | None = Field(description="The job, `ftjob-…`.")
    gpu_seconds: float = Field(description="Seconds of all ranks under leases that ended; CPUs count alike.")
    trained_tokens: int = Field(description="Tokens trained on under them, those done again included.")
    storage_byte_days: int = Field(description="Bytes kept, summed over the days.")
    amount: AmountObject = Field(description="What it cost.")

    @classmethod
    def of(cls, used: UsageSum, *, currency: str) -> "UsageObject":
        """From a sum."""
        return cls(
            day=used.day.isoformat() if used.day else None,
            project_id=_public(IdKind.DEPARTMENT, used.department),
            user_id=_user(used),
            job_id=_public(IdKind.JOB, used.job),
            gpu_seconds=float(used.gpu_seconds),
            trained_tokens=used.trained_tokens,
            storage_byte_days=used.storage_byte_days,
            amount=AmountObject.of(used.amount, currency),
        )


class UsagePage(Shape):
    """Some sums of what was used."""

    object: Literal["page"] = Field(default="page", description="Always `page`.")
    data: list[UsageObject] = Field(description="A sum for each group; none where nothing was used.")
    has_more: bool = Field(description="Whether there are sums after these.")
    next_page: str | None = Field(description="What to give as `page` to get them; null where there are none.")


def _public(kind: IdKind, key: UUID | None) -> str | None:
    return None if key is None else public_id(kind, key)


def _user(used: UsageSum) -> str | None:
    if used.user is None:
        return None
    kind, key = used.user
    return public_id(IdKind.USER if kind is PrincipalType.USER else IdKind.SERVICE_ACCOUNT, key)
