"""The packed stream: the tokens of many documents, one after another without padding, sorted by run.

Shapes: T tokens of the stream, R supervised tokens, N documents, S segments.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.adapter import Adapter
from engine.tokenise import TokenisedRow


@dataclass(frozen=True)
class Part:
    """What one run brings to a pass.

    scale multiplies the gradient of every supervised token: one over the count of the run's global batch, so that
    gradients of parts add up to that of the mean. seed is the pass's own for this run: dropout depends on it alone.
    adapter is None for the bare base model, which can only be measured.
    """

    adapter: Adapter | None
    rows: Sequence[TokenisedRow]
    scale: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Segment:
    """A run's place in the stream: its tokens [begin, end), and its supervised ones [first, last) of R."""

    begin: int
    end: int
    first: int
    last: int


@dataclass(frozen=True)
class Stream:
    """A pass's tokens, laid end to end.

    positions_T restart at 0 with every document. selected_R are the places whose *next* token is supervised, in
    ascending order, and targets_R those tokens. lengths are the N documents' tokens; segments the S parts' places.
    """

    ids_T: torch.Tensor
    positions_T: torch.Tensor
    selected_R: torch.Tensor
    targets_R: torch.Tensor
    lengths: tuple[int, ...]
    segments: tuple[Segment, ...]

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.ids_T)


def pack(parts: Sequence[Part], device: torch.device) -> Stream:
    """Lay the parts' rows end to end, shortest first within a part. A part without rows has an empty segment."""
    ids: list[int] = []
    positions: list[int] = []
    selected: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    segments: list[Segment] = []
    for part in parts:
        begin, first = len(ids), len(selected)
        for row in sorted(part.rows, key=lambda row: (len(row.ids), row.line)):
            start = len(ids)
            places = [place for place, wanted in enumerate(row.supervised) if wanted]
            selected += [start + place - 1 for place in places]
            targets += [row.ids[place] for place in places]
            ids += row.ids
            positions += range(len(row.ids))
            lengths.append(len(row.ids))
        segments.append(Segment(begin, len(ids), first, len(selected)))
    return Stream(
        ids_T=_integers(ids, device),
        positions_T=_integers(positions, device),
        selected_R=_integers(selected, device),
        targets_R=_integers(targets, device),
        lengths=tuple(lengths),
        segments=tuple(segments),
    )


def _integers(numbers: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.long).to(device)


def derive_seed(*parts: int) -> int:
    """One seed from several numbers, such as a run's seed, its step and a rank: the same everywhere and every time."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8]) >> 1
