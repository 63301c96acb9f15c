"""A benchmark at work: what its parts share, and the results as they grow."""

import itertools
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median
from typing import Any, TypeVar

from pydantic import TypeAdapter

from benchmarks import machine, summaries
from benchmarks.contract import Workshop
from benchmarks.documents import IGNORED, ROWS, TOKENS
from benchmarks.engines import Engine
from benchmarks.flops import DecoderWeights
from benchmarks.process import Finished, Measured, python
from benchmarks.reports import Peak, say
from benchmarks.results import PartRecord, PeakMeasured, Results
from benchmarks.sizes import Sizes

DOCUMENTS = 1600

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Asked:
    """What somebody wants to have measured, and when they asked. isa: the instruction set to hold back to."""

    sizes: Sizes
    base_model: Path
    isa: str | None
    now: datetime


class Bench:
    """What parts measure with. Everything measured is laid out below a folder; results are written as they come."""

    def __init__(self, asked: Asked, folder: Path) -> None:
        """Look at the machine, and build the documents."""
        self.sizes, self.base_model, self._folder = asked.sizes, asked.base_model, folder
        gpu = _gpu_name()
        hardware = machine.hardware(asked.isa, gpu)
        self.device, self.threads = "cuda" if gpu else "cpu", hardware.threads
        self._environment = _environment(asked.isa, self.threads)
        self.workshop = Workshop(self.base_model, self._environment)
        self._numbers = itertools.count()
        self._peaks: dict[int, list[PeakMeasured]] = {}
        self._write: Callable[[Results], None] = lambda _: None
        self._record = PartRecord(commit=machine.commit(), date=asked.now.isoformat(timespec="minutes"))
        arguments = (f"--base-model={self.base_model}", f"--out={folder}", f"--count={DOCUMENTS}")
        self._start("benchmarks.documents", arguments, self.new_folder())
        self.rows, self.tokens = (folder / ROWS).read_text().splitlines(keepends=True), folder / TOKENS
        self.results = Results(
            hardware=hardware,
            commit=self._record.commit,
            date=self._record.date,
            versions=machine.versions(),
            documents=_describe(json.loads(self.tokens.read_text())),
            weights=DecoderWeights.read(self.base_model),
        )

    def keep(self, out: Path, others: Results | None) -> None:
        """From here on results are written to `out`, beside the other parts of an earlier benchmark where it is given.

        Raises TaskChanged.
        """
        if others is not None:
            self.results = self.results.keeping(others)
        self._write = lambda results: summaries.write(results, out)

    # --- results ------------------------------------------------------------------------------------------------------

    def begin(self, part: str) -> None:
        """Forget what an earlier benchmark found of a part."""
        self.results = self.results.beginning(part, self._record)

    def add(self, **lists: Sequence[Any]) -> None:
        """Append to lists of the results."""
        self.put(**{name: (*getattr(self.results, name), *more) for name, more in lists.items()})

    def put(self, **values: Any) -> None:
        """Set fields of the results."""
        self.results = self.results.model_copy(update=values)
        self._write(self.results)

    # --- processes ----------------------------------------------------------------------------------------------------

    def run(self, module: str, *arguments: str) -> tuple[Finished, Path]:
        """Run one of this package's programs to its end, in a folder of its own."""
        folder = self.new_folder()
        folder.mkdir()
        return self._start(module, (*arguments, f"--out={folder}"), folder), folder

    def _start(self, module: str, arguments: Sequence[str], folder: Path) -> Finished:
        with Measured(python("-m", module, *arguments), folder, self._environment) as process:
            return process.wait()

    def new_folder(self) -> Path:
        """A name that no process had."""
        return self._folder / f"{next(self._numbers):04}"

    def can_measure(self, engine: Engine) -> bool:
        """Whether this machine has what the engine needs, and this benchmark the time."""
        if self.sizes.quick and not engine.quick:
            return False
        return (self.device == "cuda" or not engine.needs_gpu) and all(map(find_spec, engine.imports))

    def peaks(self, number: int) -> list[PeakMeasured]:
        """The rates of matrix products in this round, measured at its first use."""
        if number not in self._peaks:
            _, folder = self.run("benchmarks.peak", f"--threads={self.threads}", f"--device={self.device}")
            rates = read(Peak, folder / "peak.json").rates
            told = ", ".join(f"{rate.precision} {rate.flops / 1e9:,.0f} GFLOP/s on {rate.threads}" for rate in rates)
            say(f"round {number}: matrix products {told}")
            self._peaks[number] = [PeakMeasured(round=number, **vars(rate)) for rate in rates]
        return self._peaks[number]

    # --- what processes are given -------------------------------------------------------------------------------------

    def slice(self, first: int, count: int) -> Path:
        """A file of some of the rows."""
        path = self._folder / f"rows-{first}-{count}.jsonl"
        path.write_text("".join(self.rows[first : first + count]))
        return path

    def arguments(self, engine: Engine, phases: str) -> list[str]:
        """Of a process that trains with an engine; its rows are still to be said."""
        return [
            *engine.arguments,
            f"--precision={engine.precision}",
            f"--batch-size={engine.rows_a_step}",
            f"--phases={phases}",
            f"--base-model={self.base_model}",
            f"--device={self.device}",
        ]


def read(kind: type[Kind], path: Path) -> Kind:
    """A dataclass from what a program wrote."""
    return TypeAdapter(kind).validate_json(path.read_bytes())


def told(finished: Finished) -> str:
    """How a process went, for the one who watches."""
    load = finished.load
    return f"{finished.wall_s:.0f} s, others used {load.others_cores:.1f} cores, {load.withheld_cores:.1f} withheld"


def _environment(isa: str | None, threads: int) -> dict[str, str]:
    ceiling = machine.ISAS[isa] if isa and isa != machine.widest_isa() else None
    return {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Whoever waits sleeps: on a machine with neighbours spinning slows every engine down several times.
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": str(threads),
        **({"ONEDNN_MAX_CPU_ISA": ceiling} if ceiling else {}),
    }


def _describe(documents: list[dict[str, list[int]]]) -> dict[str, float]:
    lengths = [len(document["input_ids"]) for document in documents]
    supervised = sum(label != IGNORED for document in documents for label in document["labels"])
    return {
        "documents": float(len(documents)),
        "mean_tokens": float(mean(lengths)),
        "median_tokens": float(median(lengths)),
        "shortest_tokens": float(min(lengths)),
        "longest_tokens": float(max(lengths)),
        "supervised_share": supervised / sum(lengths),
    }


def _gpu_name() -> str | None:
    """Asked in a process of its own: this one stays without torch."""
    program = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    found = subprocess.run(python("-c", program), capture_output=True, text=True, check=True)
    return found.stdout.strip() or None
