"""Checkpoints between the ranks' folder and storage."""

import logging
import os
import shutil
import time
from pathlib import Path

from pydantic import ValidationError

from domain.digests import Manifest, manifest_of_tree
from domain.failpoints import FailPoint, failpoint
from runtime.wiring import Runtime
from services import leases
from services.claims import Claim, ResumePoint
from storage.errors import StorageUnavailable
from storage.keys import Key
from workers.fence import Fence
from workers.patience import AWAY, Patience
from workers.progress import ProgressReport
from workers.retention import erase_checkpoints

log = logging.getLogger(__name__)

COMPLETE = "COMPLETE"
RETRY_AFTER_S = 5.0


class CheckpointUploads:
    """Puts the newest complete checkpoint of a run into storage, then into its job."""

    def __init__(
        self,
        runtime: Runtime,
        held: Claim,
        fence: Fence,
        *,
        report: ProgressReport,
        resumed_from: int,
        checkpoints: Path,
        links: Path,
    ) -> None:
        self._runtime, self._held, self._fence, self._report = runtime, held, fence, report
        self._checkpoints, self._links = checkpoints, links
        self._uploaded = resumed_from
        self._not_before = 0.0

    def follow(self) -> None:
        """Upload what is new. While the store or the database is away the run goes on; it is tried again later."""
        if time.monotonic() < self._not_before:
            return
        try:
            self.upload_newest()
        except AWAY as error:
            log.warning("job %s: a checkpoint waits to be stored (%s)", self._held.job, type(error).__name__)
            self._not_before = time.monotonic() + RETRY_AFTER_S

    def upload_newest(self) -> None:
        """Upload the newest checkpoint unless that is done. Of several since the last time only the newest counts."""
        step = max((int(path.parent.name.removeprefix("step-")) for path in self._complete()), default=0)
        if step <= self._uploaded or (linked := self._link(step)) is None:
            return
        folder, manifest = linked
        failpoint(FailPoint.CHECKPOINT_BEFORE_UPLOAD)
        for file in manifest.files:
            self._fence.check()
            key = checkpoint_key(self._held, self._held.epoch, step, file.path)
            self._runtime.objects.put(key, folder / file.path, file.digest, file.bytes)
        failpoint(FailPoint.CHECKPOINT_UPLOADED)
        # Every object is there before the row is: an object without a row is waste, a row without its object is a lie.
        metrics = self._report.metrics_at(step)
        with self._runtime.department(self._held.department) as session:
            outlived = leases.record_checkpoint(session, self._held, step=step, manifest=manifest, metrics=metrics)
        failpoint(FailPoint.CHECKPOINT_COMMITTED)
        self._uploaded = step
        shutil.rmtree(folder, ignore_errors=True)
        try:
            erase_checkpoints(self._runtime, outlived)
        except StorageUnavailable:
            # The new one is stored all the same. No row names the old one's objects any more: they are swept.
            log.warning("job %s: the objects of an older checkpoint are left to the sweeper", self._held.job)

    def _complete(self) -> list[Path]:
        return list(self._checkpoints.glob(f"step-*/{COMPLETE}"))

    def _link(self, step: int) -> tuple[Path, Manifest] | None:
        """The checkpoint under links, as the ranks remove all but their latest two while we upload."""
        name = f"step-{step:06d}"
        links = self._links / name
        shutil.rmtree(links, ignore_errors=True)
        try:
            shutil.copytree(self._checkpoints / name, links, copy_function=os.link)
            listed = Manifest.model_validate_json((links / COMPLETE).read_bytes())
        except (OSError, shutil.Error, ValidationError):
            return None
        manifest = manifest_of_tree(links)
        return (links, manifest) if set(listed.files) <= set(manifest.files) else None


def checkpoint_key(held: Claim, epoch: int, step: int, name: str) -> Key:
    """Where a file of a checkpoint lives; epoch is that of the worker that wrote it."""
    return Key.checkpoint(held.department, held.job, epoch=epoch, step=step, name=name)


def fetch_checkpoint(runtime: Runtime, held: Claim, resume: ResumePoint, *, to: Path, patience: Patience) -> None:
    """Write a checkpoint's files below a new folder. Raises ObjectMissing or DigestMismatch."""
    for file in resume.manifest.files:
        path = to / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        key = checkpoint_key(held, resume.epoch, resume.step, file.path)
        patience.fetch(runtime.objects, key, path, file.digest)
