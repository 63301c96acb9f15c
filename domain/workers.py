"""Train workers: their states, what they say of themselves, and what a job needs of one at least."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from domain.base_models import BaseModelFacts
from domain.frozen import Frozen
from domain.plans import Device, Precision, Quantisation
from domain.refusals import WorkerRetired
from domain.runs import RunSpec


class WorkerState(StrEnum):
    """ACTIVE takes jobs; DRAINING finishes what it has; RETIRED has ended."""

    ACTIVE = "active"
    DRAINING = "draining"
    RETIRED = "retired"


def check_alive(state: str) -> None:
    """Raise WorkerRetired for a worker that nothing can be asked of any more."""
    if state == WorkerState.RETIRED:
        raise WorkerRetired("The worker has ended; another registers when it starts.")


# A worker that was not heard of for so many leases is shown as lost: its jobs are long somebody else's.
LOST_AFTER_LEASES = 2

# The least a weight of the frozen base takes; `auto` is one of 16 bits, or of 32 where the machine has no better.
_QUANTISED_BITS = {Quantisation.NF4: 4, Quantisation.INT8: 8}
_HALF_BITS, _SINGLE_BITS = 16, 32

# Of every trained parameter: the fp32 master, its gradient, and AdamW's two moments.
_STATE_BYTES = 16


class WorkerFacts(Frozen):
    """What a worker can, as it found at its start. None: it could not find out."""

    name: str
    host: str
    device: Device
    device_name: str | None
    ranks: Annotated[int, Field(ge=1)]
    threads_per_rank: Annotated[int, Field(ge=1)]
    # Of the smallest device, or of the machine within its container's limit where ranks compute on its CPUs.
    memory_bytes: Annotated[int, Field(ge=0)] | None
    precision: Precision
    quantisation: Quantisation
    # Package and Python versions by name.
    versions: dict[str, str]


def weight_bits(precision: Precision, quantisation: Quantisation) -> int:
    """Bits that a weight of the frozen base takes at least."""
    if quantisation in _QUANTISED_BITS:
        return _QUANTISED_BITS[quantisation]
    return _SINGLE_BITS if precision is Precision.FP32 else _HALF_BITS


def capacity_bytes(memory_bytes: int | None, bits: int) -> int | None:
    """The largest job that such a worker takes, told for a base in 16 bits as jobs' needs are; None for any."""
    return None if memory_bytes is None else memory_bytes * _HALF_BITS // bits


def fits(needed_bytes: int | None, memory_bytes: int | None, bits: int) -> bool:
    """Whether a worker may take a job: the database's function of that name says the same. What is not known fits."""
    capacity = capacity_bytes(memory_bytes, bits)
    return needed_bytes is None or capacity is None or needed_bytes <= capacity


def least_memory_bytes(spec: RunSpec, base: BaseModelFacts, longest_row_tokens: int) -> int | None:
    """What no rank can do without, the base in 16 bits; None where the base's size is not known.

    A lower bound, made of what a model's files tell: its weights; the factors of all layers, which are as wide as the
    model on one side at least, with their gradients and moments; and one number a layer and a unit of width of the
    longest row, which has to be in memory whole. A worker with less is sure to fail; one with more may still, and says
    so before the first step.
    """
    if not base.parameters:
        return None
    method, half_bytes = spec.lora, _HALF_BITS // 8
    # Layers that were chosen by name may be few.
    adapted = len(base.linear_modules) if method.target_modules == "all-linear" else 0
    lora_rank = min([method.lora_rank, *method.rank_pattern.values()])
    units = base.hidden_size * base.num_hidden_layers
    tokens = min(longest_row_tokens, spec.data.max_seq_len)
    return base.parameters * half_bytes + units * (adapted * lora_rank * _STATE_BYTES + tokens * half_bytes)
