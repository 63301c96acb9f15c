"""What `python -m engine evaluate` measures, row by row: its reports add up what a paired comparison takes apart."""

import argparse
from pathlib import Path

import torch

from benchmarks.reports import Judged, Judgement, write
from domain.plans import Compute, Device, Precision
from engine.choices import count_right
from engine.distributed import Ranks
from engine.items import LoadedBase
from engine.machine import resolve
from engine.measuring import measure_rows
from engine.peft_network import stored_adapter_on
from engine.rows import read_and_tokenise
from engine.step import MEASURING_FACTOR


def main() -> None:
    """Judge every adapter on the same rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge")
    parser.add_argument("--base-model", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path, help="held-out rows with choices, JSON Lines")
    parser.add_argument("--count", type=int, help="only so many of the rows")
    parser.add_argument("--device", required=True, type=Device)
    parser.add_argument("--adapters", required=True, nargs="+", type=Path, help="folders as peft writes them")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    device = torch.device(options.device.value)
    compute = resolve(Compute(device=options.device, precision=Precision.BF16), device)
    loaded = LoadedBase.load(options.base_model, compute.precision, device)
    loaded.base.network.eval()
    judged = [_judge(loaded, compute, adapter, options) for adapter in options.adapters]
    write(Judgement(judged), options.out / "judgement.json")


def _judge(loaded: LoadedBase, compute: Compute, adapter: Path, options: argparse.Namespace) -> Judged:
    rows = list(read_and_tokenise(options.rows, loaded.chat))[: options.count]
    tokenised = [ids for _, ids in rows]
    loaded.base.attend_to(max(len(row.ids) for row in tokenised))
    budget, ranks = compute.token_budget, Ranks(0, 1, loaded.base.device)
    with stored_adapter_on(loaded.base, adapter) as network:
        measure = measure_rows(network, loaded.base, tokenised, ranks=ranks, token_budget=budget)
        right = [
            count_right([row], network, loaded.base, chat=loaded.chat, max_tokens=MEASURING_FACTOR * budget) == 1
            for row, _ in rows
        ]
    return Judged(str(adapter), measure.loss, right)


if __name__ == "__main__":
    main()
