"""A request to train, in the client's fields plus ours, and how it becomes a frozen RunSpec."""

import difflib
import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from domain.adapters import check_name
from domain.base_models import BaseModelFacts
from domain.continuing import ParentFacts, continued
from domain.digests import Digest
from domain.layer_patterns import FORM, MAX_KEY_CHARACTERS, MAX_KEYS, LayerPattern, read_key
from domain.refusals import ConflictingFields, ExceedsBaseModel, Invalid, JobTooLarge, OutOfRange, UnknownTargetModule
from domain.runs import (
    MAX_LORA_RANK,
    LoraBias,
    LoraInit,
    LoraMethod,
    Optimiser,
    RunData,
    RunSpec,
    Schedule,
    TooLong,
)

Auto = Literal["auto"]
DEFAULT_BATCH_SIZE = 8
DEFAULT_EPOCHS = 3
DEFAULT_MAX_SEQ_LEN = 512
CHECKPOINTS_PER_RUN = 10
# Closer together they cost more than the steps they save.
MIN_STEPS_BETWEEN_CHECKPOINTS = 20
VALIDATIONS_PER_RUN = 4
MAX_TOTAL_STEPS = 1_000_000
# PiSSA takes its start out of the base again: the finished adapter has up to twice the rank, and that must be legal.
MAX_PISSA_RANK = MAX_LORA_RANK // 2
# EVA looks for a rank's directions in a sketch of so many times the rank, which the layer's input must hold.
EVA_SKETCH = 2
_MAX_SHOWN_CHARACTERS = 64

Rank = Annotated[StrictInt, Field(ge=1, le=MAX_LORA_RANK)]
Alpha = Annotated[StrictInt | StrictFloat, Field(gt=0, le=4096)]
PatternKey = Annotated[StrictStr, Field(min_length=1, max_length=MAX_KEY_CHARACTERS)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Hyperparameters(_Request):
    """The client's three; each a number or "auto"."""

    batch_size: Auto | Annotated[StrictInt, Field(ge=1, le=256)] = Field(
        default="auto", description=f"Rows of a global batch, over all ranks; {DEFAULT_BATCH_SIZE} when left out."
    )
    n_epochs: Auto | Annotated[StrictInt, Field(ge=1, le=50)] = Field(
        default="auto", description=f"Passes over the training file; {DEFAULT_EPOCHS} when left out."
    )
    learning_rate_multiplier: Auto | Annotated[StrictInt | StrictFloat, Field(gt=0, le=100)] = Field(
        default="auto", description="Of the learning rate that suits the base model's width; 1 when left out."
    )


class Supervised(_Request):
    """The client's `method.supervised`."""

    hyperparameters: Hyperparameters = Field(default=Hyperparameters(), description="Numbers, or `auto`.")


class Method(_Request):
    """The client's `method`. Supervised fine-tuning is the one there is."""

    type: Literal["supervised"] = Field(description="Always `supervised`.")
    supervised: Supervised = Field(default=Supervised(), description="Its settings.")


class LoraRequest(_Request):
    """Ours, through the client's `extra_body={"lora": {...}}`. What is left out is chosen."""

    rank: Rank = Field(default=8, description="LoRA rank.")
    alpha: Alpha | None = Field(default=None, description="Scale of the adapter; twice the rank when left out.")
    dropout: Annotated[StrictInt | StrictFloat, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Share of the adapter's inputs left out in training."
    )
    target_modules: Literal["all-linear"] | Annotated[list[StrictStr], Field(min_length=1, max_length=64)] = Field(
        default="all-linear", description="Layers to adapt, by the last part of their names."
    )
    use_rslora: StrictBool = Field(default=False, description="Scale by alpha / sqrt(rank) instead of alpha / rank.")
    use_dora: StrictBool = Field(
        default=False,
        description="DoRA: train the length of each row of a weight apart from its direction. vLLM does not load it.",
    )
    init: LoraInit = Field(
        default=LoraInit.KAIMING,
        description="How the factors begin: `kaiming` or `gaussian` at random; `pissa` as the principal part of the"
        " weight, for ranks to 128, and the finished adapter has up to twice the rank; `eva` along the principal"
        " directions of what the training rows bring to each layer.",
    )
    bias: LoraBias = Field(
        default=LoraBias.NONE,
        description="Biases of the base that are trained too: `none`, `lora_only` for those of adapted layers, or"
        " `all`. A base model without biases trains none. vLLM does not load them.",
    )
    rank_pattern: Annotated[dict[PatternKey, Rank], Field(max_length=MAX_KEYS)] = Field(
        default_factory=dict,
        description=f"Ranks of single layers, in place of `rank`. {FORM} No two keys may name the same layer.",
    )
    alpha_pattern: Annotated[dict[PatternKey, Alpha], Field(max_length=MAX_KEYS)] = Field(
        default_factory=dict,
        description="Alphas of single layers, in place of `alpha`; keys as in `rank_pattern`.",
    )
    learning_rate: Annotated[StrictInt | StrictFloat, Field(gt=0, le=1)] | None = Field(
        default=None, description="Peak learning rate; excludes `learning_rate_multiplier`."
    )
    weight_decay: Annotated[StrictInt | StrictFloat, Field(ge=0, le=1)] = Field(default=0.0, description="Of AdamW.")
    clip_norm: Annotated[StrictInt | StrictFloat, Field(ge=0, le=1e6)] = Field(
        default=1.0, description="Gradients are clipped to this norm; 0 does not clip."
    )
    schedule: Schedule = Field(default=Schedule.LINEAR, description="How the learning rate falls after the warm-up.")
    warmup_ratio: Annotated[StrictInt | StrictFloat, Field(ge=0, lt=1)] = Field(
        default=0.05, description="Share of the steps in which the learning rate rises."
    )
    max_steps: Annotated[StrictInt, Field(ge=1, le=MAX_TOTAL_STEPS)] | None = Field(
        default=None, description="Optimiser steps; excludes `n_epochs`."
    )
    max_seq_len: Annotated[StrictInt, Field(ge=8)] | None = Field(
        default=None, description="Tokens of the longest row; 512, or the base model's context where that is shorter."
    )
    too_long: TooLong = Field(
        default=TooLong.REFUSE, description="Whether a row longer than `max_seq_len` refuses the job or is left out."
    )
    checkpoint_every_steps: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None,
        description=f"Steps between checkpoints; {CHECKPOINTS_PER_RUN} a run when left out,"
        f" {MIN_STEPS_BETWEEN_CHECKPOINTS} steps apart at least.",
    )
    validate_every_steps: Annotated[StrictInt, Field(ge=0)] | None = Field(
        default=None, description="Steps between validations; 0 validates only after the last step."
    )


