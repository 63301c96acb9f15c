"""One adapter being trained: its rows, weights, optimiser and figures, on a rank that has it."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain.plans import Compute, EngineManifest, PathChoice, RunReport
from engine import exports
from engine.adapter import Adapter
from engine.checkpoints import Checkpoint, write_checkpoint
from engine.distributed import Ranks
from engine.machine import peak_memory_bytes, versions
from engine.optimiser import AdamW, LossScale, learning_rate_at
from engine.path import Path as ComputePath
from engine.rows import Rows
from engine.schedule import Member
from engine.step import Measure, Stepped, Stepping, Tick, measure_loss
from engine.stream import derive_seed


@dataclass
class Run:
    """A run between two steps. `validate` is collective where all ranks share the run."""

    member: Member
    compute: Compute
    ranks: Ranks
    path: ComputePath
    path_choice: PathChoice
    adapter: Adapter
    rows: Rows
    base_parameters: int
    estimated_bytes: int
    trained_tokens: int = 0
    supervised_tokens: int = 0
    train_s: float = 0.0
    last_loss: float = 0.0
    last_validation: Measure | None = None
    optimiser: AdamW = field(init=False)
    loss_scale: LossScale = field(init=False)
    # What this process has done, for its speed; a resumed run's totals include earlier processes'.
    _begun: "_Begun" = field(init=False)

    def __post_init__(self) -> None:
        spec = self.member.plan.spec
        self.optimiser = AdamW(self.adapter, spec.optimiser)
        self.loss_scale = LossScale.for_precision(self.compute.precision)
        self._begun = _Begun(time.monotonic(), self.member.step, self.trained_tokens, self.train_s)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Set everything to a checkpoint's state. Raises BadCheckpoint."""
        manifest = checkpoint.manifest
        checkpoint.restore(self.adapter, self.optimiser)
        self.loss_scale = LossScale(manifest.loss_scale, manifest.good_steps)
        self.trained_tokens, self.supervised_tokens = manifest.trained_tokens, manifest.supervised_tokens
        self.train_s = manifest.train_s
        self._begun = _Begun(time.monotonic(), manifest.step, self.trained_tokens, self.train_s)

    @property
    def writes(self) -> bool:
        """Whether this rank writes the run's files."""
        return self.ranks.rank == (self.member.owner or 0)

    @property
    def shared(self) -> bool:
        """Whether all ranks train it together."""
        return self.member.owner is None

    def next_step(self) -> Stepping:
        """What its next step works with."""
        spec, step = self.member.plan.spec, self.member.step
        return Stepping(
            adapter=self.adapter,
            optimiser=self.optimiser,
            loss_scale=self.loss_scale,
            clip_norm=spec.optimiser.clip_norm,
            batch=self.member.batch(),
            learning_rate=learning_rate_at(step, spec.total_steps, spec.optimiser),
            seed=derive_seed(spec.seed, step),
            shared=self.shared,
        )

    def account(self, stepping: Stepping, stepped: Stepped, tick: Tick, seconds: float) -> dict[str, Any]:
        """Count a step that was taken; its figures as ProgressRecord's fields. `seconds`: of the whole tick."""
        member, spec = self.member, self.member.plan.spec
        self.trained_tokens += sum(len(row.ids) for row in stepping.batch)
        self.supervised_tokens += stepped.measure.supervised_tokens
        self.train_s += seconds
        self.last_loss = stepped.measure.loss
        return {
            "step": member.step + 1,
            "loss": stepped.measure.loss,
            "token_accuracy": stepped.measure.token_accuracy,
            "learning_rate": stepping.learning_rate,
            "grad_norm": stepped.grad_norm,
            "trained_tokens": self.trained_tokens,
            "tokens_per_s": self._tokens_per_s(),
            "step_s": seconds,
            "mfu": self._mfu(tick, seconds),
            "padding_ratio": tick.computed_tokens / tick.tokens if tick.tokens else None,
            "memory_bytes": peak_memory_bytes(self.path.device),
            "eta_s": self._begun.seconds_a_step(member.step + 1) * (spec.total_steps - member.step - 1),
        }

    def _mfu(self, tick: Tick, seconds: float) -> float | None:
        """This rank's; its peers do the same kind of work in the same time."""
        if self.compute.peak_flops is None:
            return None
        return self.path.flops(tick.tokens, tick.supervised_tokens) / seconds / self.compute.peak_flops

    def _tokens_per_s(self) -> float:
        return (self.trained_tokens - self._begun.trained_tokens) / max(self.train_s - self._begun.train_s, 1e-9)

    def validate(self) -> dict[str, Any]:
        """Measure the loss over all validation rows; the figures as ProgressRecord's fields."""
        measure = self.last_validation = measure_loss(
            self.path,
            self.adapter,
            self.rows.validation,
            shared=self.shared,
            ranks=self.ranks,
            token_budget=self.compute.token_budget,
        )
        return {"step": self.member.step, "loss": measure.loss, "token_accuracy": measure.token_accuracy}

    def checkpoint(self, checkpoints: Path) -> int:
        """Write a checkpoint of this moment; its step. For the rank that writes."""
        spec, member = self.member.plan.spec, self.member
        manifest = EngineManifest(
            run=member.run,
            step=member.step,
            turn=member.turn,
            trained_tokens=self.trained_tokens,
            supervised_tokens=self.supervised_tokens,
            train_s=self.train_s,
            loss_scale=self.loss_scale.value,
            good_steps=self.loss_scale.good_steps,
            spec=spec,
            compute=self.compute,
            base_model_digest=spec.base_model_digest,
            versions=versions(),
        )
        write_checkpoint(checkpoints, manifest, self.adapter, self.optimiser)
        return member.step

    def export(self, folder: Path, base_model: Path) -> None:
        """Write what was trained, in its method's format. For the rank that writes."""
        exports.export(self.adapter, self.path, folder, spec=self.member.plan.spec, base_model=base_model)

    def report(self) -> RunReport:
        """How the run went. For the rank that writes."""
        validation = self.last_validation
        return RunReport(
            run=self.member.run,
            steps=self.member.step,
            trained_tokens=self.trained_tokens,
            supervised_tokens=self.supervised_tokens,
            train_s=self.train_s,
            tokens_per_s=self._tokens_per_s(),
            final_train_loss=self.last_loss,
            validation_loss=validation.loss if validation else None,
            validation_token_accuracy=validation.token_accuracy if validation else None,
            trainable_parameters=self.adapter.parameters,
            total_parameters=self.base_parameters + self.adapter.parameters,
            peak_memory_bytes=peak_memory_bytes(self.path.device),
            estimated_memory_bytes=self.estimated_bytes,
            precision=self.compute.precision,
            device=self.compute.device,
            path=self.path_choice,
            token_budget=self.compute.token_budget,
            world_size=self.ranks.world_size,
            skipped_rows=self.rows.skipped,
            versions=versions(),
        )


@dataclass(frozen=True)
class _Begun:
    """Where this process began with a run."""

    at: float
    step: int
    trained_tokens: int
    train_s: float

    def seconds_a_step(self, step: int) -> float:
        """Wall time between two steps of the run, other runs' turns included."""
        return (time.monotonic() - self.at) / max(step - self.step, 1)
