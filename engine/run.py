"""One adapter being trained: its rows, weights, optimiser and figures, on this rank."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from domain.plans import Compute, EngineManifest, RunPlan, RunReport
from engine.adapters import Adapter, adapter_on, export_adapter
from engine.base_model import BaseModel
from engine.batches import rows_of_step
from engine.chat import ChatTokenizer
from engine.checkpoints import read_manifest, restore, write_checkpoint
from engine.distributed import Ranks
from engine.failures import RunFailed
from engine.items import LoadedBase
from engine.machine import peak_memory_bytes, versions
from engine.optimiser import build_optimiser, learning_rate_at
from engine.randomness import seed_everything
from engine.rows import load_rows
from engine.step import Measure, Step, fix_reduction_order, measure_loss, optimise
from engine.tokenise import TokenisedRow


@dataclass(frozen=True)
class Rows:
    """What the run learns from and is validated on."""

    train: list[TokenisedRow]
    validation: list[TokenisedRow]
    skipped: int


@dataclass
class Run:
    """A run between two steps. Its methods are collective unless they say otherwise."""

    plan: RunPlan
    compute: Compute
    ranks: Ranks
    base: BaseModel
    adapter: Adapter
    network: nn.Module
    optimiser: torch.optim.Optimizer
    rows: Rows
    step: int = 0
    trained_tokens: int = 0
    supervised_tokens: int = 0
    train_s: float = 0.0
    last_loss: float = 0.0
    last_validation: Measure | None = None
    # What this process has done, for its speed; a resumed run's totals include earlier processes'.
    _begun: tuple[int, float] = field(default=(0, 0.0))

    @classmethod
    @contextmanager
    def prepare(
        cls, plan: RunPlan, inputs: Path, compute: Compute, *, loaded: LoadedBase, ranks: Ranks
    ) -> Iterator["Run"]:
        """Read the rows, put an adapter on the base and, to resume, set everything to the checkpoint's state."""
        spec, folder, base = plan.spec, inputs / plan.run, loaded.base
        manifest = read_manifest(folder / "checkpoint", plan, compute) if plan.resume_step else None
        rows = _load_rows(plan, folder, loaded.chat)
        base.attend_to(max(len(row.ids) for row in rows.train))
        # The same weights on every rank, then draws of its own for dropout.
        seed_everything(spec.seed)
        with adapter_on(base, spec.lora) as adapter:
            network = ranks.share_gradients(adapter.network)
            network.train()
            fix_reduction_order(network, base)
            seed_everything(spec.seed, ranks.rank)
            optimiser = build_optimiser(adapter.parameters.values(), spec.optimiser)
            run = cls(plan, compute, ranks, base, adapter, network, optimiser, rows)
            if manifest:
                restore(folder / "checkpoint", adapter, optimiser, ranks=ranks)
                run._restore_figures(manifest)
            yield run

    def _restore_figures(self, manifest: EngineManifest) -> None:
        self.step, self.train_s = manifest.step, manifest.train_s
        self.trained_tokens, self.supervised_tokens = manifest.trained_tokens, manifest.supervised_tokens
        self._begun = (self.trained_tokens, self.train_s)

    @property
    def has_validation(self) -> bool:
        """Whether there are rows to validate on."""
        return bool(self.rows.validation)

    def train_step(self) -> dict[str, Any]:
        """Take one optimiser step; its figures as ProgressRecord's fields."""
        started, spec = time.monotonic(), self.plan.spec
        chosen = rows_of_step(self.step, len(self.rows.train), batch_size=spec.batch_size, seed=spec.seed)
        batch = [self.rows.train[place] for place in chosen]
        rate = learning_rate_at(self.step, spec.total_steps, spec.optimiser)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        try:
            step = optimise(self._step(), batch, clip_norm=spec.optimiser.clip_norm)
        except RunFailed as failure:
            failure.step = self.step
            raise
        self.step += 1
        self.trained_tokens += sum(len(row.ids) for row in batch)
        self.supervised_tokens += step.measure.supervised_tokens
        self.train_s += time.monotonic() - started
        self.last_loss = step.measure.loss
        return {
            "step": self.step,
            "loss": step.measure.loss,
            "token_accuracy": step.measure.token_accuracy,
            "learning_rate": rate,
            "grad_norm": step.grad_norm,
            "trained_tokens": self.trained_tokens,
            "tokens_per_s": self._tokens_per_s(),
            "eta_s": self.train_s / self.step * (spec.total_steps - self.step),
        }

    def _step(self) -> Step:
        return Step(self.network, self.base, self.optimiser, self.ranks, self.compute.token_budget)

    def _tokens_per_s(self) -> float:
        tokens, seconds = self._begun
        return (self.trained_tokens - tokens) / max(self.train_s - seconds, 1e-9)

    def validate(self) -> dict[str, Any]:
        """Measure the loss over all validation rows; the figures as ProgressRecord's fields."""
        measure = self.last_validation = measure_loss(
            self.adapter.network,
            self.base,
            self.rows.validation,
            ranks=self.ranks,
            token_budget=self.compute.token_budget,
        )
        return {"step": self.step, "loss": measure.loss, "token_accuracy": measure.token_accuracy}

    def checkpoint(self, checkpoints: Path) -> int:
        """Write a checkpoint of this moment; its step."""
        manifest = EngineManifest(
            run=self.plan.run,
            step=self.step,
            trained_tokens=self.trained_tokens,
            supervised_tokens=self.supervised_tokens,
            train_s=self.train_s,
            spec=self.plan.spec,
            compute=self.compute,
            base_model_digest=self.plan.spec.base_model_digest,
            versions=versions(),
        )
        write_checkpoint(checkpoints, manifest, self.adapter, self.optimiser, ranks=self.ranks)
        return self.step

    def export(self, folder: Path) -> None:
        """Write the adapter in PEFT's format. For rank 0 alone."""
        export_adapter(self.adapter, folder, base_model=self.plan.spec.base_model)

    def report(self) -> RunReport:
        """How the run went."""
        parameters = sum(weight.numel() for weight in self.adapter.parameters.values())
        (peak,) = self.ranks.largest(peak_memory_bytes(self.ranks.device))
        validation = self.last_validation
        return RunReport(
            run=self.plan.run,
            steps=self.step,
            trained_tokens=self.trained_tokens,
            supervised_tokens=self.supervised_tokens,
            train_s=self.train_s,
            tokens_per_s=self._tokens_per_s(),
            final_train_loss=self.last_loss,
            validation_loss=validation.loss if validation else None,
            validation_token_accuracy=validation.token_accuracy if validation else None,
            trainable_parameters=parameters,
            total_parameters=sum(weight.numel() for weight in self.base.network.parameters()),
            peak_memory_bytes=int(peak),
            precision=self.compute.precision,
            device=self.compute.device,
            world_size=self.ranks.world_size,
            skipped_rows=self.rows.skipped,
            versions=versions(),
        )


def _load_rows(plan: RunPlan, folder: Path, chat: ChatTokenizer) -> Rows:
    data = plan.spec.data
    train, skipped = load_rows(folder / "train.jsonl", chat, data.max_seq_len, data.too_long)
    if data.validation is None:
        return Rows(train, [], skipped)
    validation, also_skipped = load_rows(folder / "validation.jsonl", chat, data.max_seq_len, data.too_long)
    return Rows(train, validation, skipped + also_skipped)
