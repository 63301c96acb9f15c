"""The train worker's work: claim the next jobs, attempt them, write down how each ended."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from domain.failpoints import FailPoint, failpoint
from domain.refusals import LeaseLost
from domain.usage import Rate
from runtime.scratch import scratch_folder
from runtime.wiring import Runtime
from services import claims
from services.blobs import BytesErased
from services.claims import Batching, Claim
from workers import verdicts
from workers.attempt import Attempt
from workers.calibration import Calibrations
from workers.engine_process import Launcher
from workers.fence import Fence
from workers.patience import Patience
from workers.presence import Presence
from workers.verdicts import Verdict
from workers.warm import WarmEngine

log = logging.getLogger(__name__)

LOOK_S = 0.5


@dataclass
class Worker:
    """One process that trains. When `stop` is set, its run writes a checkpoint and goes back to the queue.

    `warm` holds a process between jobs: whoever ends a worker closes it. Without `presence` it is in no registry, and
    nobody can drain it.
    """

    runtime: Runtime
    name: str
    stop: threading.Event
    launcher: Launcher = field(default_factory=Launcher)
    presence: Presence | None = None
    warm: WarmEngine = field(init=False)
    calibrations: Calibrations = field(init=False)

    def __post_init__(self) -> None:
        settings = self.runtime.settings
        self.launcher = replace(self.launcher, work_dir=settings.work_dir)
        self.warm = WarmEngine(settings, self.launcher)
        self.calibrations = Calibrations(settings, self.launcher)

    def run_next(self) -> bool:
        """Run the job whose turn it is, small ones together; whether there was one. From the main thread only."""
        if self.stop.is_set():
            return False
        worker_id = self.presence.registered() if self.presence else None
        settings, claimed_at = self.runtime.settings, time.monotonic()
        with self.runtime.platform() as session:
            held = claims.claim_next(
                session,
                worker=self.name,
                rate=self._rate,
                lease_s=settings.lease_s,
                half_life_s=settings.fair_share_half_life_s,
                worker_id=worker_id,
                batching=Batching(settings.batch_jobs, settings.batch_max_tokens),
            )
        if not held:
            return False
        failpoint(FailPoint.CLAIM_COMMITTED)
        with Fence(self.runtime, held, claimed_at=claimed_at) as fence:
            self._run(held, fence)
        # Not before the lease is given back: until then an evaluation may want the memory.
        if not self.stop.is_set():
            self.warm.start()
        return True

    def is_draining(self) -> bool:
        """Whether the operator wants this worker to take no job, asked of the registry now."""
        return self.presence is not None and self.presence.look().draining

    def sit_out(self) -> None:
        """Wait until the worker may take jobs again, or is to stop."""
        while self.presence and self.presence.draining and not self.stop.is_set():
            # No waiting on `stop`: the handler that sets it runs in this thread.
            time.sleep(LOOK_S)

    @property
    def _rate(self) -> Rate:
        settings = self.runtime.settings
        device = self.presence.device if self.presence else None
        return Rate(ranks=settings.ranks, device=device, price_per_gpu_hour=settings.price_per_gpu_hour)

    def _run(self, held: Sequence[Claim], fence: Fence) -> None:
        for claim in held:
            log.info(
                "job %s: claimed, epoch %d, step %d", claim.job, claim.epoch, claim.resume.step if claim.resume else 0
            )
        try:
            for claim, verdict in self._attempt(held, fence):
                self._insist(claim, fence, verdict)
        except LeaseLost:
            # Whoever holds the jobs now decides.
            jobs = ", ".join(str(claim.job) for claim in held)
            log.warning("jobs %s: ended without the lease; no more is written", jobs)

    def _attempt(self, held: Sequence[Claim], fence: Fence) -> Iterator[tuple[Claim, Verdict]]:
        """Each job with how it ended. What befalls the attempt as a whole befalls all that had not ended."""
        left = list(held)
        try:
            with scratch_folder(self.runtime.settings.work_dir, held[0].job.hex) as folder:
                attempt = Attempt(
                    self.runtime,
                    held,
                    fence,
                    stop=self.stop,
                    launcher=self.launcher,
                    warm=self.warm,
                    calibrations=self.calibrations,
                    folder=folder,
                )
                for claim, verdict in attempt.run():
                    left.remove(claim)
                    yield claim, verdict
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 - the edge: whatever is wrong with some jobs, the worker goes on
            for claim in left:
                yield claim, verdicts.of_error(claim, error, asked=fence.asked(claim.job))

    def _insist(self, held: Claim, fence: Fence, verdict: Verdict) -> None:
        try:
            Patience(fence.pause).insist(partial(self._write_down_or_release, held, fence, verdict))
        except LeaseLost:
            fence.check()
            # The others' are alive. If only the answer to a commit was lost, the next try finds this: it is the truth.
            log.warning("job %s: epoch %d had ended already", held.job, held.epoch)

    def _write_down_or_release(self, held: Claim, fence: Fence, verdict: Verdict) -> None:
        try:
            self._write_down(held, fence, verdict)
        except BytesErased:
            # The adapter is made, and stored, once more; a blob's erasing at just this moment is rare enough for that.
            log.warning("job %s: the adapter's files may have been erased; the job is given back", held.job)
            self._write_down(held, fence, verdicts.released(held))

    def _write_down(self, held: Claim, fence: Fence, verdict: Verdict) -> None:
        fence.check()
        fence.let_go(held.job)
        with self.runtime.department(held.department) as session:
            verdict(session)
        failpoint(FailPoint.VERDICT_COMMITTED)
