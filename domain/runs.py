"""What a run is asked to do: the frozen specification that a job keeps for ever."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from domain.digests import Digest
from domain.frozen import Frozen

MAX_LORA_RANK = 256


class Schedule(StrEnum):
    """How the learning rate moves after the warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class TooLong(StrEnum):
    """What happens to a row with more tokens than `max_seq_len`."""

    REFUSE = "refuse"
    SKIP = "skip"


class LoraInit(StrEnum):
    """How A and B begin. B A is zero in every case but PiSSA's, which takes it out of W."""

    # A uniform in +-1/sqrt(in_features), as peft's default.
    KAIMING = "kaiming"
    # A normal with a deviation of 1/lora_rank, as peft's "gaussian".
    GAUSSIAN = "gaussian"
    # The principal singular vectors of W (Meng et al. 2024, arXiv:2404.02948).
    PISSA = "pissa"
    # The principal directions of a layer's inputs on the run's own rows (Paischer et al. 2024, arXiv:2410.07170).
    EVA = "eva"


class LoraBias(StrEnum):
    """Which biases of the base are trained beside the factors."""

    NONE = "none"
    # Those of the adapted layers.
    LORA_ONLY = "lora_only"
    ALL = "all"


Rank = Annotated[int, Field(ge=1, le=MAX_LORA_RANK)]
Alpha = Annotated[float, Field(gt=0, le=4096)]


class LoraMethod(Frozen):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): W + (scale) B A, with W frozen.

    The scale is alpha / lora_rank, or alpha / sqrt(lora_rank) with `use_rslora`
    (Kalajdzievski 2023, arXiv:2312.03732). `use_dora` trains the columns' magnitudes apart from their directions
    (Liu et al. 2024, arXiv:2402.09353). The patterns replace rank and alpha of the layers whose name ends in a key,
    read as peft reads them: as a regular expression after a dot or from the beginning.
    """

    type: Literal["lora"] = "lora"
    lora_rank: Rank = 8
    alpha: Alpha = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # "all-linear" is every linear layer but the output head, as peft defines it.
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False
    init: LoraInit = LoraInit.KAIMING
    bias: LoraBias = LoraBias.NONE
    rank_pattern: dict[str, Rank] = Field(default_factory=dict)
    alpha_pattern: dict[str, Alpha] = Field(default_factory=dict)


class FullMethod(Frozen):
    """Every weight of the base is trained: what adapters are compared with. The result is a model, not an adapter."""

    type: Literal["full"] = "full"


class BottleneckMethod(Frozen):
    """A small network behind every attention and feed-forward block (Houlsby et al. 2019, arXiv:1902.00751).

    h + up(gelu(down(h))), `up` zero at the beginning. For comparison: servers of LoRA adapters cannot load it.
    """

    type: Literal["bottleneck"] = "bottleneck"
    width: Annotated[int, Field(ge=1, le=4096)] = 64


Method = Annotated[LoraMethod | FullMethod | BottleneckMethod, Field(discriminator="type")]


class Optimiser(Frozen):
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) with a linear warm-up, then `schedule` to zero."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-8
    # 0 does not clip.
    clip_norm: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    schedule: Schedule = Schedule.LINEAR
    warmup_steps: Annotated[int, Field(ge=0)] = 0


class RunData(Frozen):
    """The rows of a run, by digest of the uploaded bytes."""

    train: Digest
    train_rows: Annotated[int, Field(ge=1)]
    validation: Digest | None = None
    # Held-out rows, measured with the base model and with the finished adapter.
    evaluation: Digest | None = None
    max_seq_len: Annotated[int, Field(ge=8)]
    too_long: TooLong = TooLong.REFUSE


class RunSpec(Frozen):
    """One adapter to be trained. Names have become digests; "auto" has become a number.

    batch_size counts rows of the global batch, over all ranks. total_steps counts optimiser steps.
    """

    base_model: str
    base_model_digest: Digest
    method: Method
    optimiser: Optimiser
    data: RunData
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    batch_size: Annotated[int, Field(ge=1, le=256)]
    n_epochs: Annotated[int, Field(ge=1)]
    total_steps: Annotated[int, Field(ge=1)]
    checkpoint_every_steps: Annotated[int, Field(ge=1)]
    # 0 validates only after the last step.
    validate_every_steps: Annotated[int, Field(ge=0)]
    # The adapter version whose weights it begins with, by its manifest's digest; it has this method's shapes.
    parent: Digest | None = None

    @model_serializer(mode="wrap")
    def _without_absent_parent(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        # Workers of a release that knows no parents go on with the jobs that have none.
        dumped: dict[str, object] = dump(self)
        return {name: value for name, value in dumped.items() if name != "parent" or value is not None}

    @property
    def lora(self) -> LoraMethod:
        """The method of a job's run: the service grafts adapters; the other methods are the engine's, to compare."""
        if not isinstance(self.method, LoraMethod):
            raise TypeError(f"{self.method.type} makes no adapter")
        return self.method
