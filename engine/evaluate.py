"""`evaluate`: the loss and the accuracy of the base model, bare or with a finished adapter, over held-out rows."""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from domain.plans import EvaluatePlan, EvaluationItem, EvaluationReport
from engine.atomic import write_json
from engine.batches import deal
from engine.chat import BadChatTemplate
from engine.choices import count_right
from engine.distributed import Ranks, open_ranks
from engine.failures import BadData
from engine.items import LoadedBase, work_through
from engine.machine import resolve
from engine.measuring import measure_rows
from engine.peft_network import stored_adapter_on
from engine.progress import Progress
from engine.rows import read_and_tokenise
from engine.step import MEASURING_FACTOR
from engine.tokenise import Row, TokenisedRow

# Between two lines of progress.
ROWS_AT_ONCE = 32


def main(arguments: Sequence[str]) -> int:
    """Make every report of the plan. The exit status is 1 where the process has failed."""
    parser = argparse.ArgumentParser(prog="python -m engine evaluate")
    parser.add_argument("--plan", required=True, type=Path)
    parser.add_argument("--inputs", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args(arguments)
    plan = EvaluatePlan.model_validate_json(options.plan.read_bytes())
    with open_ranks(plan.compute) as ranks:
        return Evaluating(plan, options.inputs, options.out, ranks).run_all()


class Evaluating:
    """One process group at work on a plan."""

    def __init__(self, plan: EvaluatePlan, inputs: Path, out: Path, ranks: Ranks) -> None:
        self._plan, self._inputs, self._out, self._ranks = plan, inputs, out, ranks
        self._compute = resolve(plan.compute, ranks.device)

    def run_all(self) -> int:
        """Make each report; the exit status."""
        items = {item.evaluation: item for item in self._plan.evaluations}

        def evaluate(loaded: LoadedBase, name: str) -> None:
            self._evaluate(items[name], loaded)

        return work_through(list(items), self._out, self._ranks, load=self._load_base, work=evaluate)

    def _load_base(self) -> LoadedBase:
        return LoadedBase.load(self._inputs / "base_model", self._compute.precision, self._ranks.device)

    def _evaluate(self, item: EvaluationItem, loaded: LoadedBase) -> None:
        started, folder = time.monotonic(), self._inputs / item.evaluation
        rows = _read_fitting(folder / "evaluation.jsonl", item, loaded)
        loaded.base.attend_to(max(len(tokenised.ids) for _, tokenised in rows))
        with _network_for(item, folder, loaded) as network:
            measure = measure_rows(
                network,
                loaded.base,
                [tokenised for _, tokenised in rows],
                ranks=self._ranks,
                token_budget=self._compute.token_budget,
            )
            with_choices = [row for row, _ in rows if row.choices]
            right = self._count_right(item, with_choices, network, loaded)
        report = EvaluationReport(
            evaluation=item.evaluation,
            rows=len(rows),
            supervised_tokens=measure.supervised_tokens,
            loss=measure.loss,
            token_accuracy=measure.token_accuracy,
            choice_rows=len(with_choices),
            accuracy=right / len(with_choices) if with_choices else None,
            seconds=time.monotonic() - started,
        )
        if self._ranks.leads:
            (self._out / item.evaluation).mkdir(parents=True, exist_ok=True)
            write_json(self._out / item.evaluation / "report.json", report)

    def _count_right(self, item: EvaluationItem, rows: Sequence[Row], network: nn.Module, loaded: LoadedBase) -> int:
        """How often the likeliest choice is the right one, each rank asking about its share of the rows."""
        costs = [sum(len(choice) for choice in row.choices) for row in rows]
        mine = [rows[place] for place in deal(costs, self._ranks.world_size)[self._ranks.rank]]
        budget, right = MEASURING_FACTOR * self._compute.token_budget, 0
        with Progress(self._out / "progress.jsonl", item.evaluation, len(rows), writes=self._ranks.leads) as progress:
            for begin in range(0, len(mine), ROWS_AT_ONCE):
                asked = mine[begin : begin + ROWS_AT_ONCE]
                try:
                    right += count_right(asked, network, loaded.base, chat=loaded.chat, max_tokens=budget)
                except BadChatTemplate as error:
                    raise BadData(str(error)) from error
                # The peers are about as far.
                done = min((begin + len(asked)) * self._ranks.world_size, len(rows))
                progress.record("evaluation", done)
            (total,) = self._ranks.total(right)
        return int(total)


def _read_fitting(path: Path, item: EvaluationItem, loaded: LoadedBase) -> list[tuple[Row, TokenisedRow]]:
    """The rows that are not longer than the run's rows were allowed to be. Raises BadData where nothing is left."""
    rows = [pair for pair in read_and_tokenise(path, loaded.chat) if len(pair[1].ids) <= item.max_seq_len]
    if not any(tokenised.supervised_tokens for _, tokenised in rows):
        raise BadData("No row has a token to measure.")
    return rows


@contextmanager
def _network_for(item: EvaluationItem, folder: Path, loaded: LoadedBase) -> Iterator[nn.Module]:
    """The base, with the stored adapter where the plan wants it, not training."""
    loaded.base.network.eval()
    if not item.with_adapter:
        yield loaded.base.network
        return
    with stored_adapter_on(loaded.base, folder / "adapter") as network:
        yield network
