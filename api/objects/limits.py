from decimal import Decimal
from typing import Literal
from uuid import UUID

from pydantic import Field, StrictInt, StrictStr

from api.objects.shape import Body, Shape, seconds, seconds_or_none
from domain.ids import IdKind, public_id
from domain.limits import Allowance


class InUseObject(Shape):
    """What a department has of everything that is limited."""

    running_jobs: int = Field(description="Jobs that run now.")
    unfinished_jobs: int = Field(description="Jobs that are not finished.")
    gpu_hours: float = Field(description="GPU-hours of this month, those of running jobs included.")
    storage_bytes: int = Field(description="Bytes of files, adapter versions and checkpoints.")
    amount: float = Field(description="What this month has cost so far, running jobs included.")


class LimitsObject(Shape):
    """A department's limits in force, and what it has of each. Months are the calendar's, UTC."""

    object: Literal["organization.project.limits"] = Field(
        default="organization.project.limits", description="Always `organization.project.limits`."
    )
    project_id: str = Field(description="`proj_…`.")
    max_running_jobs: int | None = Field(description="Jobs that run at a time; null for no limit.")
    max_unfinished_jobs: int = Field(description="Jobs that are not finished; its own limit, or the installation's.")
    max_gpu_hours: float | None = Field(description="GPU-hours of a month; null for no limit.")
    max_storage_bytes: int | None = Field(description="Bytes kept; null for no limit.")
    monthly_budget: float | None = Field(description="What a month may cost; null for no limit.")
    weight: float = Field(description="Its share of the devices beside the other departments' weights.")
    preempts: bool = Field(description="Whether its more urgent jobs may take the place of its running ones.")
    currency: str = Field(description="Of budget and amount, as ISO 4217 has it.")
    in_use: InUseObject = Field(description="What there is of each now.")
    month_ends_at: int = Field(description="When the month's use begins anew, in seconds since 1970.")
    budget_warned_at: int | None = Field(
        description="When the department was last warned that its budget draws to an end; null for never."
    )

    @classmethod
    def of(cls, department: UUID, allowance: Allowance, *, currency: str) -> "LimitsObject":
        """From what the service knows."""
        limits, month = allowance.limits, allowance.month
        return cls(
            project_id=public_id(IdKind.DEPARTMENT, department),
            max_running_jobs=limits.max_running_jobs,
            max_unfinished_jobs=limits.max_unfinished_jobs,
            max_gpu_hours=_number(limits.max_gpu_hours),
            max_storage_bytes=limits.max_storage_bytes,
            monthly_budget=_number(limits.monthly_budget),
            weight=limits.weight,
            preempts=limits.preempts,
            currency=currency,
            in_use=InUseObject(
                running_jobs=allowance.running_jobs,
                unfinished_jobs=allowance.unfinished_jobs,
                gpu_hours=round(float(month.gpu_hours), 6),
                storage_bytes=allowance.stored_bytes,
                amount=round(float(month.amount), 6),
            ),
            month_ends_at=seconds(month.ends_at),
            budget_warned_at=seconds_or_none(allowance.budget_warned_at),
        )


def _number(value: Decimal | None) -> float | None:
    # JSON has no decimals: a number is written as it was set, and counted with only here.
    return None if value is None else float(value)


# --- the client's spend limit: the same budget in its words -----------------------------------------------------------

_CENTS = 100


class SpendLimitRequest(Body):
    """A budget as the client gives it."""

    currency: StrictStr = Field(description="The installation's, in capitals.", pattern="^[A-Z]{3}$")
    interval: Literal["month"] = Field(description="Always `month`.")
    threshold_amount: StrictInt = Field(description="In hundredths of the currency.", ge=0, le=10**14)

    @property
    def budget(self) -> Decimal:
        """In the currency itself."""
        return Decimal(self.threshold_amount) / _CENTS


class EnforcementObject(Shape):
    """Whether the limit refuses jobs now."""

    status: Literal["inactive", "enforcing"] = Field(description="`enforcing` once it is spent.")


class SpendLimitObject(Shape):
    """A department's budget of a calendar month, UTC."""

    object: Literal["project.spend_limit"] = Field(
        default="project.spend_limit", description="Always `project.spend_limit`."
    )
    currency: str = Field(description="ISO 4217, in capitals.")
    interval: Literal["month"] = Field(default="month", description="Always `month`.")
    threshold_amount: int = Field(description="In hundredths of the currency, rounded down.")
    enforcement: EnforcementObject = Field(description="Whether it refuses jobs now.")

    @classmethod
    def of(cls, budget: Decimal, allowance: Allowance, *, currency: str) -> "SpendLimitObject":
        """From a budget, and what of it is spent."""
        spent = allowance.month.amount >= budget
        return cls(
            currency=currency.upper(),
            threshold_amount=int(budget * _CENTS),
            enforcement=EnforcementObject(status="enforcing" if spent else "inactive"),
        )


class SpendLimitDeleted(Shape):
    """What taking a budget away answers."""

    object: Literal["project.spend_limit.deleted"] = Field(
        default="project.spend_limit.deleted", description="Always `project.spend_limit.deleted`."
    )
    deleted: Literal[True] = Field(default=True, description="Always true.")
