"""What a run is given, fetched by digest into the folder its ranks read."""

import logging
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from domain.digests import Digest
from domain.plans import EngineManifest
from runtime.wiring import Runtime
from services import leases
from services.claims import Claim, ResumePoint
from storage.errors import DigestMismatch, ObjectMissing
from storage.keys import Key
from workers import verdicts
from workers.base_model_cache import cached_folder
from workers.checkpoints import fetch_checkpoint
from workers.patience import Patience
from workers.verdicts import Ended

log = logging.getLogger(__name__)

BASE_MODEL = "base_model"
CHECKPOINT_MANIFEST = "checkpoint.json"
PARENT_WITHDRAWN = "parent_withdrawn"


def link_base_model(runtime: Runtime, held: Claim, inputs: Path, patience: Patience) -> None:
    """Have the base model at inputs/base_model, by way of the node's cache. Raises ObjectMissing, DigestMismatch."""
    cached = cached_folder(runtime.settings.cache_dir, held.base_model, runtime.objects, patience)
    (inputs / BASE_MODEL).symlink_to(cached)


def fetch_rows(runtime: Runtime, held: Claim, rows: Mapping[Path, Digest | None], patience: Patience) -> None:
    """Write row files; one without a digest is not part of the run. Raises ObjectMissing, DigestMismatch."""
    for path, digest in rows.items():
        if digest is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            patience.fetch(runtime.objects, Key.blob(held.department, digest), path, digest)


def fetch_parent(runtime: Runtime, held: Claim, to: Path, patience: Patience) -> None:
    """Write the adapter that a job begins with. Raises Ended where it was withdrawn, ObjectMissing, DigestMismatch."""
    if held.parent is None:
        return
    if not held.parent.is_usable:
        raise Ended(verdicts.failed(held, PARENT_WITHDRAWN, "The version that the job continues from was withdrawn."))
    files = {to / file.path: file.digest for file in held.parent.manifest.files}
    fetch_rows(runtime, held, files, patience)


def fetch_resume_point(runtime: Runtime, held: Claim, to: Path, patience: Patience) -> ResumePoint | None:
    """Write the newest checkpoint that can be gone on from: its bytes are right, and its manifest is of our format.

    None to start from the beginning. Raises LeaseLost.
    """
    resume = held.resume
    while resume is not None:
        try:
            fetch_checkpoint(runtime, held, resume, to=to, patience=patience)
            read_checkpoint(to)
        except (ObjectMissing, DigestMismatch, ValidationError) as error:
            reason = type(error).__name__
            log.warning("job %s: the checkpoint of step %d cannot be used (%s)", held.job, resume.step, reason)
            shutil.rmtree(to, ignore_errors=True)
            resume = patience.insist(partial(_reject, runtime, held, resume))
        else:
            return resume
    return None


def read_checkpoint(folder: Path) -> EngineManifest:
    """What a checkpoint remembers. Raises ValidationError: an engine of another version wrote it in another form."""
    return EngineManifest.model_validate_json((folder / CHECKPOINT_MANIFEST).read_bytes())


def _reject(runtime: Runtime, held: Claim, damaged: ResumePoint) -> ResumePoint | None:
    with runtime.department(held.department) as session:
        return leases.reject_checkpoint(session, held, damaged)
