from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import Field

from api.objects.estimates import ActualObject, FiguresObject
from api.objects.shape import Identified, Shape, seconds, seconds_or_none
from domain.adapters import model_name
from domain.estimates import Actual, Estimate
from domain.ids import IdKind, public_id
from domain.jobs import JobState
from domain.retention import expires_at
from domain.runs import RunSpec
from domain.waiting import Waiting, WaitingCode
from models_db.adapters import AdapterVersion
from models_db.jobs import Job, JobCheckpoint, JobEvent


class JobErrorObject(Shape):
    """Why a job failed."""

    code: str = Field(description="For a program; stable.")
    message: str = Field(description="For a person.")
    param: str | None = Field(description="The file and line, or the field, that is at fault.")


class HyperparametersObject(Shape):
    """As they were asked for; what "auto" became is in `lora` and `spec`."""

    batch_size: int | Literal["auto"] = Field(description="Rows of a global batch.")
    n_epochs: int | Literal["auto"] = Field(description="Passes over the training file.")
    learning_rate_multiplier: float | Literal["auto"] = Field(description="Of the base model's own learning rate.")


class SupervisedObject(Shape):
    """Supervised fine-tuning."""

    hyperparameters: HyperparametersObject = Field(description="As they were asked for.")


class MethodObject(Shape):
    """A method of training, and its settings."""

    type: Literal["supervised"] = Field(default="supervised", description="Always `supervised`.")
    supervised: SupervisedObject = Field(description="Its settings.")


class LoraObject(Shape):
    """The adapter's settings in force, every choice made."""

    rank: int = Field(description="LoRA rank.")
    alpha: float = Field(description="Scale of the adapter.")
    dropout: float = Field(description="Share of the adapter's inputs left out in training.")
    target_modules: str | list[str] = Field(description="Adapted layers; `all-linear` for all but the output head.")
    use_rslora: bool = Field(description="Whether the scale is alpha / sqrt(rank) instead of alpha / rank.")
    use_dora: bool = Field(description="Whether the lengths of the weights' rows are trained apart (DoRA).")
    init: str = Field(description="How the factors began: `kaiming`, `gaussian`, `pissa` or `eva`.")
    bias: str = Field(description="Biases of the base that are trained too: `none`, `lora_only` or `all`.")
    rank_pattern: dict[str, int] = Field(description="Ranks of single layers, in place of `rank`.")
    alpha_pattern: dict[str, float] = Field(description="Alphas of single layers, in place of `alpha`.")
    learning_rate: float = Field(description="Peak learning rate.")
    weight_decay: float = Field(description="Of AdamW.")
    clip_norm: float = Field(description="Gradients are clipped to this norm; 0 does not clip.")
    schedule: str = Field(description="How the learning rate falls.")
    warmup_steps: int = Field(description="Steps in which it rises.")
    batch_size: int = Field(description="Rows of a global batch.")
    n_epochs: int = Field(description="Passes over the training file.")
    total_steps: int = Field(description="Optimiser steps.")
    max_seq_len: int = Field(description="Tokens of the longest row.")
    too_long: str = Field(description="Whether a longer row refuses the job or is left out.")

    @classmethod
    def of(cls, spec: RunSpec) -> "LoraObject":
        """From the frozen specification."""
        method = spec.lora
        targets = method.target_modules
        return cls(
            rank=method.lora_rank,
            alpha=method.alpha,
            dropout=method.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            use_rslora=method.use_rslora,
            use_dora=method.use_dora,
            init=method.init,
            bias=method.bias,
            rank_pattern=method.rank_pattern,
            alpha_pattern=method.alpha_pattern,
            learning_rate=spec.optimiser.learning_rate,
            weight_decay=spec.optimiser.weight_decay,
            clip_norm=spec.optimiser.clip_norm,
            schedule=spec.optimiser.schedule,
            warmup_steps=spec.optimiser.warmup_steps,
            batch_size=spec.batch_size,
            n_epochs=spec.n_epochs,
            total_steps=spec.total_steps,
            max_seq_len=spec.data.max_seq_len,
            too_long=spec.data.too_long,
        )


class JobAdapterObject(Shape):
    """The version that a job made."""

    name: str = Field(description="The adapter's name.")
    version: int = Field(description="The version's number.")
    id: str = Field(description="The version's id, `adapterver-…`.")


