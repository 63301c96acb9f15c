"""The ranks of one training process group: one process each, gloo on CPUs and nccl on GPUs."""

import datetime as dt
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from domain.plans import Compute, Device


class RankLost(Exception):  # noqa: N818 - named for the fact
    """A peer did not come to a collective; the message names it. This process group is of no more use."""


@dataclass
class Ranks:
    """This process's place in the group. Every method is collective: every rank must call it equally often.

    Before each collective a rank counts itself present in the group's store. Where one fails, or waits longer than the
    plan allows, whoever has counted less is whom the others waited for: RankLost names it.
    """

    rank: int
    world_size: int
    device: torch.device
    store: Store | None = None
    _meetings: int = field(default=0, init=False)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which reads control and writes for the runs all ranks share."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Each value summed over the ranks, in float64."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def largest(self, *values: float) -> list[float]:
        """Each value's maximum over the ranks."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: tuple[float, ...], operation: dist.ReduceOp.RedOpType) -> list[float]:
        reduced = torch.tensor(values, dtype=torch.float64, device=self.device)
        self._meet(lambda: dist.all_reduce(reduced, op=operation))
        numbers: list[float] = reduced.tolist()
        return numbers

    def add_up(self, flat_P: torch.Tensor) -> None:
        """Replace a tensor by its sum over the ranks: one all-reduce, whatever it is made of."""
        self._meet(lambda: dist.all_reduce(flat_P))

    def hear(self, lines: list[str]) -> list[str]:
        """Rank 0's lines, on every rank."""
        heard: list[list[str]] = [lines]
        self._meet(lambda: dist.broadcast_object_list(heard, src=0))
        return heard[0]

    def _meet(self, collective: Callable[[], object]) -> None:
        if self.world_size == 1:
            return
        self._meetings += 1
        if self.store is not None:
            self.store.set(f"meetings/{self.rank}", str(self._meetings))
        try:
            collective()
        except RuntimeError as error:
            raise RankLost(self._whom_they_waited_for()) from error

    def _whom_they_waited_for(self) -> str:
        missing = [str(rank) for rank in range(self.world_size) if self._came(rank) < self._meetings]
        if not missing:
            return "The connection between the ranks broke."
        which = f"Rank {missing[0]}" if len(missing) == 1 else f"Ranks {', '.join(missing)}"
        return f"{which} of {self.world_size} died or no longer answers."

    def _came(self, rank: int) -> int:
        """How many collectives a rank has come to; as many as this one where nobody can tell."""
        if rank == self.rank or self.store is None:
            return self._meetings
        try:
            return int(self.store.get(f"meetings/{rank}"))
        except RuntimeError:
            return self._meetings


@contextmanager
def open_ranks(compute: Compute) -> Iterator[Ranks]:
    """Join the process group that torchrun describes in the environment, or be the only rank."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != compute.world_size:
        raise SystemExit(f"the plan is for {compute.world_size} ranks, torchrun started {world_size}")
    torch.set_num_threads(compute.threads_per_rank)
    device = _device(compute.device)
    if world_size == 1:
        yield Ranks(0, 1, device)
        return
    timeout = dt.timedelta(seconds=compute.collective_timeout_s)
    store, _, _ = next(rendezvous("env://", timeout=timeout))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore("group", store),
        rank=rank,
        world_size=world_size,
        timeout=timeout,
    )
    yield Ranks(rank, world_size, device, PrefixStore("tsugiki", store))
    # Not in a finally: with a lost peer, leaving in good order would wait for it.
    dist.destroy_process_group()


def _device(wanted: Device) -> torch.device:
    if wanted is Device.CPU or (wanted is Device.AUTO and not torch.cuda.is_available()):
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
