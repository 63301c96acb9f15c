"""How fast the fast path trains on this machine: `python -m engine.decoder.measure --base DIR`.

CPU time, so that busy neighbours disturb little. Rows have random tokens and lengths like short instructions.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from domain.plans import Precision
from domain.runs import LoraMethod
from engine.adapter import Adapter, SiteShape, lora_names
from engine.decoder.path import DecoderPath
from engine.decoder.shape import decoder_shape
from engine.stream import Part
from engine.tokenise import TokenisedRow

PASSES = 12


def main(arguments: Sequence[str] | None = None) -> None:
    """Print tokens a CPU second and, by torch's profiler, where the time goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1024, help="of a pass")
    parser.add_argument("--row-tokens", type=int, default=75, help="of a row, on average")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--precision", type=Precision, default=Precision.BF16)
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    shape = decoder_shape(chosen.base)
    if shape is None:
        parser.error("not a decoder of the known shape")
    begun = time.process_time()
    path = DecoderPath.load(chosen.base, shape, chosen.precision, torch.device("cpu"))
    say(f"loaded in {time.process_time() - begun:.2f} s")
    generator = torch.Generator().manual_seed(0)
    parts = [
        Part(
            random_adapter(path, chosen.rank),
            random_rows(chosen.tokens // chosen.runs, chosen.row_tokens, generator),
            1e-3,
        )
        for _ in range(chosen.runs)
    ]
    tokens = sum(len(row.ids) for part in parts for row in part.rows)
    supervised = sum(row.supervised_tokens for part in parts for row in part.rows)
    path.gradients(parts)
    path.gradients(parts)
    spent = []
    for _ in range(PASSES):
        begun = time.process_time()
        path.gradients(parts)
        spent.append(time.process_time() - begun)
    best, rate = min(spent), path.flops(tokens, supervised) / min(spent)
    say(f"{tokens} tokens in {best * 1e3:.0f} ms: {tokens / best:.0f} tokens a CPU second, {rate / 1e12:.2f} TFLOP/s")
    if chosen.profile:
        with torch.profiler.profile() as profile:
            path.gradients(parts)
        say(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


def say(line: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{line}\n")


def random_adapter(path: DecoderPath, rank: int) -> Adapter:
    """On every linear layer, with neither factor zero."""
    initial, sites = {}, []
    for linear, measures in path.linears.items():
        a, b, _ = lora_names(linear)
        initial[a] = torch.randn(rank, measures.in_features) / measures.in_features**0.5
        initial[b] = torch.randn(measures.out_features, rank) * 1e-3
        sites.append(SiteShape(linear, rank, 2.0))
    return Adapter(LoraMethod(lora_rank=rank, alpha=2.0 * rank), initial, sites=tuple(sites))


def random_rows(tokens: int, row_tokens: int, generator: torch.Generator) -> list[TokenisedRow]:
    """Rows of a third to twice the average, the last cut to the total; seven tokens of ten are supervised."""
    rows: list[TokenisedRow] = []
    left = tokens
    while left:
        length = int(torch.randint(row_tokens // 3, row_tokens * 5 // 3, (1,), generator=generator))
        length = min(length, left)
        ids = torch.randint(0, 1000, (length,), generator=generator).tolist()
        rows.append(
            TokenisedRow(len(rows), tuple(ids), tuple(place >= max(1, length * 3 // 10) for place in range(length)))
        )
        left -= length
    return rows


if __name__ == "__main__":
    main()
