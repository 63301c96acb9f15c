"""The ranks of one training process group: one process each, gloo on CPUs and nccl on GPUs."""

import datetime as dt
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from domain.plans import Compute, Device

PULSE_S = 0.5
STILL_AFTER_S = 2.0


class RankLost(Exception):  # noqa: N818 - named for the fact
    """A peer did not come to a collective; the message names it. This process group is of no more use."""


@dataclass
class Ranks:
    """This process's place in the group. Every method is collective: every rank must call it equally often.

    Where a collective fails, or waits longer than the plan allows, RankLost names whose pulse has stopped; or else who
    has been to fewer collectives, and so does something else.
    """

    rank: int
    world_size: int
    device: torch.device
    roll: "Roll | None" = None

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
        if self.roll:
            self.roll.attend()
        try:
            collective()
        except RuntimeError as error:
            raise RankLost(self._who_is_missing()) from error

    def _who_is_missing(self) -> str:
        missing = [str(rank) for rank in self.roll.missing()] if self.roll else []
        if not missing:
            return "The connection between the ranks broke."
        which = f"Rank {missing[0]}" if len(missing) == 1 else f"Ranks {', '.join(missing)}"
        return f"{which} of {self.world_size} died or no longer answers."


class Roll:
    """What the ranks tell the group's store of themselves: a pulse from a thread, and how many collectives they began.

    The store outlives the ranks: torchrun's agent has it.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self._store, self._rank, self._world_size = store, rank, world_size
        self._attended = 0
        self._over = threading.Event()
        self.attend(0)
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        for beat in itertools.count():
            try:
                self._store.set(f"pulse/{self._rank}", str(beat))
            except RuntimeError:
                # The agent is gone, and with it whoever could ask.
                return
            if self._over.wait(PULSE_S):
                return

    def attend(self, collectives: int = 1) -> None:
        """Count a collective, before it begins."""
        self._attended += collectives
        self._store.set(f"attended/{self._rank}", str(self._attended))

    def missing(self) -> list[int]:
        """The ranks without a pulse; or else those that have begun fewer collectives than this one."""
        others = [rank for rank in range(self._world_size) if rank != self._rank]
        try:
            before = [self._read("pulse", rank) for rank in others]
            time.sleep(STILL_AFTER_S)
            after = [self._read("pulse", rank) for rank in others]
            still = [rank for rank, then, now in zip(others, before, after, strict=True) if then == now]
            return still or [rank for rank in others if self._read("attended", rank) < self._attended]
        except RuntimeError:
            return []

    def _read(self, what: str, rank: int) -> int:
        return int(self._store.get(f"{what}/{rank}"))

    def close(self) -> None:
        """Stop the pulse, at the group's end."""
        self._over.set()
        self._thread.join()


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
    roll = Roll(PrefixStore("roll", store), rank, world_size)
    yield Ranks(rank, world_size, device, roll)
    # Not in a finally: with a lost peer, leaving in good order would wait for it.
    roll.close()
    dist.destroy_process_group()


def _device(wanted: Device) -> torch.device:
    if wanted is Device.CPU or (wanted is Device.AUTO and not torch.cuda.is_available()):
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
