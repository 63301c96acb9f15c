"""Whose batch goes into the next pass, and which rank has which run. Pure: every rank comes to the same answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from domain.plans import RunPlan
from engine.batches import rows_of_step, tokens_of
from engine.tokenise import TokenisedRow


@dataclass
class Member:
    """A run as every rank knows it.

    owner is the rank that has the run to itself, None where all ranks share it. Members of one group can share a pass;
    a member that cannot share has a group of its own. turn is the tick it was last served in.
    """

    plan: RunPlan
    train: Sequence[TokenisedRow]
    group: str
    owner: int | None
    step: int = 0
    turn: int = 0
    active: bool = True

    @property
    def run(self) -> str:
        """Its name."""
        return self.plan.run

    def batch(self) -> list[TokenisedRow]:
        """The rows of its next step."""
        spec = self.plan.spec
        chosen = rows_of_step(self.step, len(self.train), batch_size=spec.batch_size, seed=spec.seed)
        return [self.train[place] for place in chosen]

    @property
    def remaining_tokens(self) -> float:
        """What it has still to learn from, about."""
        return self.tokens_a_step * (self.plan.spec.total_steps - self.step)

    @property
    def tokens_a_step(self) -> float:
        """The mean size of its batches."""
        return tokens_of(self.train) / len(self.train) * min(self.plan.spec.batch_size, len(self.train))


def owner_for(member: Member, others: Iterable[Member], *, runs: int, world_size: int, token_budget: int) -> int | None:
    """Where a run is trained: on one rank, without a word to the others, or shared by all of them.

    Different runs go to different ranks first. Sharing pays where one run's batch fills more than a rank's pass, and
    where there are fewer runs than ranks.
    """
    if world_size == 1:
        return 0
    if member.tokens_a_step > token_budget or runs < world_size:
        return None
    load = [0.0] * world_size
    for other in others:
        if other.active and other.owner is not None:
            load[other.owner] += other.remaining_tokens
    return load.index(min(load))


def next_turns(members: Sequence[Member], *, rank: int, world_size: int, token_budget: int) -> list[Member]:
    """The runs this rank serves in the next tick, longest waiting first.

    A tick serves runs that all ranks share, or each rank's own; whichever kind has waited longest. The first in line
    gets its whole step, however large, and the rest of the pass is filled with others of its group.
    """
    waiting = sorted((member for member in members if member.active), key=lambda member: member.turn)
    if not waiting:
        return []
    if waiting[0].owner is None:
        return _fill([member for member in waiting if member.owner is None], token_budget * world_size)
    return _fill([member for member in waiting if member.owner == rank], token_budget)


def _fill(waiting: Sequence[Member], token_budget: int) -> list[Member]:
    chosen: list[Member] = []
    room = token_budget
    for member in waiting:
        tokens = tokens_of(member.batch())
        if not chosen or (member.group == chosen[0].group and tokens <= room):
            chosen.append(member)
            room -= tokens
    return chosen
