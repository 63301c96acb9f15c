"""What a run is asked to do: the frozen specification that a job keeps for ever."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

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


class LoraMethod(Frozen):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): W + (scale) B A, with W frozen.

    The scale is alpha / lora_rank, or alpha / sqrt(lora_rank) with `use_rslora`
    (Kalajdzievski 2023, arXiv:2312.03732).
    """

    type: Literal["lora"] = "lora"
    lora_rank: Annotated[int, Field(ge=1, le=MAX_LORA_RANK)] = 8
    alpha: Annotated[float, Field(gt=0, le=4096)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # "all-linear" is every linear layer but the output head, as peft defines it.
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    use_rslora: bool = False


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
    method: LoraMethod
    optimiser: Optimiser
    data: RunData
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    batch_size: Annotated[int, Field(ge=1, le=256)]
    n_epochs: Annotated[int, Field(ge=1)]
    total_steps: Annotated[int, Field(ge=1)]
    checkpoint_every_steps: Annotated[int, Field(ge=1)]
    # 0 validates only after the last step.
    validate_every_steps: Annotated[int, Field(ge=0)]
