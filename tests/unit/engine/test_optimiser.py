import math

import pytest
import torch

from domain.plans import Precision
from domain.runs import LoraMethod, Optimiser, Schedule
from engine.adapter import Adapter
from engine.optimiser import GROWTH_INTERVAL, AdamW, LossScale, clip_gradient, learning_rate_at


def rates(schedule: Schedule, *, warmup_steps: int, total_steps: int) -> list[float]:
    settings = Optimiser(learning_rate=1.0, schedule=schedule, warmup_steps=warmup_steps)
    return [learning_rate_at(step, total_steps, settings) for step in range(total_steps + 1)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.CONSTANT, [0.5, 1, 1, 1, 1, 1, 1]),
        (Schedule.LINEAR, [0.5, 1, 1, 0.75, 0.5, 0.25, 0]),
        (Schedule.COSINE, [0.5, 1, 1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0]),
    ],
)
def test_the_rate_warms_up_and_then_follows_its_schedule(schedule: Schedule, expected: list[float]) -> None:
    assert rates(schedule, warmup_steps=2, total_steps=6) == pytest.approx(expected)


def test_a_warm_up_longer_than_the_run_never_divides_by_zero() -> None:
    assert rates(Schedule.LINEAR, warmup_steps=9, total_steps=2) == pytest.approx([1 / 9, 2 / 9, 3 / 9])


def adapter_of(*values: float) -> Adapter:
    return Adapter(LoraMethod(), {"a": torch.tensor(values[:1]), "b": torch.tensor(values[1:])})


@pytest.mark.parametrize(("clip_norm", "norm_after"), [(0.0, 5.0), (1.0, 1.0), (9.0, 5.0)])
def test_gradients_are_clipped_by_their_global_norm(clip_norm: float, norm_after: float) -> None:
    adapter = adapter_of(0, 0)
    adapter.grads["a"] += 3.0
    adapter.grads["b"] += 4.0
    assert clip_gradient(adapter, clip_norm) == pytest.approx(5.0)
    after = math.hypot(float(adapter.grads["a"]), float(adapter.grads["b"]))
    assert after == pytest.approx(norm_after, rel=1e-5)


def test_it_steps_as_torchs_own_over_separate_weights() -> None:
    settings = Optimiser(weight_decay=0.2, beta1=0.8, beta2=0.9, epsilon=1e-6)
    adapter = adapter_of(1.0, -2.0, 3.0)
    flat = AdamW(adapter, settings)
    weights = [torch.nn.Parameter(tensor) for tensor in adapter.weights().values()]
    separate = torch.optim.AdamW(weights, lr=0.1, weight_decay=0.2, betas=(0.8, 0.9), eps=1e-6)
    for gradients in ((0.5, -0.1, 0.2), (0.1, 0.3, -0.4)):
        adapter.grad_P.copy_(torch.tensor(gradients))
        weights[0].grad, weights[1].grad = torch.tensor(gradients[:1]), torch.tensor(gradients[1:])
        flat.step(0.1)
        separate.step()
    torch.testing.assert_close(adapter.masters_P.data, torch.cat([weight.data for weight in weights]))


def test_a_restored_optimiser_takes_the_same_step() -> None:
    def stepped(adapter: Adapter, optimiser: AdamW) -> torch.Tensor:
        adapter.grad_P.copy_(torch.tensor([0.3, -0.7]))
        optimiser.step(1e-2)
        return adapter.masters_P.detach().clone()

    adapter = adapter_of(1.0, 1.0)
    optimiser = AdamW(adapter, Optimiser())
    stepped(adapter, optimiser)
    copied = adapter_of(*adapter.masters_P.tolist())
    resumed = AdamW(copied, Optimiser())
    resumed.load(optimiser.tensors)
    assert torch.equal(stepped(adapter, optimiser), stepped(copied, resumed))
    with pytest.raises(ValueError, match="not this adapter's"):
        AdamW(adapter_of(1.0, 2.0, 3.0), Optimiser()).load(optimiser.tensors)


def test_the_loss_scale_moves_as_torchs_own() -> None:
    ours, torchs = LossScale.for_precision(Precision.FP16), torch.amp.GradScaler("cpu")
    weight = torch.nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([weight], lr=1.0)
    torchs.scale(weight.sum())
    for step in range(2 * GROWTH_INTERVAL + 60):
        overflows = step in {3, 4, 1000, 3005}
        weight.grad = torch.tensor([math.inf if overflows else 1.0])
        torchs.step(reference)
        torchs.update()
        if overflows:
            ours.shrink()
        else:
            ours.count()
        assert ours.value == torchs.get_scale()


def test_without_fp16_nothing_is_scaled() -> None:
    scale = LossScale.for_precision(Precision.BF16)
    for _ in range(GROWTH_INTERVAL + 1):
        scale.count()
    assert (scale.value, scale.can_shrink) == (1.0, False)