class JobRequest(_Request):
    """`POST /v1/fine_tuning/jobs`."""

    model: StrictStr = Field(
        description="A registered base model's name; or a version's, `ft:…`, to continue from its weights."
    )
    training_file: StrictStr = Field(description="Id of the rows to learn from, `file-…`.")
    validation_file: StrictStr | None = Field(
        default=None, description="Id of rows that the loss is measured on while it trains."
    )
    evaluation_file: StrictStr | None = Field(
        default=None, description="Held-out rows; the base model and the adapter are measured on them. Ours."
    )
    suffix: Annotated[StrictStr, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="Names the adapter; its versions are numbered from 1. `default` when left out."
    )
    seed: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] | None = Field(
        default=None, description="Of everything that is random in the job; chosen when left out."
    )
    priority: Annotated[StrictInt, Field(ge=-100, le=100)] = Field(
        default=0, description="Of the department's waiting jobs the one with the highest is taken first. Ours."
    )
    metadata: Annotated[
        dict[
            Annotated[StrictStr, Field(min_length=1, max_length=64)], Annotated[StrictStr, Field(max_length=512)]
        ],
        Field(max_length=16),
    ] | None = Field(default=None, description="Up to 16 pairs of the caller's own.")  # fmt: skip
    hyperparameters: Hyperparameters | None = Field(
        default=None, description="Deprecated by the client in favour of `method`; the same meaning."
    )
    method: Method | None = Field(default=None, description="How to train; supervised when left out.")
    lora: LoraRequest = Field(default=LoraRequest(), description="Settings of the adapter. Ours.")
    integrations: Annotated[list[StrictStr], Field(max_length=0)] | None = Field(
        default=None, description="Accepted when empty."
    )

    @property
    def chosen_hyperparameters(self) -> Hyperparameters:
        """From `method`, or from the deprecated field of the same meaning."""
        if self.method is not None and self.hyperparameters is not None:
            raise ConflictingFields("Give `method` or `hyperparameters`, not both.", param="hyperparameters")
        if self.method is not None:
            return self.method.supervised.hyperparameters
        return self.hyperparameters or Hyperparameters()

    @property
    def adapter_name(self) -> str:
        """The series that the finished version joins."""
        return check_name(self.suffix, param="suffix") if self.suffix else "default"


class FileFacts(BaseModel):
    """What a job needs to know of a file."""

    digest: Digest
    rows: int


