"""Memory that is kept from pass to pass.

Handing a hundred megabytes back to the system after every pass means page faults all through the next. And memory in
pages of 4 KiB is looked up at every other row: with huge pages, a pass on a CPU is a tenth faster.
"""

import math
import mmap

import torch

HUGE_PAGE_BYTES = 2**21


class Arena:
    """Tensors by name and place, whose memory grows to the largest asked for and is never given back.

    A tensor is valid until the same name and place is asked for again. Its content is whatever was there.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: dict[tuple[str, int, torch.dtype], torch.Tensor] = {}

    def take(self, name: str, place: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor. `place` tells apart those of one name that live at once, such as a layer's."""
        key, size = (name, place, dtype), math.prod(shape)
        memory = self._memory.get(key)
        if memory is None or len(memory) < size:
            memory = self._memory[key] = room(size, dtype, self._device)
        return memory[:size].view(shape)

    @property
    def held_bytes(self) -> int:
        """All it holds."""
        return sum(memory.nbytes for memory in self._memory.values())


def room(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """So many numbers, unset; in huge pages where they are worth one and the system has them."""
    if device.type != "cpu" or size * dtype.itemsize < HUGE_PAGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=dtype, device=device)
    pages = mmap.mmap(-1, -(-size * dtype.itemsize // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES)
    pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype, count=size)
