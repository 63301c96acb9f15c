from typing import Literal

from pydantic import Field

from api.objects.shape import Shape, seconds, seconds_or_none
from domain.estimates import Actual, Estimate, EstimateState, errors_of
from domain.ids import IdKind, public_id
from services.estimates import Accuracy, Answer


class GapObject(Shape):
    """A figure that is missing, or is not what it seems."""

    figure: str = Field(description="The figure's name.")
    code: str = Field(description="Why, for a program; stable.")
    message: str = Field(description="Why, for a person.")


class FiguresObject(Shape):
    """What a job is thought to come to. What is null is in `gaps`, with the reason."""

    made_at: int = Field(description="When, in seconds since 1970.")
    steps: int = Field(description="Optimiser steps.")
    trained_tokens: int | None = Field(description="Tokens trained on over all epochs, padding left out.")
    supervised_tokens: int | None = Field(description="Those of them that the loss counts.")
    seconds: float | None = Field(description="From the claim to the end.")
    gpu_seconds: float | None = Field(description="The same, of all ranks together.")
    peak_memory_bytes: int | None = Field(description="The most that one rank holds, as runs here have measured it.")
    adapter_bytes: int | None = Field(description="Size of the adapter's weights file.")
    cost: float | None = Field(description="Of the GPU-seconds, at the price of the newest measured run.")
    currency: str = Field(description="Of the cost: ISO 4217 in small letters.")
    queue_position: int | None = Field(description="Its place among the jobs that wait: 1 is next.")
    expected_start: int | None = Field(description="When a worker would be free for it.")
    expected_finish: int | None = Field(description="When it would have ended.")
    device: str | None = Field(description="What the measured runs trained on.")
    ranks: int | None = Field(description="With how many ranks.")
    measured_runs: int = Field(description="How many runs the speed is the median of.")
    gaps: list[GapObject] = Field(description="What could not be said, and why.")

    @classmethod
    def of(cls, estimate: Estimate) -> "FiguresObject":
        """From the calculation."""
        figures = estimate.model_dump(exclude={"made_at", "cost", "expected_start", "expected_finish", "gaps"})
        return cls(
            **figures,
            made_at=seconds(estimate.made_at),
            cost=None if estimate.cost is None else float(estimate.cost),
            expected_start=seconds_or_none(estimate.expected_start),
            expected_finish=seconds_or_none(estimate.expected_finish),
            gaps=[GapObject(figure=gap.figure, code=gap.code, message=gap.message) for gap in estimate.gaps],
        )


class ReasonObject(Shape):
    """Why the job would be refused."""

    code: str = Field(description="For a program; the code that a submit, or the job, would answer with.")
    message: str = Field(description="For a person, with the numbers.")
    param: str | None = Field(description="The field, or `file:line`.")


class EstimateObject(Shape):
    """What a job would come to if it were submitted now."""

    id: str | None = Field(description="`estimate-…`, to ask again with; null where nothing had to be counted.")
    object: Literal["estimate"] = Field(default="estimate", description="Always `estimate`.")
    status: EstimateState = Field(
        description="`pending` while the rows are counted, then `ready`; `failed` where they cannot be."
    )
    created_at: int = Field(description="When it was asked for, in seconds since 1970.")
    expires_at: int | None = Field(description="Until when it can be asked for again.")
    model: str = Field(description="The base model.")
    allowed_to_proceed: bool | None = Field(
        description="Whether the job would be accepted and its rows pass; null while they are counted."
    )
    reasons: list[ReasonObject] = Field(description="Everything that stands against it.")
    estimate: FiguresObject | None = Field(description="The figures; null where a name stands for nothing.")

    @classmethod
    def of(cls, answer: Answer) -> "EstimateObject":
        """From what is known by now."""
        return cls(
            id=public_id(IdKind.ESTIMATE, answer.id) if answer.id else None,
            status=answer.state,
            created_at=seconds(answer.created_at),
            expires_at=seconds_or_none(answer.expires_at),
            model=answer.model,
            allowed_to_proceed=answer.allowed,
            reasons=[ReasonObject(**reason.model_dump()) for reason in answer.reasons],
            estimate=FiguresObject.of(answer.estimate) if answer.estimate else None,
        )


# What the estimates of later jobs rest on.
_NOT_SHOWN = {"tokens_per_s", "overhead_s", "price_per_gpu_hour", "general", "alone"}


class ActualObject(Shape):
    """What a job came to, and how far off its estimate was."""

    seconds: float = Field(description="Of all its leases: without its waits.")
    gpu_seconds: float = Field(description="The same, of all ranks together.")
    trained_tokens: int = Field(description="Tokens trained on, padding left out.")
    peak_memory_bytes: int = Field(description="The most that one rank held.")
    adapter_bytes: int = Field(description="Size of the adapter's weights file.")
    device: str = Field(description="What it trained on.")
    ranks: int = Field(description="With how many ranks.")
    relative_errors: dict[str, float] = Field(
        description="Of each figure that was estimated, estimate less actual as a share of the actual."
    )

    @classmethod
    def of(cls, actual: Actual, estimate: Estimate | None) -> "ActualObject":
        """From what the job kept."""
        figures = actual.model_dump(exclude=_NOT_SHOWN)
        return cls(**figures, relative_errors=errors_of(estimate, actual) if estimate else {})


class AccuracyObject(Shape):
    """How far off one figure of the estimates was, over ended jobs of one base model and device."""

    model: str = Field(description="The base model.")
    device: str = Field(description="What the jobs trained on.")
    figure: str = Field(description="The figure's name in an estimate.")
    jobs: int = Field(description="How many jobs.")
    median_error: float = Field(description="Of the absolute errors, as a share of what came.")
    p90_error: float = Field(description="Nine of ten were no further off.")

    @classmethod
    def of(cls, accuracy: Accuracy) -> "AccuracyObject":
        """From the figures of all departments."""
        return cls(
            model=accuracy.base_model,
            device=accuracy.device,
            figure=accuracy.figure,
            jobs=accuracy.jobs,
            median_error=accuracy.median,
            p90_error=accuracy.p90,
        )


class AccuraciesObject(Shape):
    """How far off estimates were, in this installation."""

    object: Literal["estimate.accuracy"] = Field(default="estimate.accuracy", description="Always `estimate.accuracy`.")
    data: list[AccuracyObject] = Field(description="A figure, base model and device each.")
