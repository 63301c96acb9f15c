"""Checkpoints: all a run needs to go on as if it had never stopped.

A checkpoint is complete if and only if it holds COMPLETE, which lists the digest of every other file. Tensors are
safetensors and the rest is JSON: reading one runs no code. Random states are not in it: the order of the rows and the
masks of dropout are functions of the seed and the step.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from domain.digests import Manifest, manifest_of_tree
from domain.plans import Compute, EngineManifest, RunPlan
from engine.adapter import Adapter
from engine.atomic import sync, write_json
from engine.failures import BadCheckpoint
from engine.optimiser import AdamW
from engine.tensors import write_tensors

COMPLETE = "COMPLETE"
MANIFEST = "checkpoint.json"
WEIGHTS = "adapter_model.safetensors"
STARTS = "starts.safetensors"
OPTIMISER = "optimiser.safetensors"
KEEP = 2


def write_checkpoint(checkpoints: Path, manifest: EngineManifest, adapter: Adapter, optimiser: AdamW) -> None:
    """Write checkpoints/step-NNNNNN and remove all but the latest two."""
    final = checkpoints / f"step-{manifest.step:06d}"
    unfinished = checkpoints / f".{final.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write_tensors(adapter.weights(), unfinished / WEIGHTS)
    if adapter.starts:
        write_tensors(adapter.starts, unfinished / STARTS)
    write_tensors(optimiser.tensors, unfinished / OPTIMISER)
    write_json(unfinished / MANIFEST, manifest)
    _publish(unfinished, final)
    _remove_old(checkpoints)


def _publish(unfinished: Path, final: Path) -> None:
    # A run that resumed may come to a step it had written before.
    shutil.rmtree(final, ignore_errors=True)
    sync(unfinished)
    unfinished.rename(final)
    sync(final.parent)
    write_json(final / COMPLETE, manifest_of_tree(final))


def _remove_old(checkpoints: Path) -> None:
    complete = sorted(path for path in checkpoints.glob("step-*") if (path / COMPLETE).exists())
    for path in complete[:-KEEP]:
        # Without COMPLETE first: a half-removed checkpoint must not look like one.
        (path / COMPLETE).unlink()
        shutil.rmtree(path)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been checked: its files are those that were written, for this run."""

    folder: Path
    manifest: EngineManifest

    @classmethod
    def read(cls, folder: Path, plan: RunPlan, compute: Compute) -> "Checkpoint":
        """Check files, specification, compute settings and step. Raises BadCheckpoint, on every rank alike."""
        try:
            listed = Manifest.model_validate_json((folder / COMPLETE).read_bytes())
            found = tuple(file for file in manifest_of_tree(folder).files if file.path != COMPLETE)
            manifest = EngineManifest.model_validate_json((folder / MANIFEST).read_bytes())
        except (OSError, ValueError) as error:
            raise BadCheckpoint("The checkpoint is incomplete.") from error
        if found != listed.files:
            raise BadCheckpoint("The checkpoint's files are not those that were written.")
        if manifest.spec != plan.spec or manifest.step != plan.resume_step:
            raise BadCheckpoint("The checkpoint belongs to another specification or step.")
        if manifest.compute != compute:
            raise BadCheckpoint("The checkpoint was made with other compute settings.")
        return cls(folder, manifest)

    def starts(self) -> dict[str, torch.Tensor]:
        """What the adapter's start was, where it was not zero."""
        path = self.folder / STARTS
        return load_file(path) if path.exists() else {}

    def restore(self, adapter: Adapter, optimiser: AdamW) -> None:
        """Set weights and optimiser; the adapter has begun from `starts`. Raises BadCheckpoint."""
        try:
            adapter.load_weights(load_file(self.folder / WEIGHTS))
            optimiser.load(load_file(self.folder / OPTIMISER))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise BadCheckpoint("The checkpoint does not fit the run's adapter.") from error
