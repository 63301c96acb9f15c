"""Memory that is kept from pass to pass.

Handing a hundred megabytes back to the system after every pass means page faults all through the next.
"""

import math

import torch

# Memory is asked for in slabs of this. Of a slab on a CPU, only pages that were written to are really taken.
SLAB_BYTES = 2**28

# Where tensors begin: a line of the processor's cache.
ALIGNED_BYTES = 64


class Arena:
    """Tensors by name and place, laid out anew in every pass, in memory that is never given back.

    A tensor is valid until the same name and place is asked for again, and no longer than its pass. Its content is
    whatever was there. Passes lay the same names out in the same order, so that a longer one takes new pages only for
    what it has more.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._slabs: list[torch.Tensor] = []
        self._most_used: list[int] = []
        self._slab = self._used = 0
        self._taken: dict[tuple[str, int, torch.dtype], torch.Tensor] = {}

    def begin_pass(self) -> None:
        """From here on, what earlier passes have taken is not valid."""
        self._taken.clear()
        self._slab = self._used = 0

    def take(self, name: str, place: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor. `place` tells apart those of one name that live at once, such as a layer's."""
        key, size = (name, place, dtype), math.prod(shape)
        memory = self._taken.get(key)
        if memory is None or len(memory) < size:
            # .data: autograd, which fused attention uses, is to count changes of this tensor, not of its slab.
            memory = self._taken[key] = self._laid_out(size * dtype.itemsize).view(dtype).data
        return memory[:size].view(shape)

    @property
    def held_bytes(self) -> int:
        """The most that passes have used."""
        return sum(self._most_used)

    def _laid_out(self, size: int) -> torch.Tensor:
        """The next bytes of the first slab from the present one on that has so many left."""
        while self._slab < len(self._slabs) and self._used + size > len(self._slabs[self._slab]):
            self._slab, self._used = self._slab + 1, 0
        if self._slab == len(self._slabs):
            self._slabs.append(torch.empty(max(size, SLAB_BYTES), dtype=torch.uint8, device=self._device))
            self._most_used.append(0)
        begin, end = self._used, self._used + size
        self._used = -(-end // ALIGNED_BYTES) * ALIGNED_BYTES
        self._most_used[self._slab] = max(self._most_used[self._slab], end)
        return self._slabs[self._slab][begin:end]
