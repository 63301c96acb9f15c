"""The arithmetic of estimates, against numbers worked out by hand."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest

from domain.adapter_sizes import adapter_shapes, file_bytes
from domain.base_models import BaseModelFacts, TensorGroup
from domain.estimates import (
    Actual,
    Estimate,
    Queue,
    Speed,
    Unknown,
    check_tokens,
    errors_of,
    is_general,
    tokens_of,
)
from domain.plans import InspectedFile, InspectReport
from domain.refusals import JobTooLarge
from domain.runs import LoraBias, LoraInit, LoraMethod, Optimiser, RunData, RunSpec, TooLong

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
DIGEST = "sha256:" + "0" * 64
FACTS = BaseModelFacts(
    model_type="llama", hidden_size=64, num_hidden_layers=2, max_position_embeddings=2048, linear_modules=("q_proj",),
    tensors=(TensorGroup(name="model.layers.*.self_attn.q_proj.weight", shape=(64, 64), numbers=(0, 1)),),
)  # fmt: skip
SPEED = Speed(
    device="cuda", ranks=2, runs=5, tokens_per_s=100.0, overhead_s=20.0, peak_memory_bytes=3 << 30,
    price_per_gpu_hour=Decimal("7.2"), same_method=True, alone=True,
)  # fmt: skip


def spec_of(
    *, total_steps: int = 39, batch_size: int = 8, too_long: TooLong = TooLong.REFUSE, method: LoraMethod | None = None
) -> RunSpec:
    return RunSpec(
        base_model="tiny", base_model_digest=DIGEST, method=method or LoraMethod(), optimiser=Optimiser(),
        data=RunData(train=DIGEST, train_rows=100, max_seq_len=512, too_long=too_long), seed=1, batch_size=batch_size,
        n_epochs=3, total_steps=total_steps, checkpoint_every_steps=20, validate_every_steps=0,
    )  # fmt: skip


def counted(rows: int = 100, tokens: int = 5000, supervised: int = 1000, too_long: int = 0) -> InspectReport:
    file = InspectedFile(
        file="training_file", rows=rows, tokens=tokens, supervised_tokens=supervised, longest_row_tokens=200,
        too_long_rows=too_long, untrainable_rows=0,
    )  # fmt: skip
    return InspectReport(files=(file,), problems=())


def estimate(
    spec: RunSpec | None = None,
    inspection: InspectReport | None = None,
    speed: Speed | None = SPEED,
    *,
    queue: Queue | None = None,
    facts: BaseModelFacts = FACTS,
) -> Estimate:
    return Estimate.of(spec or spec_of(), inspection, facts, speed, queue=queue, currency="eur", at=NOON)


def codes(found: Estimate) -> dict[str, Unknown]:
    return {gap.figure: gap.code for gap in found.gaps}


def test_figures_follow_from_rows_speed_and_price() -> None:
    queue = Queue(running_s=(40.0,), ahead_s=(100.0,), workers=1)
    found = estimate(inspection=counted(), queue=queue)
    # 100 rows in batches of 8 are 13 steps: 39 steps are three epochs of 5,000 tokens.
    assert (found.steps, found.trained_tokens, found.supervised_tokens) == (39, 15_000, 3000)
    # 15,000 tokens at 100 a second, and 20 s beside; of two ranks; at 7.20 an hour.
    assert (found.seconds, found.gpu_seconds, found.cost) == (170.0, 340.0, Decimal("0.68"))
    # One job runs for 40 s more, one of 100 s comes before it.
    assert (found.queue_position, found.expected_start) == (2, NOON + timedelta(seconds=140))
    assert found.expected_finish == NOON + timedelta(seconds=310)
    assert (found.device, found.ranks, found.measured_runs, found.peak_memory_bytes) == ("cuda", 2, 5, 3 << 30)
    shapes = adapter_shapes(LoraMethod(), FACTS)
    assert shapes
    assert found.adapter_bytes == file_bytes(shapes)
    assert found.gaps == ()


@pytest.mark.parametrize(("rows", "batch", "steps"), [(100, 8, 39), (100, 8, 13), (7, 8, 3), (16, 4, 6), (10, 3, 6)])
def test_tokens_are_those_of_the_rows_that_the_steps_take(rows: int, batch: int, steps: int) -> None:
    """Against the engine's own order of rows, all of one length: then a rest of an epoch is exact too."""
    taken = 0
    for step in range(steps):
        epoch, place = divmod(step, -(-rows // batch))
        order = np.random.default_rng([1, epoch]).permutation(rows)
        taken += len(order[place * batch : (place + 1) * batch])
    tokens = tokens_of(spec_of(total_steps=steps, batch_size=batch), counted(rows, 10 * rows, 3 * rows).files[0])
    assert tokens == (10 * taken, 3 * taken)


def test_rows_that_are_skipped_are_not_trained_on() -> None:
    # 90 rows are left: 12 steps an epoch, so that 39 steps are three epochs and three batches of 8 rows.
    found = tokens_of(spec_of(too_long=TooLong.SKIP), counted(too_long=10, tokens=4500, supervised=900).files[0])
    assert found == (3 * 4500 + 24 * 50, 3 * 900 + 24 * 10)
    assert tokens_of(spec_of(too_long=TooLong.SKIP), counted(too_long=100, tokens=0, supervised=0).files[0]) is None


def test_what_is_not_known_is_null_and_says_why() -> None:
    found = estimate(speed=None, queue=Queue(), facts=FACTS.model_copy(update={"tensors": ()}))
    unknown = ("trained_tokens", "seconds", "gpu_seconds", "peak_memory_bytes", "adapter_bytes", "cost", "device",
               "expected_start", "expected_finish")  # fmt: skip
    assert {name: getattr(found, name) for name in unknown} == dict.fromkeys(unknown)
    assert found.steps == 39
    assert codes(found) == {
        "trained_tokens": Unknown.NOT_COUNTED, "supervised_tokens": Unknown.NOT_COUNTED,
        "seconds": Unknown.NOT_MEASURED_YET, "gpu_seconds": Unknown.NOT_MEASURED_YET, "cost": Unknown.NOT_MEASURED_YET,
        "peak_memory_bytes": Unknown.NOT_MEASURED_YET, "adapter_bytes": Unknown.LAYERS_UNKNOWN,
        "expected_start": Unknown.NO_WORKER, "expected_finish": Unknown.NO_WORKER,
    }  # fmt: skip


@pytest.mark.parametrize("is_counted", [True, False])
@pytest.mark.parametrize("speed", [SPEED, None])
@pytest.mark.parametrize("queue", [Queue(workers=1), Queue(), Queue(running_s=(None,), workers=1)])
def test_every_figure_that_is_null_says_why(*, is_counted: bool, speed: Speed | None, queue: Queue) -> None:
    found = estimate(inspection=counted() if is_counted else None, speed=speed, queue=queue)
    null = {name for name in Estimate.model_fields if getattr(found, name) is None}
    assert null - {"device", "ranks"} == set(codes(found))
    assert len(found.gaps) == len(codes(found))


def test_a_figure_that_rests_on_something_else_says_so() -> None:
    other = SPEED.model_copy(update={"same_method": False})
    found = estimate(spec_of(method=LoraMethod(init=LoraInit.PISSA)), counted(), other)
    assert codes(found) == {"seconds": Unknown.OTHER_METHOD, "adapter_bytes": Unknown.AT_MOST}
    beside = SPEED.model_copy(update={"alone": False})
    assert codes(estimate(inspection=counted(), speed=beside)) == {"seconds": Unknown.BESIDE_OTHERS}


@pytest.mark.parametrize(
    ("queue", "starts_in_s"),
    [
        (Queue(workers=1), 0),
        (Queue(running_s=(30.0,), workers=2), 0),
        (Queue(running_s=(30.0,), workers=1), 30),
        (Queue(running_s=(30.0, 50.0), workers=2), 30),
        # The first takes the place that is free after 30 s, until 130 s; the second that of 50 s, until 60 s.
        (Queue(running_s=(30.0, 50.0), ahead_s=(100.0, 10.0), workers=2), 60),
        # One of those that have jobs takes no further ones: nobody knows which.
        (Queue(running_s=(30.0, 50.0), workers=1), 30),
        (Queue(running_s=(None,), workers=1), None),
        (Queue(ahead_s=(None,), workers=1), None),
        (Queue(workers=2, is_held_back=True), None),
        (Queue(), None),
    ],
)
def test_a_job_starts_when_a_worker_is_free_for_it(queue: Queue, starts_in_s: float | None) -> None:
    assert queue.starts_in_s() == starts_in_s


def test_too_many_tokens_are_refused_with_both_numbers() -> None:
    check_tokens(spec_of(), counted(), 15_000)
    with pytest.raises(JobTooLarge, match="15000 tokens in 3 epochs; the limit is 14999"):
        check_tokens(spec_of(), counted(), 14_999)


def test_speeds_are_compared_within_a_kind_of_method() -> None:
    assert [is_general(method) for method in (
        LoraMethod(), LoraMethod(init=LoraInit.EVA), LoraMethod(use_dora=True), LoraMethod(bias=LoraBias.ALL),
    )] == [False, False, True, True]  # fmt: skip


def test_an_error_is_a_share_of_what_came() -> None:
    thought = estimate(inspection=counted())
    came = Actual(
        seconds=340.0, gpu_seconds=340.0, trained_tokens=15_000, peak_memory_bytes=2 << 30, adapter_bytes=0,
        device="cuda", ranks=1, tokens_per_s=50.0, overhead_s=1.0, price_per_gpu_hour=Decimal(0),
        general=False, alone=True,
    )  # fmt: skip
    # 170 s thought where 340 s came; 3 GiB where 2 came; of an adapter of nothing there is no share.
    assert errors_of(thought, came) == {
        "seconds": -0.5, "gpu_seconds": 0.0, "trained_tokens": 0.0, "peak_memory_bytes": 0.5,
    }  # fmt: skip
