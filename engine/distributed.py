"""The ranks of one training process group: one process each, gloo on CPUs and nccl on GPUs."""

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from domain.plans import Compute, Device


@dataclass(frozen=True)
class Ranks:
    """This process's place in the group. Every method is collective: every rank must call it equally often."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which reads control and writes every file but its peers' random states."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Each value summed over the ranks, in float64."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def largest(self, *values: float) -> list[float]:
        """Each value's maximum over the ranks."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def wait(self) -> None:
        """Return when every rank has come here."""
        self.total(0.0)

    def _reduce(self, values: tuple[float, ...], operation: dist.ReduceOp.RedOpType) -> list[float]:
        reduced = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(reduced, op=operation)
        numbers: list[float] = reduced.tolist()
        return numbers

    def share_gradients(self, network: nn.Module) -> nn.Module:
        """Wrap a network so that backward averages its gradients over the ranks; a single rank needs no wrapping.

        The ranks build equal adapters from the run's seed, so nothing has to be sent at the start.
        """
        if self.world_size == 1:
            return network
        return DistributedDataParallel(network, init_sync=False, gradient_as_bucket_view=True)


def without_sharing(network: nn.Module) -> AbstractContextManager[None]:
    """Within it, backward adds to this rank's gradients only: for every micro-batch but a step's last."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


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
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    yield Ranks(rank, world_size, device)
    # Not in a finally: with a lost peer, leaving in good order would wait for it.
    dist.destroy_process_group()


def _device(wanted: Device) -> torch.device:
    if wanted is Device.CPU or (wanted is Device.AUTO and not torch.cuda.is_available()):
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
