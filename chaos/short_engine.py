"""An engine that trains nothing: the process contract of domain/plans.py in a few milliseconds a step.

It imports nothing but the standard library, since a thousand kills are thousands of starts of it. That it keeps to the
contract is tested with domain/plans.py itself.

What a run comes to is a chain: each step hashes its number onto what the steps before came to, beginning with the run's
name. A step that was left out, done twice or done on another run's checkpoint gives other bytes: `chain_of` says which
are right. Words before the verb: `--step-s=SECONDS` a step, `--ledger=FILE` gets a line for each step that was done.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

STATE = "state.json"
ORDER_POLL_S = 0.01


def chain_of(run: str, steps: int) -> str:
    """What a run of so many steps comes to when each was done once and in order."""
    chain = _digest(run.encode())
    for step in range(1, steps + 1):
        chain = _next(chain, step)
    return chain


def _next(chain: str, step: int) -> str:
    return _digest(f"{chain} {step}".encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main(arguments: list[str]) -> None:
    """Obey one verb."""
    words = dict(word.removeprefix("--").split("=", 1) for word in arguments if word.startswith("--"))
    (verb,) = (word for word in arguments if not word.startswith("--"))
    plan, inputs, out = Path(words["plan"]), Path(words["inputs"]), Path(words["out"])
    if verb == "warm":
        plan, inputs, out = _await_order(inputs)
        verb = "train"
    asked = json.loads(plan.read_text())
    if verb == "inspect":
        _write(out / "report.json", _inspected(asked))
    elif verb == "calibrate":
        _write(out / "report.json", CALIBRATED)
    elif verb == "train":
        for run in asked["runs"]:
            Run(run | {"compute": asked["compute"]}, inputs / run["run"], out, words).train()
    else:
        raise SystemExit(f"there is no {verb} without weights")


CALIBRATED = {
    "token_budget": 256, "peak_flops": 1e9, "passes": [{"tokens": 256, "tokens_per_s": 1.0}], "precision": "fp32",
    "device": "cpu", "hardware": "none",
}  # fmt: skip


def _await_order(inputs: Path) -> tuple[Path, Path, Path]:
    while not (inputs / "order.json").exists():
        time.sleep(ORDER_POLL_S)
    order = json.loads((inputs / "order.json").read_text())
    return Path(order["plan"]), Path(order["inputs"]), Path(order["out"])


def _inspected(plan: dict[str, Any]) -> dict[str, Any]:
    counts = {
        "rows": 1, "tokens": 10, "supervised_tokens": 1, "longest_row_tokens": 10, "too_long_rows": 0,
        "untrainable_rows": 0,
    }  # fmt: skip
    return {"files": [{"file": name} | counts for name in plan["files"]], "problems": []}


class Run:
    """One run of a plan, with the plan's way of computing."""

    def __init__(self, plan: dict[str, Any], inputs: Path, out: Path, words: dict[str, str]) -> None:
        self.plan, self.spec, self.compute, self.inputs = plan, plan["spec"], plan["compute"], inputs
        self.name, self.out, self.control = plan["run"], out / plan["run"], out / "control.jsonl"
        self.step_s, self.ledger = float(words.get("step-s", 0)), words.get("ledger")
        (self.out / "checkpoints").mkdir(parents=True)

    def train(self) -> None:
        """Go on from the checkpoint, if there is one, to the end or to an order to stop."""
        step, total = self.plan.get("resume_step") or 0, self.spec["total_steps"]
        chain = json.loads((self.inputs / "checkpoint" / STATE).read_text()) if step else chain_of(self.name, 0)
        while step < total:
            if self._stop_asked():
                if step:
                    self._checkpoint(step, chain)
                _write(self.out / "stopped.json", {"run": self.name, "step": step})
                return
            step += 1
            chain = _next(chain, step)
            time.sleep(self.step_s)
            self._tell(step, total)
            if step % self.spec["checkpoint_every_steps"] == 0 and step < total:
                self._checkpoint(step, chain)
        self._finish(chain, total)

    def _stop_asked(self) -> bool:
        if not self.control.exists():
            return False
        orders = [json.loads(line) for line in self.control.read_text().splitlines()]
        return any(order["op"] == "stop" and order["run"] == self.name for order in orders)

    def _tell(self, step: int, total: int) -> None:
        record = {"kind": "train", "run": self.name, "step": step, "total_steps": total, "loss": 1.0}
        _append(self.out / "progress.jsonl", record)
        if self.ledger:
            _append(Path(self.ledger), {"run": self.name, "process": os.getpid(), "step": step})

    def _checkpoint(self, step: int, chain: str) -> None:
        folder = self.out / "checkpoints" / f"step-{step:06d}"
        if folder.exists():
            return
        folder.mkdir()
        manifest = {
            "run": self.name, "step": step, "trained_tokens": step, "supervised_tokens": step, "train_s": 0.0,
            "spec": self.spec, "compute": self.compute, "base_model_digest": self.spec["base_model_digest"],
            "versions": {},
        }  # fmt: skip
        _write(folder / STATE, chain)
        _write(folder / "checkpoint.json", manifest)
        files = []
        for path in sorted(folder.iterdir()):
            content = path.read_bytes()
            files.append({"path": path.name, "bytes": len(content), "digest": f"sha256:{_digest(content)}"})
        _write(folder / "COMPLETE", {"files": files})

    def _finish(self, chain: str, total: int) -> None:
        (self.out / "adapter").mkdir()
        _write(self.out / "adapter" / STATE, chain)
        report = {
            "run": self.name, "steps": total, "trained_tokens": total, "supervised_tokens": total, "train_s": 1.0,
            "tokens_per_s": 1.0, "final_train_loss": 1.0, "validation_loss": None, "validation_token_accuracy": None,
            "trainable_parameters": 1, "total_parameters": 1, "peak_memory_bytes": 1, "estimated_memory_bytes": 1,
            "precision": "fp32", "device": "cpu", "path": "fast", "token_budget": self.compute["token_budget"],
            "world_size": 1, "skipped_rows": 0, "versions": {},
        }  # fmt: skip
        _write(self.out / "report.json", report)


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as stream:
        stream.write(json.dumps(record) + "\n")


def _write(path: Path, value: object) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(value))
    unfinished.rename(path)


if __name__ == "__main__":
    main(sys.argv[1:])
