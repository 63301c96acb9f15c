import math

import pytest
import torch

from domain.runs import Optimiser, Schedule
from engine.optimiser import build_optimiser, clip_gradients, learning_rate_at, optimiser_tensors, restore_optimiser


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


@pytest.mark.parametrize(("clip_norm", "norm_after"), [(0.0, 5.0), (1.0, 1.0), (9.0, 5.0)])
def test_gradients_are_clipped_by_their_global_norm(clip_norm: float, norm_after: float) -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    weights[0].grad, weights[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients(weights, clip_norm) == pytest.approx(5.0)
    after = math.hypot(*(float(weight.grad) for weight in weights if weight.grad is not None))
    assert after == pytest.approx(norm_after, rel=1e-5)


def test_a_restored_optimiser_takes_the_same_step() -> None:
    def stepped(weight: torch.nn.Parameter, optimiser: torch.optim.Optimizer) -> torch.Tensor:
        weight.grad = torch.tensor([0.3, -0.7])
        optimiser.step()
        return weight.detach().clone()

    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = build_optimiser([weight], Optimiser())
    stepped(weight, optimiser)
    copied = torch.nn.Parameter(weight.detach().clone())
    resumed = build_optimiser([copied], Optimiser())
    restore_optimiser(resumed, {"w": copied}, optimiser_tensors(optimiser, {"w": weight}))
    assert torch.equal(stepped(weight, optimiser), stepped(copied, resumed))
    with pytest.raises(ValueError, match="not this adapter's"):
        restore_optimiser(resumed, {"other": copied}, optimiser_tensors(optimiser, {"w": weight}))
