"""How a pass's documents lie in the network's input: packed end to end, or a document a row with padding on the right.

Shapes: B rows, T tokens a row, R supervised tokens.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from engine.general.attention import Documents
from engine.stream import Part, Stream

# Any token will do: it stands after the document's end, where causal models never look and nothing is supervised.
PADDING = 0


class Layout(StrEnum):
    """Which of the two a model gets; `engine.general.choice` says why."""

    PACKED = "packed"
    PADDED = "padded"


@dataclass(frozen=True)
class Inputs:
    """A pass as the network takes it.

    selected_R are the supervised tokens' places in the flattened ids_BT, and rows each part's rows among all B * T.
    positions_BT and documents are None where every row is a document.
    """

    ids_BT: torch.Tensor
    selected_R: torch.Tensor
    rows: tuple[slice, ...]
    positions_BT: torch.Tensor | None = None
    documents: Documents | None = None


def packed(stream: Stream) -> Inputs:
    """The stream as one row."""
    return Inputs(
        ids_BT=stream.ids_T[None],
        selected_R=stream.selected_R,
        rows=tuple(slice(segment.begin, segment.end) for segment in stream.segments),
        positions_BT=stream.positions_T[None],
        documents=Documents.of(stream.lengths, stream.ids_T.device),
    )


def padded(stream: Stream, parts: Sequence[Part]) -> Inputs:
    """The stream's documents as rows."""
    lengths, device = stream.lengths, stream.ids_T.device
    longest = max(lengths)
    places_T = places(stream)
    ids = torch.full((len(lengths) * longest,), PADDING, dtype=torch.long, device=device)
    ids[places_T] = stream.ids_T
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + len(part.rows) * longest)
    return Inputs(
        ids_BT=ids.view(len(lengths), longest),
        selected_R=places_T[stream.selected_R],
        rows=tuple(slice(begin, end) for begin, end in itertools.pairwise(ends)),
    )


def places(stream: Stream) -> torch.Tensor:
    """Where the stream's tokens lie in the flattened padded layout, [T]."""
    lengths = torch.tensor(stream.lengths)
    document_T = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(stream.ids_T.device)
    return document_T * max(stream.lengths) + stream.positions_T
