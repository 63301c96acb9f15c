"""Our engine's training steps in a process that measures each one's time: what `python -m engine train` does, inside.

The process contract tells wall time a step; the processor time of a step can only be taken from within.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import settings
from benchmarks.reports import write
from benchmarks.steps import StepClock, parse_phases, peak_resident_bytes
from domain.plans import Compute, Device, PathChoice, Precision
from domain.runs import LoraMethod, Optimiser, Schedule
from engine.batches import tokens_of
from engine.distributed import Ranks
from engine.inits import initial
from engine.machine import resolve
from engine.optimiser import AdamW, LossScale
from engine.path import Path as ComputePath
from engine.paths import Paths
from engine.peft_format import write_peft
from engine.rows import load_chat, read_and_tokenise
from engine.step import Stepping, step_together
from engine.stream import derive_seed

METHOD = LoraMethod(lora_rank=settings.LORA_RANK, alpha=settings.LORA_ALPHA)
OPTIMISER = Optimiser(learning_rate=settings.LEARNING_RATE, schedule=Schedule.CONSTANT)


def main() -> None:
    """Train as many steps as the phases have."""
    options = _options()
    clock = StepClock(parse_phases(options.phases), torch.set_num_threads, _synchronise(options.device))
    torch.set_num_threads(clock.phases[0].threads)
    rows = [row for _, row in read_and_tokenise(options.rows, load_chat(options.base_model))]
    path = open_path(options.base_model, options.device, options.precision, options.path)
    ranks = Ranks(0, 1, path.device)
    stepping = begin(path, options.base_model, options.seed)
    for step in range(clock.total_steps):
        stepping.batch = rows[step * options.batch_size : (step + 1) * options.batch_size]
        stepping.seed = derive_seed(options.seed, step)
        clock.begin()
        tick = step_together([stepping], path, ranks=ranks, token_budget=options.token_budget)
        clock.end(
            tokens=tokens_of(stepping.batch),
            computed_tokens=tick.computed_tokens,
            supervised_tokens=stepping.supervised_tokens,
        )
    write_peft(stepping.adapter, options.out / "adapter", base_model="base", linears=path.linears)
    write(clock.report(_peak_bytes(options.device)), options.out / "steps.json")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ours")
    parser.add_argument("--base-model", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path, help="chat rows, JSON Lines: the steps' batches in order")
    parser.add_argument("--path", required=True, type=PathChoice)
    parser.add_argument("--precision", required=True, type=Precision)
    parser.add_argument("--batch-size", type=int, default=settings.BATCH_SIZE)
    parser.add_argument("--token-budget", type=int, default=Compute().token_budget)
    parser.add_argument("--seed", type=int, default=settings.SEED)
    parser.add_argument("--device", type=Device, default=Device.CPU)
    parser.add_argument("--phases", required=True, help="threads:steps, comma-separated")
    parser.add_argument("--out", required=True, type=Path, help="gets adapter/ and steps.json")
    return parser.parse_args()


def open_path(base_model: Path, device: Device, precision: Precision, choice: PathChoice) -> ComputePath:
    """The base model, loaded under one of the engine's implementations."""
    on = torch.device(device.value)
    compute = resolve(Compute(device=device, precision=precision, path=choice), on)
    return Paths(base_model, compute, on).load(choice)


def begin(path: ComputePath, base_model: Path, seed: int, method: LoraMethod = METHOD) -> Stepping:
    """A run before its first step, without a batch."""
    adapter = initial(method, path, seed=seed, base_model=base_model, rows=[])
    return Stepping(
        adapter=adapter,
        optimiser=AdamW(adapter, OPTIMISER),
        loss_scale=LossScale(),
        clip_norm=OPTIMISER.clip_norm,
        batch=[],
        learning_rate=OPTIMISER.learning_rate,
        seed=seed,
        shared=False,
    )


def _synchronise(device: Device) -> Callable[[], None]:
    return torch.cuda.synchronize if device is Device.CUDA else lambda: None


def _peak_bytes(device: Device) -> int:
    return torch.cuda.max_memory_allocated() if device is Device.CUDA else peak_resident_bytes()


if __name__ == "__main__":
    main()
