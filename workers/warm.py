"""The engine process that waits for this worker's next job: imports done, the last job's base model in memory.

It takes one plan, of whichever department, and ends. What it holds before that is no department's.
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from domain.plans import Compute
from domain.warm import ORDER, Order, WarmPlan
from runtime.processes import ChildProcess
from runtime.scratch import scratch_folder
from runtime.settings import Settings
from workers.calibration import compute_of
from workers.engine_process import Launcher, Workspace
from workers.inputs import BASE_MODEL

log = logging.getLogger(__name__)

# What a process cannot change once its ranks have met. The engine loads anew what else differs.
FIXED = {"world_size", "threads_per_rank", "collective_timeout_s"}


@dataclass(frozen=True)
class WaitingEngine:
    """A running process without work, and what it was made for."""

    child: ChildProcess
    workspace: Workspace
    base_model: Path | None
    compute: Compute

    def order(self, work: Workspace) -> None:
        """Give it a plan and inputs, which are in place: the only order it obeys."""
        order = Order(plan=work.plan, inputs=work.inputs, out=work.out)
        unfinished = self.workspace.inputs / f".{ORDER}"
        unfinished.write_text(order.model_dump_json() + "\n")
        unfinished.rename(self.workspace.inputs / ORDER)

    def suits(self, compute: Compute) -> bool:
        """Whether a plan that computes like this can be given to it."""
        return self.compute.model_dump(include=FIXED) == compute.model_dump(include=FIXED)


class WarmEngine:
    """At most one such process, from the main thread only: the kernel ends it with the thread that started it.

    `base_model` is what the next one is to hold: the folder of the last job's. None: it has only its imports done.
    """

    def __init__(self, settings: Settings, launcher: Launcher) -> None:
        self.base_model: Path | None = None
        self._settings, self._launcher = settings, launcher
        self._waiting: WaitingEngine | None = None
        self._folder = ExitStack()

    def start(self) -> None:
        """Have one wait, unless one does. A worker that cannot have one does without."""
        if not self._settings.prewarm:
            return
        waiting = self._waiting
        if waiting and waiting.base_model == self.base_model and not waiting.child.ended():
            return
        self.close()
        try:
            self._waiting = self._start()
        except OSError as error:
            log.warning("no engine is kept warm: %s", error)
            self.close()

    def take(self, compute: Compute) -> WaitingEngine | None:
        """The waiting process, for a plan that computes like this: the caller orders, watches and reaps it.

        One that does not suit is ended, so that it takes no memory from the one that is started instead.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return None
        if waiting.child.ended():
            status = waiting.child.reap()
            log.warning("the warm engine ended with status %d\n%s", status, waiting.child.log_tail())
            return None
        if not waiting.suits(compute):
            waiting.child.reap()
            return None
        return waiting

    def close(self) -> None:
        """End the waiting process, and remove what it or the last one taken has left."""
        waiting, self._waiting = self._waiting, None
        if waiting:
            waiting.child.reap()
        self._folder.close()

    def _start(self) -> WaitingEngine:
        folder = self._folder.enter_context(scratch_folder(self._settings.work_dir, "warm"))
        workspace, base_model = Workspace.create(folder / "warm"), self.base_model
        if base_model is not None:
            (workspace.inputs / BASE_MODEL).symlink_to(base_model)
        compute = compute_of(self._settings)
        workspace.write_plan(WarmPlan(compute=compute))
        child = self._launcher.describe("warm", workspace, compute=compute)
        child.start()
        return WaitingEngine(child, workspace, base_model, compute)
