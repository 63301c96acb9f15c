from typing import Any, Literal

from pydantic import Field

from api.objects.shape import Identified, Shape, seconds, seconds_or_none
from domain.ids import IdKind, public_id
from domain.workers import WorkerState
from services.workers import Seen

LOST = "lost"


class CalibrationObject(Shape):
    """What a worker measured of itself, before its first job on the base model it last trained on."""

    hardware: str = Field(description="The device, as the engine names it.")
    token_budget: int = Field(description="Tokens of the smallest pass that trains at nearly the best speed.")
    peak_flops: float = Field(description="The best rate of matrix products on one rank, in FLOP/s.")
    tokens_per_s: float | None = Field(description="Tokens trained on a second, on one rank, in passes of that size.")

    @classmethod
    def of(cls, report: dict[str, Any]) -> "CalibrationObject":
        """From a calibration report."""
        speeds = {each["tokens"]: each["tokens_per_s"] for each in report["passes"]}
        return cls(
            hardware=report["hardware"],
            token_budget=report["token_budget"],
            peak_flops=report["peak_flops"],
            tokens_per_s=speeds.get(report["token_budget"]),
        )


class WorkerObject(Identified):
    """A process that trains, from its start to its end."""

    id: str = Field(description="`worker-…`.")
    object: Literal["worker"] = Field(default="worker", description="Always `worker`.")
    name: str = Field(description="Host and process, as the audit trail has it.")
    host: str = Field(description="The machine.")
    status: Literal["active", "draining", "retired", "lost"] = Field(
        description="`active` takes jobs, `draining` takes no more, `retired` has ended; `lost`: not heard of lately."
    )
    draining: bool = Field(description="Whether it takes no more jobs; told also of one that is lost.")
    busy: bool = Field(description="Whether it holds a job.")
    retiring: bool = Field(description="Whether its process ends once it holds no job.")
    device: str = Field(description="`cpu` or `cuda`.")
    device_name: str | None = Field(description="The processor or graphics card; null if unknown.")
    ranks: int = Field(description="Processes of a job; on GPUs one a device.")
    threads_per_rank: int = Field(description="CPU threads of each.")
    memory_bytes: int | None = Field(
        description="Of the smallest GPU, or of the machine where it trains on CPUs; null if unknown."
    )
    precision: str = Field(description="Of the frozen base; `auto` until it has measured itself.")
    quantisation: str = Field(description="How the frozen base is kept in memory.")
    versions: dict[str, str] = Field(description="Of Tsugiki, Python and the libraries.")
    calibration: CalibrationObject | None = Field(description="What it measured of itself; null before its first job.")
    registered_at: int = Field(description="When it started, in seconds since 1970.")
    seen_at: int = Field(description="When it last gave a sign of life.")
    retired_at: int | None = Field(description="When it ended; null before.")

    @classmethod
    def of(cls, seen: Seen) -> "WorkerObject":
        """From its row and what is known of it now."""
        worker = seen.worker
        return cls.model_validate(
            {
                "id": public_id(IdKind.WORKER, worker.id),
                "status": LOST if seen.lost else worker.state,
                "draining": worker.state == WorkerState.DRAINING,
                "busy": seen.busy,
                "retiring": worker.retire_asked_at is not None and worker.retired_at is None,
                "calibration": CalibrationObject.of(worker.calibration) if worker.calibration else None,
                "registered_at": seconds(worker.registered_at),
                "seen_at": seconds(worker.seen_at),
                "retired_at": seconds_or_none(worker.retired_at),
            }
            | {name: getattr(worker, name) for name in _AS_STORED}
        )


_AS_STORED = (
    "name", "host", "device", "device_name", "ranks", "threads_per_rank", "memory_bytes", "precision", "quantisation",
    "versions",
)  # fmt: skip