class JobProgressObject(Shape):
    """How far the job is: what its newest steps told. A figure that is not known, or not measured here, is null."""

    phase: str | None = Field(default=None, description="What the run is doing.")
    step: int | None = Field(default=None, description="Optimiser steps taken.")
    total_steps: int | None = Field(default=None, description="Optimiser steps in all.")
    loss: float | None = Field(default=None, description="Training loss of the step, in nats a supervised token.")
    token_accuracy: float | None = Field(
        default=None, description="Share of supervised tokens that were the likeliest."
    )
    validation_loss: float | None = Field(default=None, description="Loss on the validation file, when last measured.")
    validation_token_accuracy: float | None = Field(default=None, description="Token accuracy there.")
    learning_rate: float | None = Field(default=None, description="Learning rate of the step.")
    grad_norm: float | None = Field(default=None, description="The gradient's norm before it was clipped.")
    trained_tokens: int | None = Field(default=None, description="Tokens trained on so far, padding left out.")
    tokens_per_s: float | None = Field(
        default=None, description="Tokens trained on a second, since this attempt began."
    )
    step_s: float | None = Field(default=None, description="Seconds the step took.")
    mfu: float | None = Field(
        default=None, description="Model FLOP utilisation: needed operations a second, as a share of the worker's peak."
    )
    padding_ratio: float | None = Field(
        default=None, description="Tokens computed for each token of the rows: 1 without padding."
    )
    memory_bytes: int | None = Field(default=None, description="The most memory that one process of it has held.")
    eta_s: float | None = Field(default=None, description="Seconds of training that are left at this speed.")


class WaitingObject(Shape):
    """Why a job waits."""

    code: WaitingCode = Field(description="For a program; stable.")
    message: str = Field(description="For a person.")
    position: int | None = Field(description="A queued job's place among those of all departments, from 1.")
    needed_bytes: int | None = Field(description="The memory it needs at least, where no worker has it.")
    largest_bytes: int | None = Field(description="The most that a worker has for it, where that is too little.")

    @classmethod
    def of(cls, waiting: Waiting) -> "WaitingObject":
        """From the rule's answer."""
        return cls.model_validate(asdict(waiting))


class JobObject(Identified):
    """A fine-tuning job: one request to train an adapter."""

    id: str = Field(description="`ftjob-…`.")
    object: Literal["fine_tuning.job"] = Field(default="fine_tuning.job", description="Always `fine_tuning.job`.")
    created_at: int = Field(description="When it was submitted, in seconds since 1970.")
    finished_at: int | None = Field(description="When it ended; null before.")
    estimated_finish: int | None = Field(description="When it will end if it goes on as it does; null if unknown.")
    model: str = Field(description="The base model.")
    fine_tuned_model: str | None = Field(description="The new model's name, once the job has succeeded.")
    organization_id: str = Field(description="The organisation.")
    project_id: str = Field(description="The department. Ours.")
    status: JobState = Field(description="Where the job is.")
    training_file: str = Field(description="Rows it learns from.")
    validation_file: str | None = Field(description="Rows its loss is measured on while it trains.")
    evaluation_file: str | None = Field(description="Held-out rows: base model and adapter are measured on them. Ours.")
    result_files: list[str] = Field(description="Always empty.")
    trained_tokens: int | None = Field(description="Tokens trained on, padding left out, once it has succeeded.")
    seed: int = Field(description="Of everything that is random in it.")
    hyperparameters: HyperparametersObject = Field(description="As they were asked for.")
    method: MethodObject = Field(description="How the adapter is trained.")
    error: JobErrorObject | None = Field(description="Why it failed; null if it did not.")
    integrations: list[str] = Field(description="Always empty.")
    metadata: dict[str, str] = Field(description="The caller's own pairs.")
    parent: str | None = Field(description="The version that it continues from, `adapterver-…`. Ours.")
    priority: int = Field(description="Of the department's waiting jobs the one with the highest is taken first. Ours.")
    user_provided_suffix: str | None = Field(description="The suffix as given: it names the adapter.")
    lora: LoraObject = Field(description="The settings in force. Ours.")
    spec: dict[str, Any] = Field(description="The frozen specification of its run, files as digests. Ours.")
    waiting: WaitingObject | None = Field(description="Why it waits; null for one that runs or has ended. Ours.")
    progress: JobProgressObject | None = Field(description="How far it is; kept when it has ended. Ours.")
    adapter: JobAdapterObject | None = Field(description="The version it made. Ours.")
    estimate: FiguresObject | None = Field(
        description="What it was thought to come to when its rows had been counted. Ours."
    )
    actual: ActualObject | None = Field(description="What it came to, once it has succeeded. Ours.")

    @classmethod
    def of(cls, job: Job, version: AdapterVersion | None, *, organisation: str, waiting: Waiting | None) -> "JobObject":
        """From its row, that of the version it made, and the reason for which it waits."""
        spec = RunSpec.model_validate(job.spec, strict=False)
        hyperparameters = HyperparametersObject.model_validate(job.hyperparameters)
        estimate = Estimate.model_validate(job.estimate, strict=False) if job.estimate else None
        return cls(
            id=public_id(IdKind.JOB, job.id),
            created_at=seconds(job.created_at),
            finished_at=seconds_or_none(job.finished_at),
            estimated_finish=_estimated_finish(job),
            model=spec.base_model,
            fine_tuned_model=version.model_name if version else None,
            organization_id=organisation,
            project_id=public_id(IdKind.DEPARTMENT, job.department_id),
            status=JobState(job.state),
            training_file=public_id(IdKind.FILE, job.training_file_id),
            validation_file=public_id(IdKind.FILE, job.validation_file_id) if job.validation_file_id else None,
            evaluation_file=public_id(IdKind.FILE, job.evaluation_file_id) if job.evaluation_file_id else None,
            result_files=[],
            trained_tokens=job.trained_tokens,
            seed=spec.seed,
            hyperparameters=hyperparameters,
            method=MethodObject(supervised=SupervisedObject(hyperparameters=hyperparameters)),
            error=JobErrorObject.model_validate(job.error) if job.error else None,
            integrations=[],
            metadata=job.job_metadata,
            parent=public_id(IdKind.ADAPTER_VERSION, job.parent_version_id) if job.parent_version_id else None,
            priority=job.priority,
            user_provided_suffix=job.suffix,
            lora=LoraObject.of(spec),
            spec=job.spec,
            waiting=WaitingObject.of(waiting) if waiting else None,
            progress=JobProgressObject.model_validate(job.progress) if job.progress else None,
            adapter=_adapter(job, version),
            estimate=FiguresObject.of(estimate) if estimate else None,
            actual=ActualObject.of(Actual.model_validate(job.actual, strict=False), estimate) if job.actual else None,
        )