def resolve(
    request: JobRequest,
    *,
    base_model: str,
    base_model_digest: Digest,
    facts: BaseModelFacts,
    training: FileFacts,
    validation: FileFacts | None,
    evaluation: FileFacts | None,
    seed: int,
    parent: ParentFacts | None = None,
) -> RunSpec:
    """The frozen specification of the run: every "auto" has become a number, every name a digest.

    Raises Invalid, OutOfRange, ConflictingFields, ExceedsBaseModel, UnknownTargetModule or ParentDiffers.
    """
    chosen, lora = request.chosen_hyperparameters, request.lora
    batch_size = DEFAULT_BATCH_SIZE if chosen.batch_size == "auto" else chosen.batch_size
    n_epochs, total_steps = _length(chosen, lora, rows=training.rows, batch_size=batch_size)
    return RunSpec(
        base_model=base_model,
        base_model_digest=base_model_digest,
        method=continued(lora.model_dump(exclude_unset=True), parent.method) if parent else _method(lora, facts),
        optimiser=Optimiser(
            learning_rate=_learning_rate(chosen, lora, facts),
            weight_decay=float(lora.weight_decay),
            clip_norm=float(lora.clip_norm),
            schedule=lora.schedule,
            warmup_steps=int(total_steps * lora.warmup_ratio),
        ),
        data=RunData(
            train=training.digest,
            train_rows=training.rows,
            validation=validation.digest if validation else None,
            evaluation=evaluation.digest if evaluation else None,
            max_seq_len=_max_seq_len(lora, facts),
            too_long=lora.too_long,
        ),
        seed=seed,
        batch_size=batch_size,
        n_epochs=n_epochs,
        total_steps=total_steps,
        checkpoint_every_steps=lora.checkpoint_every_steps
        or max(MIN_STEPS_BETWEEN_CHECKPOINTS, math.ceil(total_steps / CHECKPOINTS_PER_RUN)),
        validate_every_steps=_validate_every(lora, total_steps, has_validation=validation is not None),
        parent=parent.digest if parent else None,
    )


def check_total_steps(total_steps: int, max_total_steps: int) -> None:
    """Raise JobTooLarge where a job has more optimiser steps than the limit."""
    if total_steps > max_total_steps:
        raise JobTooLarge(
            f"The job would take {total_steps} steps; the limit here is {max_total_steps}.", param="hyperparameters"
        )


def _length(chosen: Hyperparameters, lora: LoraRequest, *, rows: int, batch_size: int) -> tuple[int, int]:
    steps_an_epoch = math.ceil(rows / batch_size)
    if lora.max_steps is None:
        n_epochs = DEFAULT_EPOCHS if chosen.n_epochs == "auto" else chosen.n_epochs
        return n_epochs, n_epochs * steps_an_epoch
    if chosen.n_epochs != "auto":
        raise ConflictingFields("Give `n_epochs` or `lora.max_steps`, not both.", param="lora.max_steps")
    return math.ceil(lora.max_steps / steps_an_epoch), lora.max_steps


def _learning_rate(chosen: Hyperparameters, lora: LoraRequest, facts: BaseModelFacts) -> float:
    multiplier = chosen.learning_rate_multiplier
    if lora.learning_rate is not None:
        if multiplier != "auto":
            raise ConflictingFields(
                "Give `learning_rate_multiplier` or `lora.learning_rate`, not both.", param="lora.learning_rate"
            )
        return float(lora.learning_rate)
    rate = base_learning_rate(facts.hidden_size) * (1.0 if multiplier == "auto" else multiplier)
    if rate > 1:
        raise OutOfRange("The learning rate would exceed 1.", param="hyperparameters.learning_rate_multiplier")
    return rate


def base_learning_rate(hidden_size: int) -> float:
    """The peak learning rate that a multiplier of 1 means: narrower models bear higher rates.

    A power of the width through two points: 1e-3 at 576 (measured with SmolLM2-135M) and 2e-4 at 4096
    (Dettmers et al. 2023, arXiv:2305.14314, for 7 B models); not extrapolated to narrower ones.
    """
    narrow, wide = (576, 1e-3), (4096, 2e-4)
    exponent = math.log(wide[1] / narrow[1]) / math.log(wide[0] / narrow[0])
    return float(narrow[1] * (max(hidden_size, narrow[0]) / narrow[0]) ** exponent)


def _method(lora: LoraRequest, facts: BaseModelFacts) -> LoraMethod:
    targets = lora.target_modules
    if targets != "all-linear":
        for name in targets:
            _check_target(name, facts, param="lora.target_modules")
    _check_pattern(lora.rank_pattern, lora, facts, param="lora.rank_pattern")
    _check_pattern(lora.alpha_pattern, lora, facts, param="lora.alpha_pattern")
    _check_start(lora, facts)
    return LoraMethod(
        lora_rank=lora.rank,
        alpha=float(2 * lora.rank if lora.alpha is None else lora.alpha),
        dropout=float(lora.dropout),
        target_modules=targets if targets == "all-linear" else tuple(dict.fromkeys(targets)),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        init=lora.init,
        bias=lora.bias,
        rank_pattern=lora.rank_pattern,
        alpha_pattern={key: float(alpha) for key, alpha in lora.alpha_pattern.items()},
    )


