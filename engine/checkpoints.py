"""Checkpoints: all a run needs to go on as if it had never stopped.

A checkpoint is complete if and only if it holds COMPLETE, which lists the digest of every other file. Tensors are
safetensors and the rest is JSON: reading one runs no code.
"""

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from domain.digests import Manifest, manifest_of_tree
from domain.plans import Compute, EngineManifest, RunPlan
from engine.adapters import WEIGHTS, Adapter, write_tensors
from engine.atomic import sync, write_json
from engine.distributed import Ranks
from engine.failures import BadCheckpoint
from engine.optimiser import optimiser_tensors, restore_optimiser
from engine.randomness import restore_random_state, save_random_state

COMPLETE = "COMPLETE"
MANIFEST = "checkpoint.json"
OPTIMISER = "optimiser.safetensors"
KEEP = 2


def write_checkpoint(
    checkpoints: Path, manifest: EngineManifest, adapter: Adapter, optimiser: torch.optim.Optimizer, *, ranks: Ranks
) -> None:
    """Write checkpoints/step-NNNNNN and remove all but the latest two. Collective."""
    final = checkpoints / f"step-{manifest.step:06d}"
    unfinished = checkpoints / f".{final.name}"
    if ranks.leads:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    ranks.wait()
    save_random_state(unfinished, ranks.rank)
    ranks.wait()
    if ranks.leads:
        write_tensors(adapter.weights(), unfinished / WEIGHTS)
        write_tensors(optimiser_tensors(optimiser, adapter.parameters), unfinished / OPTIMISER)
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


def read_manifest(folder: Path, plan: RunPlan, compute: Compute) -> EngineManifest:
    """Check a checkpoint's files, and that it is of this run: same specification, compute and base model.

    Raises BadCheckpoint. Every rank reads every file, so all of them agree.
    """
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
    return manifest


def restore(folder: Path, adapter: Adapter, optimiser: torch.optim.Optimizer, *, ranks: Ranks) -> None:
    """Set weights, optimiser and this rank's random states from a checkpoint that `read_manifest` accepted."""
    try:
        adapter.load_weights(folder / WEIGHTS)
        restore_optimiser(optimiser, adapter.parameters, load_file(folder / OPTIMISER))
        restore_random_state(folder, ranks.rank)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BadCheckpoint("The checkpoint does not fit the run's adapter.") from error
