"""K small jobs in one pass beside the same jobs one after another, in turns within one process.

Both ways take the same steps on the same rows from the same start, so that only the grouping differs.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import settings
from benchmarks.ours import begin, open_path
from benchmarks.reports import Fused, FusedReport, Turn, write
from domain.plans import Device, PathChoice, Precision
from domain.runs import LoraMethod
from engine.batches import tokens_of
from engine.distributed import Ranks
from engine.path import Path as ComputePath
from engine.rows import load_chat, read_and_tokenise
from engine.step import Stepping, step_together
from engine.tokenise import TokenisedRow

# Departments choose ranks of their own.
RANKS = (8, 16, 4, 32)


def main() -> None:
    """Measure each K:rows of the list."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fused")
    parser.add_argument("--base-model", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path)
    parser.add_argument("--precision", required=True, type=Precision)
    parser.add_argument("--device", type=Device, default=Device.CPU)
    parser.add_argument("--jobs", required=True, help="K:rows a step, comma-separated")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [row for _, row in read_and_tokenise(options.rows, load_chat(options.base_model))]
    path = open_path(options.base_model, options.device, options.precision, PathChoice.FAST)
    measured = []
    for asked in options.jobs.split(","):
        jobs, rows_a_step = (int(number) for number in asked.split(":"))
        pair = _Pair(path, options.base_model, jobs, rows_a_step)
        turns = [pair.turn(rows, step) for step in range(options.steps + 1)]
        measured.append(Fused(jobs, rows_a_step, turns))
    write(FusedReport(options.threads, measured), options.out / "fused.json")


class _Pair:
    """The same jobs twice."""

    def __init__(self, path: ComputePath, base_model: Path, jobs: int, rows_a_step: int) -> None:
        self._path, self._rows_a_step = path, rows_a_step
        self._ranks = Ranks(0, 1, path.device)

        def started() -> list[Stepping]:
            methods = [LoraMethod(lora_rank=RANKS[job % len(RANKS)], alpha=settings.LORA_ALPHA) for job in range(jobs)]
            return [begin(path, base_model, settings.SEED + job, method) for job, method in enumerate(methods)]

        self._apart, self._together = started(), started()

    def turn(self, rows: list[TokenisedRow], step: int) -> Turn:
        """The jobs' next step both ways."""
        for job, pair in enumerate(zip(self._apart, self._together, strict=True)):
            place = (step * len(self._apart) + job) * self._rows_a_step % (len(rows) - self._rows_a_step + 1)
            for stepping in pair:
                stepping.batch = rows[place : place + self._rows_a_step]
        apart = _timed(lambda: self._step(*([stepping] for stepping in self._apart)))
        together = _timed(lambda: self._step(self._together))
        tokens = sum(tokens_of(stepping.batch) for stepping in self._together)
        return Turn(step == 0, tokens, *apart, *together)

    def _step(self, *passes: list[Stepping]) -> None:
        for steppings in passes:
            tokens = sum(tokens_of(stepping.batch) for stepping in steppings)
            step_together(steppings, self._path, ranks=self._ranks, token_budget=tokens)


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    """Processor seconds and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    main()
