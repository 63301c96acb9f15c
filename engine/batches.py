"""Which rows make a step, which rank takes them, and in what portions.

All of it follows from the step number, the seed and the rows' lengths, so that every rank knows every rank's share
without asking, and a resumed run goes on in the same order. Shapes: B rows, T tokens, R supervised tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.tokenise import TokenisedRow

# Any token will do: it stands after the row's end, where causal attention never looks and nothing is supervised.
PADDING = 0


@dataclass(frozen=True)
class MicroBatch:
    """What goes through the network at once.

    selected_R are the places in the flattened ids_BT whose next token is supervised, and targets_R those tokens.
    Rows are padded on the right, so no attention mask is needed: a real token never attends to what follows it.
    """

    ids_BT: torch.Tensor
    selected_R: torch.Tensor
    targets_R: torch.Tensor


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
    """Split a share so that each portion, padded to its longest row, keeps to the budget. A row may exceed it alone.

    Rows of like length go together. At least one portion, which may be empty: a rank without rows still takes part.
    """
    split: list[list[TokenisedRow]] = [[]]
    for row in sorted(rows, key=lambda row: (-len(row.ids), row.line)):
        portion = split[-1]
        if portion and len(portion[0].ids) * (len(portion) + 1) > max_tokens:
            split.append([row])
        else:
            portion.append(row)
    return split


def collate(rows: Sequence[TokenisedRow], device: torch.device) -> MicroBatch:
    """Pad on the right. No rows give one token that nothing is learned from."""
    length = max((len(row.ids) for row in rows), default=1)
    ids_BT = torch.full((max(len(rows), 1), length), PADDING)
    selected, targets = [], []
    for number, row in enumerate(rows):
        ids_BT[number, : len(row.ids)] = torch.tensor(row.ids)
        for place, wanted in enumerate(row.supervised):
            if wanted:
                selected.append(number * length + place - 1)
                targets.append(row.ids[place])
    selected_R, targets_R = torch.tensor(selected, dtype=torch.long), torch.tensor(targets, dtype=torch.long)
    return MicroBatch(ids_BT.to(device), selected_R.to(device), targets_R.to(device))
