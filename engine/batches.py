"""Which rows make up a step, how ranks share them, and how they are laid out.

Everything here is a function of the plan, so a resumed run meets the same rows in the same order.
"""

from collections.abc import Sequence

import numpy as np

from engine.tokenise import TokenisedRow


def rows_of_step(step: int, rows: int, *, batch_size: int, seed: int) -> list[int]:
    """The rows of a global batch. An epoch is a permutation of all rows; its last batch may be smaller."""
    steps_per_epoch = -(-rows // batch_size)
    epoch, place = divmod(step, steps_per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    chosen: list[int] = order[place * batch_size : (place + 1) * batch_size].tolist()
    return chosen


def deal(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Places of the rows for each rank: longest row first, to the rank with the fewest tokens. Some may get none."""
    shares: list[list[int]] = [[] for _ in range(world_size)]
    tokens = [0] * world_size
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        lightest = tokens.index(min(tokens))
        shares[lightest].append(place)
        tokens[lightest] += lengths[place]
    return shares


def share_of(rows: Sequence[TokenisedRow], rank: int, world_size: int) -> list[TokenisedRow]:
    """The rows of a global batch that one rank takes."""
    return [rows[place] for place in deal([len(row.ids) for row in rows], world_size)[rank]]


def portions(rows: Sequence[TokenisedRow], max_tokens: int) -> list[list[TokenisedRow]]:
    """Split rows into as few passes as keep to the budget, equally full. A row may exceed it alone; none give none."""
    for passes in range(-(-tokens_of(rows) // max_tokens), len(rows)):
        split = [[rows[place] for place in share] for share in deal([len(row.ids) for row in rows], passes)]
        if all(len(portion) == 1 or tokens_of(portion) <= max_tokens for portion in split):
            return split
    return [[row] for row in rows]


def tokens_of(rows: Sequence[TokenisedRow]) -> int:
    """How many tokens some rows have."""
    return sum(len(row.ids) for row in rows)
