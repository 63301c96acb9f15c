"""The engine's process contract: what stands in `plan.json` and in the files the engine writes.

Directories in, directories out. `train` reads

    inputs/base_model/                  an ordinary Hugging Face model folder
    inputs/<run>/train.jsonl            [validation.jsonl]
    inputs/<run>/checkpoint/            only to resume: one complete checkpoint
    inputs/<run>/parent/                only where the specification names a parent: its adapter, in PEFT format

and writes, per run,

    out/<run>/progress.jsonl            one `ProgressRecord` a line
    out/<run>/checkpoints/step-000200/  complete if and only if it holds a file COMPLETE
    out/<run>/adapter/                  PEFT format: adapter_config.json, adapter_model.safetensors
    out/<run>/report.json               a `RunReport`, written last; or
    out/<run>/stopped.json              a `RunStopped`: a checkpoint was written on request, the run is not over; or
    out/<run>/failure.json              a `RunFailure`

While it runs, rank 0 reads `out/control.jsonl`, one `ControlRecord` a line, and broadcasts it at step boundaries.
`evaluate` reads inputs/base_model/, inputs/<evaluation>/evaluation.jsonl and, where the plan says so,
inputs/<evaluation>/adapter/; it writes out/<evaluation>/report.json or failure.json and out/progress.jsonl.
The exit status says whether the process was healthy; the files say how each run ended.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from domain.digests import Digest
from domain.frozen import Frozen
from domain.runs import RunSpec, TooLong

RunId = Annotated[str, Field(pattern=r"^[\w.-]{1,128}$")]


class Precision(StrEnum):
    """The number format of the frozen base and its products. Adapters are fp32 masters in every case."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    # With a loss scale a run, halved where a gradient overflows. For GPUs without bf16.
    FP16 = "fp16"


class Quantisation(StrEnum):
    """How the frozen base is kept in memory, through bitsandbytes. Products are in `precision` all the same."""

    NONE = "none"
    # 4-bit NormalFloat with doubly quantised scales (Dettmers et al. 2023, arXiv:2305.14314).
    NF4 = "nf4"
    # LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339).
    INT8 = "int8"


class PathChoice(StrEnum):
    """Which implementation computes: `auto` takes the fast one where it knows the base model and the methods."""

    AUTO = "auto"
    FAST = "fast"
    GENERAL = "general"


class Device(StrEnum):
    """Where ranks compute. `auto` is CUDA where there is a device, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Compute(Frozen):
    """How the ranks compute; frozen in the plan and in every checkpoint."""

    world_size: Annotated[int, Field(ge=1)] = 1
    threads_per_rank: Annotated[int, Field(ge=1)] = 1
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    # A pass on one rank is filled to so many tokens, of one run or of several (one row may exceed it alone).
    token_budget: Annotated[int, Field(ge=1)] = 1024
    path: PathChoice = PathChoice.AUTO
    quantisation: Quantisation = Quantisation.NONE
    # Recompute each layer's activations in the backward pass instead of keeping them: a third more work.
    activation_checkpointing: bool = False
    # The best rate of matrix products measured on one rank, in FLOP/s: what `mfu` is a share of.
    peak_flops: Annotated[float, Field(gt=0)] | None = None
    # A collective that waits longer than this fails on every rank: a peer is dead or hung.
    collective_timeout_s: Annotated[int, Field(ge=1)] = 600


class RunPlan(Frozen):
    """One run of an engine batch."""

    run: RunId
    spec: RunSpec
    # The step of inputs/<run>/checkpoint, or None to start from the beginning.
    resume_step: Annotated[int, Field(ge=1)] | None = None


class TrainPlan(Frozen):
    """`python -m engine train`: runs of one or several jobs on one base model."""

    kind: Literal["train"] = "train"
    compute: Compute
    runs: Annotated[tuple[RunPlan, ...], Field(min_length=1)]


class EvaluationItem(Frozen):
    """One report to make: the base model alone, or with the adapter in inputs/<evaluation>/adapter/."""

    evaluation: RunId
    with_adapter: bool
    max_seq_len: Annotated[int, Field(ge=8)]


class EvaluatePlan(Frozen):
    """`python -m engine evaluate`: several reports on one base model."""

    kind: Literal["evaluate"] = "evaluate"
    compute: Compute
    evaluations: Annotated[tuple[EvaluationItem, ...], Field(min_length=1)]


class InspectPlan(Frozen):
    """`python -m engine inspect`: tokenise and count, no torch. Reads inputs/base_model/ (tokenizer files only).

    files: names of row files directly below inputs/, in the order they are to be reported.
    """

    kind: Literal["inspect"] = "inspect"
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    max_seq_len: Annotated[int, Field(ge=8)]
    too_long: TooLong
    # How many rows to show as their tokens, in the report; 0 for none.
    preview_rows: Annotated[int, Field(ge=0, le=20)] = 0


class CalibratePlan(Frozen):
    """`python -m engine calibrate`: measure this machine on inputs/base_model/. Holds no department's data."""

    kind: Literal["calibrate"] = "calibrate"
    compute: Compute


class CalibratedPass(Frozen):
    """The speed of training passes of one size, on one rank, with rows of a typical length."""

    tokens: int
    tokens_per_s: float


