import pytest

from domain.base_models import BaseModelFacts
from domain.job_requests import FileFacts, JobRequest, resolve
from domain.plans import Precision, Quantisation
from domain.refusals import WorkerRetired
from domain.runs import RunSpec
from domain.workers import WorkerState, check_alive, fits, least_memory_bytes, weight_bits

GIB = 1 << 30
DIGEST = "sha256:" + "0" * 64
BASE = BaseModelFacts(
    model_type="llama", hidden_size=100, num_hidden_layers=3, max_position_embeddings=2048, parameters=1_000_000,
    linear_modules=("down_proj", "q_proj"),
)  # fmt: skip


def spec(**lora: object) -> RunSpec:
    return resolve(
        JobRequest.model_validate({"model": "m", "training_file": "f", "lora": {"max_seq_len": 64} | lora}),
        base_model="m", base_model_digest=DIGEST, facts=BASE, training=FileFacts(digest=DIGEST, rows=8),
        validation=None, evaluation=None, seed=7,
    )  # fmt: skip


def test_what_no_rank_can_do_without_is_counted_by_hand() -> None:
    # 16-bit weights; two adapted layers in each of three, one factor of width 100 and 8 or 2 of rank, 16 bytes of state
    # for each of its numbers; 10 tokens of width 100 in three layers, 16 bits each.
    assert least_memory_bytes(spec(), BASE, 10) == 2_000_000 + 3 * 2 * 100 * 8 * 16 + 10 * 100 * 3 * 2
    patterned = spec(rank_pattern={"q_proj": 2})
    assert least_memory_bytes(patterned, BASE, 10) == 2_000_000 + 3 * 2 * 100 * 2 * 16 + 10 * 100 * 3 * 2
    # Layers that were named may be few, and rows that are too long are left out.
    named = spec(target_modules=["q_proj"], too_long="skip")
    assert least_memory_bytes(named, BASE, 9999) == 2_000_000 + 64 * 100 * 3 * 2


def test_nothing_is_said_of_a_base_model_of_unknown_size() -> None:
    assert least_memory_bytes(spec(), BASE.model_copy(update={"parameters": 0}), 10) is None


@pytest.mark.parametrize(
    ("precision", "quantisation", "bits"),
    [
        (Precision.FP32, Quantisation.NONE, 32),
        (Precision.BF16, Quantisation.NONE, 16),
        (Precision.FP16, Quantisation.NONE, 16),
        (Precision.AUTO, Quantisation.NONE, 16),
        (Precision.FP32, Quantisation.INT8, 8),
        (Precision.BF16, Quantisation.NF4, 4),
    ],
)
def test_a_weight_takes_the_bits_of_its_format(precision: Precision, quantisation: Quantisation, bits: int) -> None:
    assert weight_bits(precision, quantisation) == bits


@pytest.mark.parametrize(("bits", "largest_gib"), [(32, 4), (16, 8), (8, 16), (4, 32)])
def test_a_need_is_told_for_16_bits_and_met_by_what_a_worker_makes_of_them(bits: int, largest_gib: int) -> None:
    assert fits(largest_gib * GIB, 8 * GIB, bits)
    assert not fits(largest_gib * GIB + 1, 8 * GIB, bits)
    assert fits(None, 8 * GIB, bits)
    assert fits(largest_gib * GIB, None, bits)


def test_nothing_can_be_asked_of_a_worker_that_has_ended() -> None:
    for state in (WorkerState.ACTIVE, WorkerState.DRAINING):
        check_alive(state)
    with pytest.raises(WorkerRetired):
        check_alive(WorkerState.RETIRED)
