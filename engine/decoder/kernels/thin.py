"""The adapters' products: in torch, or by the processor's tile unit where it has one.

Shapes: t tokens of one run, R ranks, I in_features, O out_features. "thin" numbers are A x in the forward pass and
their gradient in the backward pass; how they lie in memory is each implementation's own affair.
"""

import ctypes
from typing import Protocol

import torch

P, N = ctypes.c_void_p, ctypes.c_int64

# Arguments in thin.cpp, in order.
SIGNATURES: dict[str, tuple[type, ...]] = {
    "thin_forward": (P, P, P, P, P, N, N, N, N),
    "thin_backward": (P, P, P, P, P, P, N, N, N, N),
    "thin_finish": (P, P, P, N, N, N),
}

# A tile is so many ranks high, sums over so many numbers; features come in multiples of the latter.
TILE, DEPTH = 16, 32


class ThinProducts(Protocol):
    """One number format on one kind of device. Wide tensors are contiguous rows."""

    def forward(self, x_tI: torch.Tensor, A_RI: torch.Tensor, B_RO: torch.Tensor, y_tO: torch.Tensor) -> torch.Tensor:
        """Add (x A^T) B to y, and give the thin numbers x A^T."""

    def backward(
        self,
        dy_tO: torch.Tensor,
        A_RI: torch.Tensor,
        B_RO: torch.Tensor,
        thin: torch.Tensor,
        *,
        dx_tI: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient of B, [R, O], and of the thin numbers; and add to dx, where wanted, what goes through A."""

    def finish(self, x_tI: torch.Tensor, dthin: torch.Tensor, ranks: int) -> torch.Tensor:
        """The gradient of A, [R, I]."""


class TorchThin:
    """Any number format on any device."""

    def forward(self, x_tI: torch.Tensor, A_RI: torch.Tensor, B_RO: torch.Tensor, y_tO: torch.Tensor) -> torch.Tensor:
        """See `ThinProducts`."""
        thin_tR = x_tI @ A_RI.t()
        y_tO.addmm_(thin_tR, B_RO)
        return thin_tR

    def backward(
        self,
        dy_tO: torch.Tensor,
        A_RI: torch.Tensor,
        B_RO: torch.Tensor,
        thin: torch.Tensor,
        *,
        dx_tI: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ThinProducts`."""
        dthin_tR = dy_tO @ B_RO.t()
        if dx_tI is not None:
            dx_tI.addmm_(dthin_tR, A_RI)
        return thin.t() @ dy_tO, dthin_tR

    def finish(self, x_tI: torch.Tensor, dthin: torch.Tensor, ranks: int) -> torch.Tensor:
        """See `ThinProducts`."""
        return dthin.t()[:ranks] @ x_tI


class TileThin:
    """bf16 by Intel's AMX. Thin numbers lie in whole tiles, [2, t R] with both rounded up to 32: see thin.cpp."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, arguments in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None
        self._library = library
        self._torch = TorchThin()

    def forward(self, x_tI: torch.Tensor, A_RI: torch.Tensor, B_RO: torch.Tensor, y_tO: torch.Tensor) -> torch.Tensor:
        """See `ThinProducts`."""
        if not _fits(A_RI, B_RO):
            return self._torch.forward(x_tI, A_RI, B_RO, y_tO)
        thin = A_RI.new_empty(2, _rounded(len(x_tI), DEPTH) * _rounded(len(A_RI), DEPTH))
        self._library.thin_forward(
            *_at(x_tI, A_RI, B_RO, y_tO, thin), len(x_tI), len(A_RI), A_RI.shape[1], B_RO.shape[1]
        )
        return thin

    def backward(
        self,
        dy_tO: torch.Tensor,
        A_RI: torch.Tensor,
        B_RO: torch.Tensor,
        thin: torch.Tensor,
        *,
        dx_tI: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ThinProducts`. `thin` is overwritten."""
        if not _fits(A_RI, B_RO):
            return self._torch.backward(dy_tO, A_RI, B_RO, thin, dx_tI=dx_tI)
        ranks, gradient_RO = len(A_RI), torch.empty(_rounded(len(A_RI), TILE), B_RO.shape[1])
        dx = None if dx_tI is None else dx_tI.data_ptr()
        self._library.thin_backward(
            *_at(dy_tO, A_RI, B_RO), dx, *_at(thin, gradient_RO), len(dy_tO), ranks, A_RI.shape[1], B_RO.shape[1]
        )
        return gradient_RO[:ranks], thin

    def finish(self, x_tI: torch.Tensor, dthin: torch.Tensor, ranks: int) -> torch.Tensor:
        """See `ThinProducts`."""
        if not _fits(x_tI):
            return self._torch.finish(x_tI, dthin, ranks)
        gradient_RI = torch.empty(_rounded(ranks, TILE), x_tI.shape[1])
        self._library.thin_finish(*_at(x_tI, dthin, gradient_RI), *(len(x_tI), ranks, x_tI.shape[1]))
        return gradient_RI[:ranks]


def _fits(*wide: torch.Tensor) -> bool:
    return all(tensor.shape[1] % DEPTH == 0 for tensor in wide)


def _rounded(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _at(*tensors: torch.Tensor) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)