class CalibrateReport(Frozen):
    """out/report.json of `calibrate`.

    token_budget: the smallest size of a pass within 5 % of the best speed. peak_flops: the best rate of matrix products
    on one rank, in FLOP/s.
    """

    token_budget: Annotated[int, Field(ge=1)]
    peak_flops: Annotated[float, Field(gt=0)]
    passes: tuple[CalibratedPass, ...]
    precision: Precision
    device: Device
    hardware: str


class ProgressRecord(Frozen):
    """One line of progress.jsonl. Losses are in nats a supervised token; times in seconds.

    `train` lines come after every optimiser step, `validation` after every validation pass,
    `checkpoint` after a checkpoint became complete, `phase` when the run enters a phase (message says which).
    """

    kind: Literal["phase", "train", "validation", "checkpoint", "evaluation"]
    run: RunId
    step: Annotated[int, Field(ge=0)]
    total_steps: Annotated[int, Field(ge=0)]
    message: str | None = None
    loss: float | None = None
    # Share of supervised tokens whose most likely next token is the right one.
    token_accuracy: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    # Tokens without padding, of all ranks, since the run began (a resumed run counts on).
    trained_tokens: Annotated[int, Field(ge=0)] | None = None
    tokens_per_s: float | None = None
    # Wall time of the step; of the whole pass where several runs shared it.
    step_s: float | None = None
    # Model FLOP utilisation: needed operations a second over the peak measured on this machine, all ranks.
    mfu: float | None = None
    # Tokens multiplied for each token of the rows: 1 without padding.
    padding_ratio: float | None = None
    # The most a rank has held so far.
    memory_bytes: Annotated[int, Field(ge=0)] | None = None
    eta_s: float | None = None


class ControlRecord(Frozen):
    """One line of control.jsonl, obeyed at the next step boundary.

    `checkpoint` and `stop` write a checkpoint, and `stop` then ends the run. `join` adds a run to those in training:
    its inputs are in place below inputs/<run>/, and `plan` says what it is.
    """

    op: Literal["stop", "checkpoint", "join"]
    run: RunId
    plan: RunPlan | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.op == "join") != (self.plan is not None) or (self.plan and self.plan.run != self.run):
            raise ValueError("`join` comes with the run's plan, and nothing else does")
        return self


class RunReport(Frozen):
    """How a finished run went; report.json. Losses in nats a supervised token, over all validation rows."""

    run: RunId
    steps: int
    trained_tokens: int
    supervised_tokens: int
    train_s: float
    tokens_per_s: float
    final_train_loss: float
    validation_loss: float | None
    validation_token_accuracy: float | None
    trainable_parameters: int
    total_parameters: int
    peak_memory_bytes: int
    # What a pass and the optimiser were thought to need beside the base model, before the first step.
    estimated_memory_bytes: int
    precision: Precision
    device: Device
    path: PathChoice
    token_budget: int
    world_size: int
    skipped_rows: int
    # Package and Python versions that took part, by name.
    versions: dict[str, str]


class RunStopped(Frozen):
    """A run that was asked to stop; its last complete checkpoint is `step`."""

    run: RunId
    step: int


class FailureKind(StrEnum):
    """Why a run ended without an adapter. OUT_OF_MEMORY and BAD_DATA are not retried on the same shape."""

    BAD_DATA = "bad_data"
    BAD_CHECKPOINT = "bad_checkpoint"
    BAD_BASE_MODEL = "bad_base_model"
    NON_FINITE_LOSS = "non_finite_loss"
    OUT_OF_MEMORY = "out_of_memory"
    NO_SPACE = "no_space"
    CRASH = "crash"


class RunFailure(Frozen):
    """failure.json. The message is for the department: no path, no row content, no library's text."""

    kind: FailureKind
    message: str
    step: int | None = None


class EvaluationReport(Frozen):
    """report.json of an evaluation.

    loss: nats a supervised token over all rows. accuracy: share of rows whose right choice is the most likely one by
    summed log-likelihood among the row's `choices`; None where no row has choices.
    """

    evaluation: RunId
    rows: int
    supervised_tokens: int
    loss: float
    token_accuracy: float
    choice_rows: int
    accuracy: float | None
    seconds: float


class InspectedFile(Frozen):
    """What one row file comes to under the base model's tokenizer and chat template."""

    file: str
    rows: int
    tokens: int
    supervised_tokens: int
    longest_row_tokens: int
    too_long_rows: int
    untrainable_rows: int
    preview: tuple[tuple[tuple[str, bool], ...], ...] = ()


class InspectProblem(Frozen):
    """The first row that cannot be trained on. `line` counts from 1."""

    file: str
    line: int | None
    code: str
    message: str

    @property
    def place(self) -> str:
        """`file:line`, or the file alone."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


class InspectReport(Frozen):
    """out/report.json of `inspect`: counts per file, and problems (at most 100) that refuse the job."""

    files: tuple[InspectedFile, ...]
    problems: tuple[InspectProblem, ...]


class EngineManifest(Frozen):
    """What a checkpoint remembers besides tensors; checkpoint.json inside the checkpoint folder."""

    run: RunId
    step: int
    # The tick of its process in which the run was last served, so that those resumed together take the same turns.
    turn: int = 0
    trained_tokens: int
    supervised_tokens: int
    train_s: float
    # What the loss is multiplied by, 1 but in fp16, and the steps since it was last changed.
    loss_scale: float = 1.0
    good_steps: int = 0
    spec: RunSpec
    compute: Compute
    base_model_digest: Digest
    versions: dict[str, str]
