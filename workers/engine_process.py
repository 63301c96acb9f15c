"""The engine as a child: what it is started with, and what it gets to see. It holds no credentials."""

import os
import signal
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel

from domain.plans import CalibratePlan, Compute, EvaluatePlan, InspectPlan, TrainPlan
from domain.warm import WarmPlan
from runtime.processes import ChildProcess

Verb = Literal["train", "evaluate", "inspect", "calibrate", "warm"]
Plan = TrainPlan | EvaluatePlan | InspectPlan | CalibratePlan | WarmPlan
Result = TypeVar("Result", bound=BaseModel)

# An allow-list: a credential that somebody adds to the worker's environment one day stays with the worker.
PASSED_ON = ("PATH", "LANG", "CUDA_VISIBLE_DEVICES")
PASSED_ON_PREFIXES = ("TORCH_", "NCCL_")

COMPILED = "compiled"


@dataclass(frozen=True)
class Workspace:
    """The folder of one engine process: plan.json, inputs/, out/ and the process's log."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> "Workspace":
        """Lay out an empty folder."""
        workspace = cls(folder)
        workspace.inputs.mkdir(parents=True)
        workspace.out.mkdir()
        return workspace

    def write_plan(self, plan: Plan) -> None:
        """Say what is to be done; the inputs are there."""
        self.plan.write_text(plan.model_dump_json(indent=1) + "\n")

    def read_result(self, kind: type[Result], *names: str) -> Result | None:
        """A file the engine wrote below out/, or None where it did not."""
        path = self.out.joinpath(*names)
        return kind.model_validate_json(path.read_bytes()) if path.exists() else None

    @property
    def plan(self) -> Path:
        """What is to be done."""
        return self.folder / "plan.json"

    @property
    def inputs(self) -> Path:
        """What it is done with."""
        return self.folder / "inputs"

    @property
    def out(self) -> Path:
        """What comes of it."""
        return self.folder / "out"


@dataclass(frozen=True)
class Launcher:
    """How the engine is started. `program` is what Python runs; another program is a test's.

    Below `work_dir` processes keep what they compile. Without one each compiles for itself.
    """

    program: Sequence[str] = ("-m", "engine")
    work_dir: Path | None = None

    def describe(
        self, verb: Verb, workspace: Workspace, *, compute: Compute | None = None, limits: Sequence[str] = ()
    ) -> ChildProcess:
        """The process, not yet started. limits: arguments of prlimit(1)."""
        # Only train, warm and evaluate compute on ranks.
        ranks = compute.world_size if compute else 1
        threads = compute.threads_per_rank if compute else 1
        torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "--max-restarts=0")
        folders = (f"--plan={workspace.plan}", f"--inputs={workspace.inputs}", f"--out={workspace.out}")
        return ChildProcess(
            name=f"engine {verb}",
            argv=[
                *(("prlimit", *limits, "--") if limits else ()),
                *(sys.executable, *(torchrun if ranks > 1 else ()), *self.program, verb, *folders),
            ],
            log=workspace.folder / "engine.log",
            env=_environment(workspace.folder, threads) | self._caches(),
            cwd=workspace.folder,
        )

    def _caches(self) -> dict[str, str]:
        """Where compiled code is kept between processes: only where no other user could have put any."""
        if self.work_dir is None or not _is_private(folder := self.work_dir / COMPILED):
            return {}
        return {"TSUGIKI_KERNEL_CACHE": str(folder / "kernels"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}


def _is_private(folder: Path) -> bool:
    """Whether this user alone may enter the folder, which is made if it is not there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _environment(home: Path, threads: int) -> dict[str, str]:
    passed_on = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    }  # fmt: skip
    return passed_on | {
        "HOME": str(home),
        # torchrun leaves its log folders behind when it is killed.
        "TMPDIR": str(home),
        "OMP_NUM_THREADS": str(threads),
        # Idle threads of ranks that share cores must sleep, not spin.
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def kill(child: ChildProcess) -> None:
    """Kill the process at once, also from another thread. Its ranks, in sessions of their own, die with it."""
    with suppress(ProcessLookupError):
        child.send(signal.SIGKILL)
