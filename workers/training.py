"""The train worker's work: claim the next job, attempt it, write down how it ended."""

import logging
import threading
import time
from dataclasses import dataclass, field, replace

from domain.refusals import LeaseLost
from runtime.wiring import Runtime
from services import leases
from services.leases import Claim
from workers import verdicts
from workers.attempt import Attempt
from workers.calibration import Calibrations
from workers.engine_process import Launcher
from workers.fence import Fence
from workers.patience import Patience, StopAsked
from workers.scratch import scratch_folder
from workers.verdicts import Ended, Verdict
from workers.warm import WarmEngine

log = logging.getLogger(__name__)


@dataclass
class Worker:
    """One process that trains. When `stop` is set, its run writes a checkpoint and goes back to the queue.

    `warm` holds a process between jobs: whoever ends a worker closes it.
    """

    runtime: Runtime
    name: str
    stop: threading.Event
    launcher: Launcher = field(default_factory=Launcher)
    warm: WarmEngine = field(init=False)
    calibrations: Calibrations = field(init=False)

    def __post_init__(self) -> None:
        settings = self.runtime.settings
        self.launcher = replace(self.launcher, work_dir=settings.work_dir)
        self.warm = WarmEngine(settings, self.launcher)
        self.calibrations = Calibrations(settings, self.launcher)

    def run_next(self) -> bool:
        """Run the job whose turn it is; whether there was one. From the main thread only."""
        if self.stop.is_set():
            return False
        settings, claimed_at = self.runtime.settings, time.monotonic()
        with self.runtime.platform() as session:
            held = leases.claim_next(
                session,
                worker=self.name,
                ranks=settings.ranks,
                lease_s=settings.lease_s,
                half_life_s=settings.fair_share_half_life_s,
            )
        if held is None:
            return False
        with Fence(self.runtime, held, claimed_at=claimed_at) as fence:
            self._run(held, fence)
        # Not before the lease is given back: until then an evaluation may want the memory.
        if not self.stop.is_set():
            self.warm.start()
        return True

    def _run(self, held: Claim, fence: Fence) -> None:
        log.info("job %s: claimed, epoch %d, step %d", held.job, held.epoch, held.resume.step if held.resume else 0)
        try:
            verdict = self._attempt(held, fence)
            Patience(fence.pause).insist(lambda: self._write_down(held, fence, verdict))
        except LeaseLost:
            # Whoever holds the job now decides.
            log.warning("job %s: epoch %d ended without the lease; nothing is written", held.job, held.epoch)

    def _attempt(self, held: Claim, fence: Fence) -> Verdict:
        try:
            with scratch_folder(self.runtime.settings.work_dir, held.job.hex) as folder:
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
                return attempt.run()
        except LeaseLost:
            raise
        except Ended as ended:
            return ended.verdict
        except StopAsked:
            return verdicts.cancelled(held) if fence.cancel_asked else verdicts.released(held)
        except Exception as error:
            # The edge: whatever is wrong with one job, the worker goes on.
            log.warning("job %s: the attempt failed", held.job, exc_info=error)
            return verdicts.of_error(held, error)

    def _write_down(self, held: Claim, fence: Fence, verdict: Verdict) -> None:
        # If only the answer to a commit was lost, the next try finds the lease ended: LeaseLost, which is the truth.
        fence.check()
        with self.runtime.department(held.department) as session:
            verdict(session)
