"""How much is measured: the whole benchmark, and a quick one that shows that everything runs."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Sizes:
    """phases: threads:steps, the first of each to warm up. fused: K:rows a step.

    rounds are those of the engines' table, part_rounds those of everything else that is measured in rounds.
    quality_steps: optimiser steps of a department's task; None for as many as the demonstration takes.
    """

    rounds: int
    part_rounds: int
    phases: str
    jobs: int
    documents_a_job: int
    batches: tuple[int, ...]
    fused: str
    fused_steps: int
    rank_steps: int
    quality_seeds: tuple[int, ...]
    quality_steps: int | None
    quality_rows: int | None
    quick: bool

    def of_rounds(self, rounds: int) -> "Sizes":
        """At most so many of everything that is measured in rounds."""
        return replace(self, rounds=rounds, part_rounds=min(rounds, self.part_rounds))

    def of_seeds(self, seeds: int) -> "Sizes":
        """So many runs of a department's task by each trainer."""
        return replace(self, quality_seeds=tuple(range(1, seeds + 1)))


QUICK = Sizes(
    rounds=1,
    part_rounds=1,
    phases="1:2,{threads}:2",
    jobs=2,
    documents_a_job=16,
    batches=(1, 2, 4),
    fused="4:1,8:1",
    fused_steps=1,
    rank_steps=3,
    quality_seeds=(1,),
    quality_steps=2,
    quality_rows=10,
    quick=True,
)
FULL = Sizes(
    rounds=5,
    part_rounds=3,
    phases="1:3,{threads}:2",
    jobs=4,
    documents_a_job=48,
    batches=(1, 2, 4, 8, 16, 32, 64),
    fused="4:1,8:1,16:1,4:4",
    fused_steps=1,
    rank_steps=3,
    quality_seeds=(1, 2),
    quality_steps=None,
    quality_rows=None,
    quick=False,
)
