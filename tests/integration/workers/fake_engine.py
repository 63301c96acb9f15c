"""A test double of `python -m engine`, obeying the process contract of domain/plans.py without torch.

Words before the verb say how it behaves: `slow` takes 0.1 s a step, `abort` dies at once of SIGABRT, `abort_together`
where it has several runs, `abort_late` at its second step and `abort_after_checkpoint` when it has something to lose.
`kill` dies at once of SIGKILL, `hungry` takes 768 MiB before it trains, `lost_rank` fails as ranks do that have lost
one. `non_finite` and `bad_checkpoint` fail, `former` writes checkpoints as the first engine did, `mute` tells nothing
and never ends. `abort_warm` dies before it is given an order, `abort_ordered` and `mute_ordered` when it has been;
`abort_measuring` and `mute_measuring` come to no measurement.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from domain.digests import manifest_of_tree
from domain.plans import (
    CalibratedPass,
    CalibrateReport,
    Compute,
    ControlRecord,
    Device,
    EngineManifest,
    FailureKind,
    InspectedFile,
    InspectPlan,
    InspectReport,
    PathChoice,
    Precision,
    ProgressRecord,
    RunFailure,
    RunPlan,
    RunReport,
    RunStopped,
    TrainPlan,
)
from domain.warm import ORDER, Order


def main(arguments: list[str]) -> None:
    *behaviour, verb, plan, inputs, out = arguments
    paths = {name: Path(value) for name, value in (word.removeprefix("--").split("=") for word in (plan, inputs, out))}
    if "abort" in behaviour:
        os.kill(os.getpid(), signal.SIGABRT)
    if "kill" in behaviour:
        os.kill(os.getpid(), signal.SIGKILL)
    if "abort_measuring" in behaviour and verb == "calibrate":
        os.kill(os.getpid(), signal.SIGABRT)
    if ("mute" in behaviour and verb == "train") or ("mute_measuring" in behaviour and verb == "calibrate"):
        signal.pause()
    if verb == "warm":
        paths = wait_for_order(paths["inputs"], behaviour)
    if verb == "calibrate":
        calibrate(paths["out"])
        return
    if verb == "inspect":
        inspect(InspectPlan.model_validate_json(paths["plan"].read_bytes()), paths["out"])
        return
    plan = TrainPlan.model_validate_json(paths["plan"].read_bytes())
    if "abort_together" in behaviour and len(plan.runs) > 1:
        os.kill(os.getpid(), signal.SIGABRT)
    train(plan, paths, set(behaviour))


def train(plan: TrainPlan, paths: dict[str, Path], behaviour: set[str]) -> None:
    if "hungry" in behaviour:
        # Filled, so that it is really there.
        _eaten = b"x" * (768 << 20)
    runs = [Training(run, plan.compute, paths["inputs"], paths["out"], behaviour=behaviour) for run in plan.runs]
    while runs:
        runs = [run for run in runs if run.advance()]


def wait_for_order(inputs: Path, behaviour: list[str]) -> dict[str, Path]:
    if "abort_warm" in behaviour:
        os.kill(os.getpid(), signal.SIGABRT)
    while not (inputs / ORDER).exists():
        time.sleep(0.01)
    if "abort_ordered" in behaviour:
        os.kill(os.getpid(), signal.SIGABRT)
    if "mute_ordered" in behaviour:
        signal.pause()
    order = Order.model_validate_json((inputs / ORDER).read_bytes())
    return {"plan": order.plan, "inputs": order.inputs, "out": order.out}


def calibrate(out: Path) -> None:
    report = CalibrateReport(
        token_budget=384, peak_flops=5e11, passes=(CalibratedPass(tokens=384, tokens_per_s=500.0),),
        precision=Precision.FP32, device=Device.CPU, hardware="pretended",
    )  # fmt: skip
    (out / "report.json").write_text(report.model_dump_json())


def inspect(plan: InspectPlan, out: Path) -> None:
    counted = [
        InspectedFile(
            file=name, rows=1, tokens=10, supervised_tokens=1, longest_row_tokens=10, too_long_rows=0,
            untrainable_rows=0,
        )
        for name in plan.files
    ]  # fmt: skip
    (out / "report.json").write_text(InspectReport(files=tuple(counted), problems=()).model_dump_json())


class Training:
    """One run: `advance` takes a step."""

    def __init__(self, plan: RunPlan, compute: Compute, inputs: Path, out: Path, *, behaviour: set[str]) -> None:
        self.plan, self.compute, self.control, self.behaviour = plan, compute, out / "control.jsonl", behaviour
        self.inputs, self.out = inputs / plan.run, out / plan.run
        self.total = plan.spec.total_steps
        (self.out / "checkpoints").mkdir(parents=True)
        # Each step adds its number: a run that was resumed comes to the same state as one that was not.
        self.step, self.state = plan.resume_step or 0, 0
        if self.step:
            self.state = json.loads((self.inputs / "checkpoint" / "state.json").read_text())

    def advance(self) -> bool:
        """Take a step, or end; whether there is more to do."""
        if self.plan.resume_step and "bad_checkpoint" in self.behaviour:
            self.write("failure.json", RunFailure(kind=FailureKind.BAD_CHECKPOINT, message="It does not fit."))
            return False
        if self.must_stop():
            self.checkpoint()
            self.write("stopped.json", RunStopped(run=self.plan.run, step=self.step))
            return False
        self.step, self.state = self.step + 1, self.state + self.step + 1
        self.tell("train", self.step)
        if "slow" in self.behaviour:
            time.sleep(0.1)
        if "abort_late" in self.behaviour and self.step == 2:
            os.kill(os.getpid(), signal.SIGABRT)
        if "non_finite" in self.behaviour:
            failure = RunFailure(kind=FailureKind.NON_FINITE_LOSS, message="The loss is no number.", step=self.step)
            self.write("failure.json", failure)
            return False
        if "lost_rank" in self.behaviour:
            self.write("failure.json", RunFailure(kind=FailureKind.CRASH, message="Rank 1 of 2 died."))
            sys.exit(1)
        if self.step == self.total:
            self.finish()
            return False
        if self.step % self.plan.spec.checkpoint_every_steps == 0:
            self.checkpoint()
            if "abort_after_checkpoint" in self.behaviour:
                os.kill(os.getpid(), signal.SIGABRT)
        return True

    def must_stop(self) -> bool:
        """Whether somebody has ordered this run's end."""
        if not self.control.exists():
            return False
        orders = map(ControlRecord.model_validate_json, self.control.read_text().splitlines())
        return any(order.op == "stop" and order.run == self.plan.run for order in orders)

    def tell(self, kind: str, step: int) -> None:
        record = ProgressRecord(kind=kind, run=self.plan.run, step=step, total_steps=self.total, loss=1.0)
        with (self.out / "progress.jsonl").open("a") as stream:
            stream.write(record.model_dump_json(exclude_none=True) + "\n")

    def checkpoint(self) -> None:
        step = self.step
        folder = self.out / "checkpoints" / f"step-{step:06d}"
        if step == 0 or folder.exists():
            return
        folder.mkdir()
        (folder / "state.json").write_text(json.dumps(self.state))
        manifest = EngineManifest(
            run=self.plan.run, step=step, trained_tokens=1, supervised_tokens=1, train_s=1, spec=self.plan.spec,
            compute=self.compute, base_model_digest=self.plan.spec.base_model_digest, versions={},
        )  # fmt: skip
        written = manifest.model_dump_json()
        if "former" in self.behaviour:
            written = written.replace('"token_budget"', '"micro_batch_tokens"')
        (folder / "checkpoint.json").write_text(written)
        (folder / "COMPLETE").write_text(manifest_of_tree(folder).model_dump_json())

    def finish(self) -> None:
        (self.out / "adapter").mkdir()
        (self.out / "adapter" / "state.json").write_text(json.dumps(self.state))
        report = RunReport(
            run=self.plan.run, steps=self.total, trained_tokens=1, supervised_tokens=1, train_s=1, tokens_per_s=1,
            final_train_loss=1, validation_loss=None, validation_token_accuracy=None, trainable_parameters=1,
            total_parameters=1, peak_memory_bytes=1, estimated_memory_bytes=1, precision=Precision.FP32,
            device=Device.CPU, path=PathChoice.FAST, token_budget=self.compute.token_budget, world_size=1,
            skipped_rows=0, versions={},
        )  # fmt: skip
        self.write("report.json", report)

    def write(self, name: str, value: RunReport | RunStopped | RunFailure) -> None:
        (self.out / f".{name}").write_text(value.model_dump_json())
        (self.out / f".{name}").rename(self.out / name)


if __name__ == "__main__":
    main(sys.argv[1:])