def _check_target(name: str, facts: BaseModelFacts, *, param: str) -> None:
    if name in facts.linear_modules:
        return
    close = difflib.get_close_matches(name, facts.linear_modules, n=1)
    hint = f" Did you mean {close[0]}?" if close else f" It has: {', '.join(facts.linear_modules)}."
    raise UnknownTargetModule(f"The base model has no such linear layer.{hint}", param=param)


def _check_pattern(pattern: Mapping[str, float], lora: LoraRequest, facts: BaseModelFacts, *, param: str) -> None:
    """Refuse a key that names no adapted layer, as far as the last parts of layers' names and their number tell.

    The engine, which knows the whole names, refuses the others before the first step.
    """
    read: dict[str, LayerPattern] = {}
    for key in pattern:
        found, place = read_key(key), f"{param}.{_shown(key)}"
        if found is None:
            raise Invalid(FORM, param=place)
        _check_key(found, lora, facts, param=place)
        for other, known in read.items():
            if known.meets(found):
                raise ConflictingFields(f"The key `{_shown(other)}` may name the same layer.", param=place)
        read[key] = found


def _shown(key: str) -> str:
    # A key is the caller's own invention: it is shown, but not at any length.
    return key[:_MAX_SHOWN_CHARACTERS]


def _check_key(key: LayerPattern, lora: LoraRequest, facts: BaseModelFacts, *, param: str) -> None:
    for module in sorted(key.modules) or [""]:
        _check_target(module, facts, param=param)
        if lora.target_modules != "all-linear" and module not in lora.target_modules:
            raise ConflictingFields(f"`lora.target_modules` adapts no {module}.", param=param)
    if any(number >= facts.num_hidden_layers for number in key.layer_numbers):
        raise UnknownTargetModule(
            f"The base model's layers are numbered from 0 to {facts.num_hidden_layers - 1}.", param=param
        )


def _check_start(lora: LoraRequest, facts: BaseModelFacts) -> None:
    """Refuse what the factors' start cannot do on any base model, or on one of this width."""
    if lora.init is LoraInit.PISSA and lora.dropout:
        # Not noise on an adapter that is still zero, but the base's own principal part, left out at random.
        raise ConflictingFields("PiSSA begins with the base model's weights: give no dropout.", param="lora.dropout")
    most, why = _largest_rank(lora, facts)
    patterns = [(f"lora.rank_pattern.{_shown(key)}", rank) for key, rank in lora.rank_pattern.items()]
    for param, rank in [("lora.rank", lora.rank), *patterns]:
        if rank > most:
            raise OutOfRange(f"With `init` {lora.init} ranks go to {most}: {why}.", param=param)


def _largest_rank(lora: LoraRequest, facts: BaseModelFacts) -> tuple[int, str]:
    """The largest rank that a start can have, and why."""
    if lora.init is LoraInit.PISSA and facts.hidden_size >= MAX_PISSA_RANK:
        return MAX_PISSA_RANK, f"the finished adapter has twice the rank, and may have {MAX_LORA_RANK}"
    if lora.init is LoraInit.PISSA:
        # A layer's weight has the model's width on one side.
        return facts.hidden_size, f"the base model is {facts.hidden_size} wide"
    if lora.init is LoraInit.EVA and lora.target_modules == "all-linear":
        # Some of all layers have the model's width as their input.
        return facts.hidden_size // EVA_SKETCH, f"the base model is {facts.hidden_size} wide"
    return MAX_LORA_RANK, "no adapter has more"


def _max_seq_len(lora: LoraRequest, facts: BaseModelFacts) -> int:
    if lora.max_seq_len is None:
        return min(DEFAULT_MAX_SEQ_LEN, facts.max_position_embeddings)
    if lora.max_seq_len > facts.max_position_embeddings:
        raise ExceedsBaseModel(
            f"The base model takes {facts.max_position_embeddings} tokens at most.", param="lora.max_seq_len"
        )
    return lora.max_seq_len


def _validate_every(lora: LoraRequest, total_steps: int, *, has_validation: bool) -> int:
    if lora.validate_every_steps is not None:
        if lora.validate_every_steps and not has_validation:
            raise Invalid("There is no `validation_file` to validate on.", param="lora.validate_every_steps")
        return lora.validate_every_steps
    return math.ceil(total_steps / VALIDATIONS_PER_RUN) if has_validation else 0
