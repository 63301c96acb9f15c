"""A step's arithmetic around the passes, on a path whose gradients can be computed in the head."""

import math

import pytest
import torch

from domain.plans import Precision
from domain.runs import LoraMethod, Optimiser
from engine.adapter import Adapter
from engine.distributed import Ranks
from engine.optimiser import AdamW, LossScale
from engine.step import Stepping, measure_loss, step_together
from engine.tokenise import TokenisedRow
from tests.unit.engine.fake_path import FakePath

CPU = torch.device("cpu")


def rows(*first_tokens: int, length: int = 10) -> list[TokenisedRow]:
    """Rows of so many tokens, all but the first supervised."""
    supervised = (False,) + (True,) * (length - 1)
    return [
        TokenisedRow(line=line, ids=(token,) * length, supervised=supervised)
        for line, token in enumerate(first_tokens, start=1)
    ]


def stepping(batch: list[TokenisedRow], *, clip_norm: float = 0.0, precision: Precision = Precision.FP32) -> Stepping:
    adapter = Adapter(LoraMethod(), {"w": torch.zeros(4)})
    settings = Optimiser()
    return Stepping(
        adapter=adapter,
        optimiser=AdamW(adapter, settings),
        loss_scale=LossScale.for_precision(precision),
        clip_norm=clip_norm,
        batch=batch,
        learning_rate=0.1,
        seed=1,
        shared=False,
    )


def test_the_gradient_is_that_of_the_mean_however_many_passes_it_takes(one_rank: Ranks) -> None:
    # Rows pull by 1, 2, 3 and 4 a supervised token, 9 each: 2.5 in the mean, over four weights.
    for budget, passes in ((1000, 1), (20, 2), (5, 4)):
        path = FakePath()
        tick = step_together([stepping(rows(1, 2, 3, 4))], path, ranks=one_rank, token_budget=budget)
        assert len(path.passes) == passes
        assert tick.stepped[0].grad_norm == pytest.approx(2.5 * math.sqrt(4))
        assert (tick.tokens, tick.supervised_tokens, tick.computed_tokens) == (40, 36, 40)


def test_several_runs_share_one_pass_and_each_has_its_own_mean_clip_and_rate(one_rank: Ranks) -> None:
    few, many = stepping(rows(3), clip_norm=1.0), stepping(rows(1, 1, 1))
    many.learning_rate = 0.2
    path = FakePath()
    tick = step_together([few, many], path, ranks=one_rank, token_budget=1000)
    assert path.passes == [[10, 30]]
    assert [one.grad_norm for one in tick.stepped] == pytest.approx([6.0, 2.0])
    # The first step of AdamW moves every weight by its rate, whatever the gradient's size.
    torch.testing.assert_close(few.adapter.values["w"], torch.full((4,), -0.1))
    torch.testing.assert_close(many.adapter.values["w"], torch.full((4,), -0.2))
    assert few.adapter.grad_P.abs().max() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_run_without_a_finite_gradient_fails_alone_with_its_weights_as_they_were(bad: float, one_rank: Ranks) -> None:
    sick, sound = stepping(rows(1)), stepping(rows(1))
    sick.adapter.grad_P[0] = bad
    tick = step_together([sick, sound], FakePath(), ranks=one_rank, token_budget=1000)
    assert tick.stepped[0].failure is not None
    assert tick.stepped[1].failure is None
    assert sick.adapter.values["w"].tolist() == [0.0] * 4
    torch.testing.assert_close(sound.adapter.values["w"], torch.full((4,), -0.1))


def test_in_fp16_an_overflow_skips_the_step_and_halves_the_scale(one_rank: Ranks) -> None:
    run = stepping(rows(2), precision=Precision.FP16)
    scale = run.loss_scale.value
    run.adapter.grad_P[0] = math.inf
    tick = step_together([run], FakePath(), ranks=one_rank, token_budget=1000)
    assert tick.stepped[0].failure is None
    assert run.loss_scale.value == scale / 2
    assert run.adapter.values["w"].tolist() == [0.0] * 4
    tick = step_together([run], FakePath(), ranks=one_rank, token_budget=1000)
    assert tick.stepped[0].grad_norm == pytest.approx(4.0)
    torch.testing.assert_close(run.adapter.values["w"], torch.full((4,), -0.1))


def test_in_fp16_a_gradient_that_overflows_at_no_scale_at_all_ends_the_run(one_rank: Ranks) -> None:
    run = stepping(rows(2), precision=Precision.FP16)
    for _ in range(40):
        run.adapter.grad_P[0] = math.inf
        tick = step_together([run], FakePath(), ranks=one_rank, token_budget=1000)
        if tick.stepped[0].failure:
            break
    assert tick.stepped[0].failure
    assert run.adapter.values["w"].tolist() == [0.0] * 4


def test_the_loss_over_rows_does_not_depend_on_the_budget(one_rank: Ranks) -> None:
    for budget in (3, 1000):
        measure = measure_loss(FakePath(), None, rows(1, 2, 3), shared=False, ranks=one_rank, token_budget=budget)
        assert (measure.loss, measure.supervised_tokens) == (1.0, 27)
