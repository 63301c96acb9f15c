"""The best rate of matrix products this machine reaches now, by number format and threads: what MFU is a share of."""

import argparse
import time
from pathlib import Path

import torch

from benchmarks.reports import Peak, Rate, write

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# [T, I, O]: square ones, and those of a small and of a larger language model.
CPU_SHAPES = ((512, 576, 1536), (1024, 576, 1536), (1024, 576, 49152), (1024, 1024, 4096), (2048, 2048, 2048))
GPU_SHAPES = ((4096, 4096, 4096), (8192, 4096, 14336), (8192, 8192, 8192))
TIMES = 8


def main() -> None:
    """Measure both formats on one thread and on as many as asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peak")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    shapes = GPU_SHAPES if options.device == "cuda" else CPU_SHAPES
    rates = []
    for threads in sorted({1, options.threads}):
        torch.set_num_threads(threads)
        for name, dtype in DTYPES.items():
            best = max(_flops(shape, dtype, options.device, by_cpu=threads == 1) for shape in shapes)
            rates.append(Rate(name, threads, best))
    write(Peak(rates), options.out / "peak.json")


def _flops(shape: tuple[int, int, int], dtype: torch.dtype, device: str, *, by_cpu: bool) -> float:
    tokens, in_features, out_features = shape
    x_TI = torch.randn(tokens, in_features, device=device).to(dtype)
    W_OI = torch.randn(out_features, in_features, device=device).to(dtype)
    clock = time.process_time if by_cpu and device == "cpu" else time.perf_counter
    best_s = float("inf")
    for _ in range(TIMES):
        begun = clock()
        torch.mm(x_TI, W_OI.t())
        if device == "cuda":
            torch.cuda.synchronize()
        best_s = min(best_s, clock() - begun)
    return 2.0 * tokens * in_features * out_features / best_s


if __name__ == "__main__":
    main()
