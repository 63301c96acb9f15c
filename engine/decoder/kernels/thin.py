"""The adapters' products: in torch, or by a unit of the processor that `thin.h` knows.

Shapes: t tokens of one run, R ranks, I in_features, O out_features, G groups of 32 out_features. "thin" numbers are
A x in the forward pass and their gradient in the backward pass; how they lie in memory is each implementation's own
affair.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self

import torch

P, N = ctypes.c_void_p, ctypes.c_int64

# Arguments in thin.cpp, in order.
SIGNATURES: dict[str, tuple[type, ...]] = {
    "thin_forward": (P, P, P, P, P, P, P, N, N, N, N),
    "thin_backward": (P, P, P, P, P, P, P, P, N, N, N, N),
    "thin_finish": (P, P, P, P, N, N, N),
}

# The units, the fastest first: functions that give what the others want first, or null.
UNITS = ("thin_tiles", "thin_vectors")

# Sums over ranks are made for so many at once; features come in multiples of a group.
TILE, GROUP = 16, 32


@dataclass(frozen=True)
class Factors:
    """A run's A, and its B, whose blocks stand beside zeros.

    reach_G2 holds the first rank that reaches each 32 outputs, and the one after the last. B is zero elsewhere, and
    so may its gradient be anything there.
    """

    A_RI: torch.Tensor
    B_RO: torch.Tensor
    reach_G2: torch.Tensor

    @classmethod
    def of_blocks(cls, A_RI: torch.Tensor, B_RO: torch.Tensor, blocks: Sequence[tuple[slice, slice]]) -> Self:
        """`blocks`: the ranks and the outputs where B is not zero."""
        places = tuple((ranks.start, ranks.stop, outputs.start, outputs.stop) for ranks, outputs in blocks)
        return cls(A_RI, B_RO, _reach(len(A_RI), B_RO.shape[1], places))


class ThinProducts(Protocol):
    """One number format on one kind of device. Wide tensors are contiguous rows."""

    def forward(self, x_tI: torch.Tensor, factors: Factors, y_tO: torch.Tensor) -> torch.Tensor:
        """Add (x A^T) B to y, and give the thin numbers x A^T."""

    def backward(
        self, dy_tO: torch.Tensor, factors: Factors, thin: torch.Tensor, *, dx_tI: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient of B, [R, O], and of the thin numbers; and add to dx, where wanted, what goes through A."""

    def finish(self, x_tI: torch.Tensor, dthin: torch.Tensor, ranks: int) -> torch.Tensor:
        """The gradient of A, [R, I]."""


class TorchThin:
    """Any number format on any device."""

    def forward(self, x_tI: torch.Tensor, factors: Factors, y_tO: torch.Tensor) -> torch.Tensor:
        """See `ThinProducts`."""
        thin_tR = x_tI @ factors.A_RI.t()
        y_tO.addmm_(thin_tR, factors.B_RO)
        return thin_tR

    def backward(
        self, dy_tO: torch.Tensor, factors: Factors, thin: torch.Tensor, *, dx_tI: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ThinProducts`."""
        dthin_tR = dy_tO @ factors.B_RO.t()
        if dx_tI is not None:
            dx_tI.addmm_(dthin_tR, factors.A_RI)
        return thin.t() @ dy_tO, dthin_tR

    def finish(self, x_tI: torch.Tensor, dthin: torch.Tensor, ranks: int) -> torch.Tensor:
        """See `ThinProducts`."""
        return dthin.t()[:ranks] @ x_tI


class NativeThin:
    """bf16 by one unit of the processor. Thin numbers lie twice, [2, t R] with both rounded up to 32: see thin.h."""

    def __init__(self, library: ctypes.CDLL, unit: int) -> None:
        for name, arguments in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None
        self._library, self._unit = library, unit
        self._torch = TorchThin()

    def forward(self, x_tI: torch.Tensor, factors: Factors, y_tO: torch.Tensor) -> torch.Tensor:
        """See `ThinProducts`."""
        if not _fits(x_tI, y_tO):
            return self._torch.forward(x_tI, factors, y_tO)
        thin = x_tI.new_empty(2, _rounded(len(x_tI), GROUP) * _rounded(len(factors.A_RI), GROUP))
        self._library.thin_forward(
            self._unit, x_tI.data_ptr(), *_in_memory(factors), *_at(y_tO, thin), len(x_tI), *_measures(factors)
        )
        return thin

    def backward(
        self, dy_tO: torch.Tensor, factors: Factors, thin: torch.Tensor, *, dx_tI: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ThinProducts`. `thin` is overwritten."""
        if not _fits(factors.A_RI, dy_tO):
            return self._torch.backward(dy_tO, factors, thin, dx_tI=dx_tI)
        ranks, dx = len(factors.A_RI), None if dx_tI is None else dx_tI.data_ptr()
        gradient_RO = torch.empty(_rounded(ranks, TILE), dy_tO.shape[1])
        made = (dx, *_at(thin, gradient_RO))
        self._library.thin_backward(
            self._unit, dy_tO.data_ptr(), *_in_memory(factors), *made, len(dy_tO), *_measures(factors)
        )
        return gradient_RO[:ranks], thin

    def finish(self, x_tI: torch.Tensor, dthin: torch.Tensor, ranks: int) -> torch.Tensor:
        """See `ThinProducts`."""
        if not _fits(x_tI):
            return self._torch.finish(x_tI, dthin, ranks)
        gradient_RI = torch.empty(_rounded(ranks, TILE), x_tI.shape[1])
        self._library.thin_finish(self._unit, *_at(x_tI, dthin, gradient_RI), len(x_tI), ranks, x_tI.shape[1])
        return gradient_RI[:ranks]


def unit_of(library: ctypes.CDLL, name: str) -> int | None:
    """Where a library keeps a unit's functions; None where the processor or the system has no such unit."""
    function = getattr(library, name)
    function.argtypes, function.restype = (), P
    found: int | None = function()
    return found


@lru_cache
def _reach(ranks: int, outputs: int, blocks: tuple[tuple[int, int, int, int], ...]) -> torch.Tensor:
    """Factors' reach_G2: the same in every layer and pass. `blocks`: first rank, end of ranks, first output, end."""
    reach_G2 = torch.tensor([[ranks, 0]]).repeat(_rounded(outputs, GROUP) // GROUP, 1)
    for first, last, begin, end in blocks:
        reached_G2 = reach_G2[begin // GROUP : _rounded(end, GROUP) // GROUP]
        reached_G2[:, 0].clamp_(max=first)
        reached_G2[:, 1].clamp_(min=last)
    return reach_G2


def _fits(*wide: torch.Tensor) -> bool:
    return all(tensor.shape[1] % GROUP == 0 for tensor in wide)


def _rounded(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _at(*tensors: torch.Tensor) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)


def _in_memory(factors: Factors) -> tuple[int, ...]:
    return _at(factors.A_RI, factors.B_RO, factors.reach_G2)


def _measures(factors: Factors) -> tuple[int, int, int]:
    return len(factors.A_RI), factors.A_RI.shape[1], factors.B_RO.shape[1]
