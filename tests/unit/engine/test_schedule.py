"""Whose batch goes into the next pass."""

from collections import Counter

import pytest

from domain.plans import RunPlan
from engine.schedule import Member, next_turns, owner_for
from engine.tokenise import TokenisedRow
from tests.tiny_engine import tiny_spec

BUDGET = 100


def member(name: str, *, tokens: int, group: str = "fast", owner: int | None = 0) -> Member:
    """A run whose every batch has so many tokens: four equal rows of it."""
    row = TokenisedRow(line=1, ids=(0,) * (tokens // 4), supervised=(False,) + (True,) * (tokens // 4 - 1))
    return Member(RunPlan(run=name, spec=tiny_spec(total_steps=1000)), [row] * 8, group, owner)


def serve(members: list[Member], ticks: int, *, world_size: int = 1) -> list[list[set[str]]]:
    """Who was served by each rank, tick by tick."""
    history = []
    for tick in range(1, ticks + 1):
        turns = [
            next_turns(members, rank=rank, world_size=world_size, token_budget=BUDGET) for rank in range(world_size)
        ]
        for served in {one.run: one for own in turns for one in own}.values():
            served.step, served.turn = served.step + 1, tick
        history.append([{one.run for one in own} for own in turns])
    return history


def test_a_pass_is_filled_to_the_budget_with_runs_that_wait() -> None:
    members = [member(name, tokens=40) for name in "abcd"]
    assert serve(members, 3) == [[{"a", "b"}], [{"c", "d"}], [{"a", "b"}]]


def test_a_run_that_fills_the_budget_alone_gets_whole_steps_in_fair_turns() -> None:
    members = [member("large", tokens=400), member("a", tokens=40), member("b", tokens=40)]
    assert serve(members, 4) == [[{"large"}], [{"a", "b"}], [{"large"}], [{"a", "b"}]]


def test_nobody_waits_longer_than_everybody_else_took() -> None:
    members = [member(str(tokens), tokens=tokens) for tokens in (8, 20, 40, 60, 72, 96, 120, 400)]
    served = Counter(name for tick in serve(members, 800) for name in tick[0])
    assert max(served.values()) <= 8 * min(served.values())
    assert min(served.values()) >= 800 // len(members)


def test_runs_of_different_groups_never_share_a_pass() -> None:
    members = [member("a", tokens=20), member("b", tokens=20, group="general"), member("c", tokens=20)]
    assert serve(members, 2) == [[{"a", "c"}], [{"b"}]]


def test_a_run_that_has_ended_is_not_served() -> None:
    members = [member("a", tokens=40), member("b", tokens=40)]
    members[0].active = False
    assert serve(members, 2) == [[{"b"}], [{"b"}]]
    members[1].active = False
    assert next_turns(members, rank=0, world_size=1, token_budget=BUDGET) == []


def test_ranks_serve_their_own_runs_at_once_and_shared_ones_together() -> None:
    members = [member("0", tokens=40), member("1", tokens=40, owner=1), member("all", tokens=160, owner=None)]
    assert serve(members, 3, world_size=2) == [[{"0"}, {"1"}], [{"all"}, {"all"}], [{"0"}, {"1"}]]


def test_runs_resumed_together_take_the_turns_they_would_have_taken() -> None:
    whole = [member(name, tokens=40) for name in "abc"]
    history = serve(whole, 10)
    resumed = [member(name, tokens=40) for name in "abc"]
    serve(resumed, 4)
    states = {one.run: (one.step, one.turn) for one in resumed}
    again = [member(name, tokens=40) for name in "abc"]
    for one in again:
        one.step, one.turn = states[one.run]
    assert [tick[0] for tick in history[4:]] == [{one.run for one in _serve_once(again, tick)} for tick in range(5, 11)]


def _serve_once(members: list[Member], tick: int) -> list[Member]:
    served = next_turns(members, rank=0, world_size=1, token_budget=BUDGET)
    for one in served:
        one.step, one.turn = one.step + 1, tick
    return served


def place(tokens: list[int], world_size: int) -> list[int | None]:
    members: list[Member] = []
    for number, size in enumerate(tokens):
        new = member(str(number), tokens=size)
        new.owner = owner_for(new, members, runs=len(tokens), world_size=world_size, token_budget=BUDGET)
        members.append(new)
    return [one.owner for one in members]


@pytest.mark.parametrize(
    ("tokens", "world_size", "owners"),
    [
        # Alone on one rank; alone on two; a run for each; above the budget; the third to the rank with less to do.
        ([40], 1, [0]),
        ([40], 2, [None]),
        ([40, 40], 2, [0, 1]),
        ([400, 40, 40], 2, [None, 0, 1]),
        ([80, 40, 40], 2, [0, 1, 1]),
    ],
)
def test_different_runs_go_to_different_ranks_first(
    tokens: list[int], world_size: int, owners: list[int | None]
) -> None:
    assert place(tokens, world_size) == owners
