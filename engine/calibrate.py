"""`calibrate`: how fast one rank of this machine multiplies, and at which size of a pass it trains fastest.

What it trains is synthetic. Its peers, if the plan has any, are not there: a rank at work beside others is slower, and
`mfu` says so.

Shapes: T tokens, I in_features, O out_features.
"""

import argparse
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from domain.plans import CalibratedPass, CalibratePlan, CalibrateReport, Compute
from engine.atomic import write_json
from engine.distributed import open_ranks
from engine.machine import DTYPES, resolve
from engine.memory import free_bytes, needed_bytes
from engine.path import LinearShape
from engine.paths import Paths
from engine.synthetic import LONGEST_TOKENS, SyntheticRun, synthetic_rows

# Each about twice as long as the one before. Where a CPU is busy with a few hundred tokens, a GPU wants thousands.
SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)

# A size so near to the best speed is good enough: the smaller a pass, the less memory and the fairer the turns.
NEAR_BEST = 0.95

# A doubling that gains less is no gain; after two of them no larger size is tried.
GAIN, FLAT_DOUBLINGS = 1.02, 2

# No further size is begun that would end after so long, by the clock that measures: a job waits for this.
LIMIT_S = 10.0

# Whatever is measured is measured at least twice, and again until so much time is spent on it. The best time counts:
# everything else that goes on here only makes it longer, and the first pass of a size asks for its memory.
REPETITIONS, LEAST_S = 2, 0.1

# Of what is free a pass may take so much: rows longer than these need more for the same tokens.
MEMORY_SHARE = 0.5

# Products beside the base's own, [T, I, O]: where one of these is faster, the machine's peak is not what the base asks.
CPU_SHAPES = ((512, 576, 1536), (512, 2048, 2048), (1024, 1024, 4096), (1024, 2048, 2048))
GPU_SHAPES = ((8192, 4096, 4096), (8192, 4096, 14336), (16384, 4096, 4096))
# On a GPU one product is over before the next is asked for.
GPU_PRODUCTS = 10

# The widest first, as /proc/cpuinfo names them on x86 and on ARM.
MATRIX_UNITS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 BF16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "sve": "SVE",
    "asimd": "NEON",
}

Clock = Callable[[], float]


def main(arguments: Sequence[str]) -> int:
    """Write the report. Raises where the base model cannot be trained here, and reports nothing."""
    parser = argparse.ArgumentParser(prog="python -m engine calibrate")
    parser.add_argument("--plan", required=True, type=Path)
    parser.add_argument("--inputs", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args(arguments)
    plan = CalibratePlan.model_validate_json(options.plan.read_bytes())
    with open_ranks(plan.compute.model_copy(update={"world_size": 1})) as ranks:
        report = calibrate(options.inputs / "base_model", plan.compute, ranks.device)
    write_json(options.out / "report.json", report)
    return 0


def calibrate(base_model: Path, compute: Compute, device: torch.device) -> CalibrateReport:
    """Measure one rank of a plan's. Raises RunFailed where the base model is of no use."""
    compute, clock = resolve(compute, device), clock_for(device, compute.threads_per_rank)
    run = SyntheticRun(Paths(base_model, compute, device))
    # Peers on a CPU want the same from the same memory.
    ranks = compute.world_size if device.type == "cpu" else 1

    def fits(tokens: int) -> bool:
        needed = needed_bytes(run.path, run.adapter, tokens, LONGEST_TOKENS) * ranks
        return needed <= free_bytes(device) * MEMORY_SHARE

    def seconds(tokens: int) -> float:
        rows = synthetic_rows(tokens)
        return best_of(lambda: run.step(rows), clock)

    passes = measure_passes(seconds, fits, clock)
    shapes = _shapes(run.path.linears.values(), device)
    return CalibrateReport(
        token_budget=smallest_near_best(passes),
        peak_flops=max(product_flops(shape, DTYPES[compute.precision], device, clock) for shape in shapes),
        passes=passes,
        precision=compute.precision,
        device=compute.device,
        hardware=hardware(device),
    )


def measure_passes(
    seconds: Callable[[int], float], fits: Callable[[int], bool], clock: Clock
) -> tuple[CalibratedPass, ...]:
    """The speed of passes from the smallest size on, until more is of no use, too slow to measure or too large."""
    passes: list[CalibratedPass] = []
    begun, best, flat, took = clock(), 0.0, 0, 0.0
    for tokens in SIZES:
        before = clock()
        # The first is measured in any case; each next one takes about twice as long.
        if passes and (before + 2 * took > begun + LIMIT_S or not fits(tokens)):
            break
        speed = tokens / seconds(tokens)
        took = clock() - before
        passes.append(CalibratedPass(tokens=tokens, tokens_per_s=speed))
        flat = 0 if speed > best * GAIN else flat + 1
        best = max(best, speed)
        if flat == FLAT_DOUBLINGS:
            break
    return tuple(passes)


def smallest_near_best(passes: Sequence[CalibratedPass]) -> int:
    """The smallest size of a pass whose speed is within 5 % of the best."""
    best = max(measured.tokens_per_s for measured in passes)
    return min(measured.tokens for measured in passes if measured.tokens_per_s >= NEAR_BEST * best)


def product_flops(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, clock: Clock) -> float:
    """The rate of a matrix product in FLOP/s."""
    tokens, in_features, out_features = shape
    x_TI = torch.randn(tokens, in_features, device=device).to(dtype)
    W_OI = torch.randn(out_features, in_features, device=device).to(dtype)
    products = 1 if device.type == "cpu" else GPU_PRODUCTS

    def multiply() -> None:
        for _ in range(products):
            torch.mm(x_TI, W_OI.t())

    return 2.0 * tokens * in_features * out_features * products / best_of(multiply, clock)


def _shapes(linears: Iterable[LinearShape], device: torch.device) -> list[tuple[int, int, int]]:
    given = CPU_SHAPES if device.type == "cpu" else GPU_SHAPES
    tokens = given[-1][0]
    own = {(tokens, linear.in_features, linear.out_features) for linear in linears}
    return [*given, *sorted(own)]


def best_of(work: Callable[[], object], clock: Clock) -> float:
    """The shortest time of several."""
    times: list[float] = []
    while len(times) < REPETITIONS or sum(times) < LEAST_S:
        begun = clock()
        work()
        times.append(clock() - begun)
    return min(times)


def clock_for(device: torch.device, threads: int) -> Clock:
    """Seconds in which a rank computes."""
    if device.type == "cuda":

        def after_all_work() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return after_all_work
    # What neighbours take of a processor is nobody's speed. The time of one thread leaves that out; of several threads
    # the sum would hide how long they wait for each other.
    return time.process_time if threads == 1 else time.perf_counter


def hardware(device: torch.device) -> str:
    """What was measured: the GPU's name, or the processor's with its widest unit for matrix products."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    has = set(fields.get("flags", fields.get("Features", "")).split())
    unit = next((told for flag, told in MATRIX_UNITS.items() if flag in has), None)
    return ", ".join(filter(None, (fields.get("model name", platform.machine()), unit)))