def _estimated_finish(job: Job) -> int | None:
    left_s = (job.progress or {}).get("eta_s")
    if job.state != JobState.RUNNING or not isinstance(left_s, int | float):
        return None
    return seconds(datetime.now(UTC) + timedelta(seconds=left_s))


def _adapter(job: Job, version: AdapterVersion | None) -> JobAdapterObject | None:
    if version is None:
        return None
    return JobAdapterObject(
        name=job.adapter_name, version=version.number, id=public_id(IdKind.ADAPTER_VERSION, version.id)
    )


class JobEventObject(Identified):
    """One line of a job's story."""

    id: str = Field(description="`ftevent-…`.")
    object: Literal["fine_tuning.job.event"] = Field(
        default="fine_tuning.job.event", description="Always `fine_tuning.job.event`."
    )
    created_at: int = Field(description="When it happened, in seconds since 1970.")
    level: str = Field(description="`info`, `warn` or `error`.")
    message: str = Field(description="For a person.")
    type: str = Field(description="`message`, or `metrics` where `data` holds measurements.")
    data: dict[str, Any] | None = Field(
        description="Measurements, as far as they were made: step, total_steps; train_loss and"
        " train_mean_token_accuracy, or valid_loss and valid_mean_token_accuracy; learning_rate, grad_norm,"
        " trained_tokens, tokens_per_s, step_s, mfu, padding_ratio, memory_bytes and eta_s as in the job's `progress`."
    )

    @classmethod
    def of(cls, event: JobEvent) -> "JobEventObject":
        """From its row."""
        return cls(
            id=public_id(IdKind.JOB_EVENT, event.id),
            created_at=seconds(event.created_at),
            level=event.level,
            message=event.message,
            type=event.type,
            data=event.data,
        )


class JobCheckpointObject(Identified):
    """A point of a run from which it can go on."""

    id: str = Field(description="`ftckpt_…`.")
    object: Literal["fine_tuning.job.checkpoint"] = Field(
        default="fine_tuning.job.checkpoint", description="Always `fine_tuning.job.checkpoint`."
    )
    created_at: int = Field(description="When it was stored, in seconds since 1970.")
    fine_tuning_job_id: str = Field(description="The job.")
    fine_tuned_model_checkpoint: str = Field(description="What a model of this step would be called.")
    step_number: int = Field(description="The optimiser step after which it was taken.")
    metrics: dict[str, Any] = Field(description="Measurements at that step, as in the `data` of events.")
    erased_at: int | None = Field(
        description="When it was given up, in seconds since 1970: nothing goes on from it any more. Null before. Ours."
    )
    expires_at: int | None = Field(
        description="When it will be, in seconds since 1970. Null while its job is not finished: the newest two are"
        " kept. Ours."
    )

    @classmethod
    def of(cls, checkpoint: JobCheckpoint, job: Job, *, organisation: str, ttl: timedelta) -> "JobCheckpointObject":
        """From its row and its job's; ttl is how long a finished job's are kept."""
        model = model_name(job.spec["base_model"], organisation, job.adapter_name, job.id.hex)
        return cls(
            id=public_id(IdKind.JOB_CHECKPOINT, checkpoint.id),
            created_at=seconds(checkpoint.created_at),
            fine_tuning_job_id=public_id(IdKind.JOB, job.id),
            fine_tuned_model_checkpoint=f"{model}:ckpt-step-{checkpoint.step}",
            step_number=checkpoint.step,
            metrics=checkpoint.metrics,
            erased_at=seconds_or_none(checkpoint.erased_at),
            expires_at=_expires_at(checkpoint, job, ttl),
        )


def _expires_at(checkpoint: JobCheckpoint, job: Job, ttl: timedelta) -> int | None:
    if checkpoint.erased_at is not None or job.finished_at is None:
        return None
    return seconds(expires_at(job.finished_at, job.checkpoints_warned_at, ttl))
