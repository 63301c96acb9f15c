"""`warm`: everything `train` does before it knows its plan; then one plan, and the end.

What it holds while it waits is nobody's: code and a base model. So it may wait for whichever department comes first,
and ends with that department's plan, as every engine process does.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from domain.plans import Compute, Device, TrainPlan
from domain.warm import ORDER, Order, WarmPlan
from engine.distributed import Ranks, open_ranks
from engine.machine import resolve
from engine.paths import Paths
from engine.synthetic import SyntheticRun, synthetic_rows
from engine.train import Training

POLL_S = 0.02

# Enough for every kernel to be built or loaded, and every weight to be read once.
EXERCISE_TOKENS = 64

# The settings that a loaded base depends on.
LOADED_BY = {"device", "precision", "path", "quantisation", "activation_checkpointing"}


def main(arguments: Sequence[str]) -> int:
    """Wait for an order and do it; the exit status is that of `train`."""
    parser = argparse.ArgumentParser(prog="python -m engine warm")
    parser.add_argument("--plan", required=True, type=Path)
    parser.add_argument("--inputs", required=True, type=Path)
    # Every engine process has one. What this one writes goes where the order says.
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    plan = WarmPlan.model_validate_json(options.plan.read_bytes())
    with open_ranks(plan.compute) as ranks:
        paths = preload(options.inputs / "base_model", resolve(plan.compute, ranks.device), ranks.device)
        order = await_order(options.inputs / ORDER)
        return carry_out(order, paths, ranks)


def preload(base_model: Path, compute: Compute, device: torch.device) -> Paths | None:
    """A base model ready for its first step; None where there is none, or none that can be used.

    What is wrong with it is the plan's to find: it may be for another.
    """
    if not base_model.exists():
        return None
    # Where it really lies: a plan has a link of its own to the same folder.
    paths = Paths(base_model.resolve(), compute, device)
    try:
        SyntheticRun(paths).step(synthetic_rows(EXERCISE_TOKENS))
    except Exception as error:  # noqa: BLE001 - the edge: a process that is not warm is as good as a cold one
        traceback.print_exception(error, file=sys.stderr)
        return None
    return paths


def await_order(path: Path) -> Order:
    """The order, once it is there. Every rank looks for itself: a collective would not wait for so long."""
    while not path.exists():
        time.sleep(POLL_S)
    return Order.model_validate_json(path.read_bytes())


def carry_out(order: Order, paths: Paths | None, ranks: Ranks) -> int:
    """Do what `train` would have done. The base is loaded anew where the plan is for another than the one here."""
    plan = TrainPlan.model_validate_json(order.plan.read_bytes())
    if plan.compute.world_size != ranks.world_size:
        raise SystemExit(f"the plan is for {plan.compute.world_size} ranks, {ranks.world_size} were warmed")
    if plan.compute.device not in {Device.AUTO, Device(ranks.device.type)}:
        raise SystemExit(f"the plan is for {plan.compute.device}, {ranks.device.type} was warmed")
    torch.set_num_threads(plan.compute.threads_per_rank)
    wanted = resolve(plan.compute, ranks.device)
    if paths and not _serves(paths, order.inputs / "base_model", wanted):
        paths = None
    return Training(plan, order.inputs, order.out, ranks, paths=paths).run_all()


def _serves(paths: Paths, base_model: Path, wanted: Compute) -> bool:
    same_files = paths.folder == base_model.resolve()
    return same_files and paths.compute.model_dump(include=LOADED_BY) == wanted.model_dump(include=LOADED_BY)
