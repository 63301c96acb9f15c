"""Our engine as its users start it: a plan, folders in, folders out."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import settings
from benchmarks.process import Finished, Measured, MeasurementFailed, python
from domain.plans import (
    Compute,
    Device,
    EvaluatePlan,
    EvaluationItem,
    EvaluationReport,
    PathChoice,
    Precision,
    ProgressRecord,
    RunPlan,
    TrainPlan,
)
from domain.runs import LoraMethod, Optimiser, RunData, RunSpec, Schedule
from domain.warm import ORDER, Order, WarmPlan

NO_DIGEST = "sha256:" + "0" * 64
MAX_SEQ_LEN = 256
POLL_S = 0.02
NEVER = 10**6
OPTIMISER = Optimiser(learning_rate=settings.LEARNING_RATE, schedule=Schedule.CONSTANT)
# A process that looks for its order uses a few per cent of this in a second.
BUSY_CPU_S = 0.1


@dataclass(frozen=True)
class Job:
    """One run: its rows, and how it goes through them."""

    name: str
    rows: Sequence[str]
    batch_size: int = settings.BATCH_SIZE
    n_epochs: int = 1
    total_steps: int | None = None
    seed: int = settings.SEED
    optimiser: Optimiser = OPTIMISER

    @property
    def plan(self) -> RunPlan:
        """As plan.json has it."""
        steps = self.total_steps or -(-len(self.rows) // self.batch_size) * self.n_epochs
        spec = RunSpec(
            base_model="base",
            base_model_digest=NO_DIGEST,
            method=LoraMethod(lora_rank=settings.LORA_RANK, alpha=settings.LORA_ALPHA),
            optimiser=self.optimiser,
            data=RunData(train=NO_DIGEST, train_rows=len(self.rows), max_seq_len=MAX_SEQ_LEN),
            seed=self.seed,
            batch_size=self.batch_size,
            n_epochs=self.n_epochs,
            total_steps=steps,
            checkpoint_every_steps=NEVER,
            validate_every_steps=0,
        )
        return RunPlan(run=self.name, spec=spec)


def compute(*, ranks: int = 1, threads: int, peak_flops: float | None = None) -> Compute:
    """As a worker of a machine with bf16 would have it; on a GPU one rank."""
    return Compute(
        world_size=ranks,
        threads_per_rank=threads,
        device=Device.AUTO,
        precision=Precision.BF16,
        path=PathChoice.AUTO,
        peak_flops=peak_flops,
    )


@dataclass(frozen=True)
class Workshop:
    """Where engine processes get their folders, and what they all share."""

    base_model: Path
    environment: Mapping[str, str]

    def lay_out(self, folder: Path, jobs: Sequence[Job], how: Compute) -> None:
        """plan.json and inputs/ for `train`."""
        self._inputs(folder)
        for job in jobs:
            rows = folder / "inputs" / job.name / "train.jsonl"
            rows.parent.mkdir(parents=True)
            rows.write_text("".join(job.rows))
        plan = TrainPlan(compute=how, runs=tuple(job.plan for job in jobs))
        (folder / "plan.json").write_text(plan.model_dump_json())

    def _inputs(self, folder: Path) -> None:
        (folder / "inputs").mkdir(parents=True)
        (folder / "out").mkdir()
        (folder / "inputs" / "base_model").symlink_to(self.base_model.resolve())

    def start(self, verb: str, folder: Path, how: Compute) -> Measured:
        """`python -m engine <verb>` on a folder, under torchrun where there are several ranks."""
        ranks = how.world_size
        torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}") if ranks > 1 else ()
        folders = (f"--plan={folder / 'plan.json'}", f"--inputs={folder / 'inputs'}", f"--out={folder / 'out'}")
        threads = {"OMP_NUM_THREADS": str(how.threads_per_rank)}
        command = python(*torchrun, "-m", "engine", verb, *folders)
        return Measured(command, folder, {**self.environment, **threads})

    def train(self, folder: Path, jobs: Sequence[Job], how: Compute) -> tuple[Finished, list[float]]:
        """Train all jobs in one process; seconds from its start to each job's report."""
        self.lay_out(folder, jobs, how)
        began = time.perf_counter()
        with self.start("train", folder, how) as process:
            latencies_s = await_reports(process, [folder / "out" / job.name for job in jobs], began)
            return process.wait(), latencies_s

    def train_warm(self, folder: Path, jobs: Sequence[Job], how: Compute) -> tuple[float, list[float], Finished]:
        """The same by a process that waits with the base model loaded; seconds from the order on."""
        warm = folder / "warm"
        self._inputs(warm)
        (warm / "plan.json").write_text(WarmPlan(compute=how).model_dump_json())
        self.lay_out(folder, jobs, how)
        order = Order(plan=folder / "plan.json", inputs=folder / "inputs", out=folder / "out")
        with self.start("warm", warm, how) as process:
            _await_rest(process, warm)
            began = time.perf_counter()
            (warm / "order.part").write_text(order.model_dump_json())
            (warm / "order.part").rename(warm / "inputs" / ORDER)
            latencies_s = await_reports(process, [folder / "out" / job.name for job in jobs], began)
            finished = process.wait()
            return time.perf_counter() - began, latencies_s, finished

    def evaluate(self, folder: Path, adapters: Mapping[str, Path], rows: Sequence[str], how: Compute) -> None:
        """The held-out loss and accuracy of each adapter, by name; reports are below out/."""
        self._inputs(folder)
        for name, adapter in adapters.items():
            place = folder / "inputs" / name
            place.mkdir()
            (place / "evaluation.jsonl").write_text("".join(rows))
            (place / "adapter").symlink_to(adapter.resolve())
        items = tuple(EvaluationItem(evaluation=name, with_adapter=True, max_seq_len=MAX_SEQ_LEN) for name in adapters)
        (folder / "plan.json").write_text(EvaluatePlan(compute=how, evaluations=items).model_dump_json())
        with self.start("evaluate", folder, how) as process:
            process.wait()


def await_reports(process: Measured, outs: Sequence[Path], began: float) -> list[float]:
    """Seconds until each run's report. Raises MeasurementFailed where the process ends without one."""
    seen: dict[Path, float] = {}
    while len(seen) < len(outs):
        running = process.running
        for out in outs:
            if out not in seen and (out / "report.json").exists():
                seen[out] = time.perf_counter() - began
        if not running and len(seen) < len(outs):
            raise MeasurementFailed(f"no report in {[str(out) for out in outs if out not in seen]}")
        time.sleep(POLL_S)
    return [seen[out] for out in outs]


def _await_rest(process: Measured, folder: Path) -> None:
    """Wait until a process has done nothing for a second, which is when it waits for its order."""
    before, since = process.cpu_s(), time.perf_counter()
    while time.perf_counter() - since < 1.0 or before < 1.0:
        if not process.running:
            raise MeasurementFailed((folder / "log").read_text()[-2000:])
        time.sleep(POLL_S)
        now = process.cpu_s()
        if now - before > BUSY_CPU_S:
            before, since = now, time.perf_counter()


def training_steps(folder: Path, job: str) -> list[ProgressRecord]:
    """The `train` lines of a run's progress."""
    lines = (folder / "out" / job / "progress.jsonl").read_text().splitlines()
    records = [ProgressRecord.model_validate(json.loads(line)) for line in lines]
    return [record for record in records if record.kind == "train"]


def evaluation(folder: Path, name: str) -> EvaluationReport:
    """One report of `evaluate`."""
    return EvaluationReport.model_validate_json((folder / "out" / name / "report.json").read_bytes())
