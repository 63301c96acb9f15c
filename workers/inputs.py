"""What a run is given, fetched by digest into the folder its ranks read."""

import shutil
from functools import partial
from pathlib import Path

from domain.digests import Digest
from runtime.wiring import Runtime
from services import leases
from services.leases import Claim, ResumePoint
from storage.errors import DigestMismatch, ObjectMissing
from storage.keys import Key
from workers.base_model_cache import cached_folder
from workers.checkpoints import fetch_checkpoint
from workers.patience import Patience

BASE_MODEL = "base_model"


def link_base_model(runtime: Runtime, held: Claim, inputs: Path, patience: Patience) -> None:
    """Have the base model at inputs/base_model, by way of the node's cache. Raises ObjectMissing, DigestMismatch."""
    cached = cached_folder(runtime.settings.cache_dir, held.base_model, runtime.objects, patience)
    (inputs / BASE_MODEL).symlink_to(cached)


def fetch_rows(runtime: Runtime, held: Claim, rows: dict[Path, Digest | None], patience: Patience) -> None:
    """Write row files; one without a digest is not part of the run. Raises ObjectMissing, DigestMismatch."""
    for path, digest in rows.items():
        if digest is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            patience.fetch(runtime.objects, Key.blob(held.department, digest), path, digest)


def fetch_resume_point(runtime: Runtime, held: Claim, to: Path, patience: Patience) -> ResumePoint | None:
    """Write the newest checkpoint whose bytes are right; None to start from the beginning. Raises LeaseLost."""
    resume = held.resume
    while resume is not None:
        try:
            fetch_checkpoint(runtime, held, resume, to=to, patience=patience)
        except (ObjectMissing, DigestMismatch):
            shutil.rmtree(to, ignore_errors=True)
            resume = patience.insist(partial(_reject, runtime, held, resume))
        else:
            return resume
    return None


def _reject(runtime: Runtime, held: Claim, damaged: ResumePoint) -> ResumePoint | None:
    with runtime.department(held.department) as session:
        return leases.reject_checkpoint(session, held, damaged)
