"""How this machine trains on a base model: measured once, then read from a file below the work folder."""

import hashlib
import logging
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import ValidationError

from domain.digests import Digest
from domain.plans import CalibratePlan, CalibrateReport, Compute
from runtime.settings import Settings
from workers.engine_process import Launcher, Workspace, kill
from workers.inputs import BASE_MODEL
from workers.patience import StopAsked
from workers.supervisor import EndedBy, Supervisor

log = logging.getLogger(__name__)

FOLDER = "calibrations"

# The engine measures for about ten seconds; loading a large base model may take longer than that.
LIMIT_S = 120.0

# Whose change may change a speed.
PACKAGES = ("tsugiki", "torch", "transformers")

PROCESSOR, GPUS = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/gpus")


class Calibrations:
    """The measurements that hold for this worker.

    A base model is measured right before the first job on it, not at leisure: how a run computes is frozen for all its
    life, so that the seconds it waits are won back by the job itself unless it is very short, and a worker has no idle
    moment in which it knows the base models to come. No job fails by it: one that was tried in vain is not tried again.
    """

    def __init__(self, settings: Settings, launcher: Launcher) -> None:
        self._settings, self._launcher = settings, launcher
        self._in_vain: set[Path] = set()
        # The one that the last job computed by, for whoever wants to know what this machine can.
        self.newest: CalibrateReport | None = None

    def compute_for(self, base_model: Digest, files: Path, folder: Path, supervisor: Supervisor) -> Compute:
        """How this worker computes on a base model; `folder`, which is not there yet, is where it may measure.

        Raises StopAsked and LeaseLost.
        """
        kept = self._settings.work_dir / FOLDER / f"{self._key(base_model)}.json"
        report = _read(kept)
        if report is None and kept not in self._in_vain:
            report = self._measure(files, folder, supervisor)
            if report is None:
                self._in_vain.add(kept)
            else:
                _keep(report, kept)
        self.newest = report or self.newest
        return compute_of(self._settings, report)

    def _key(self, base_model: Digest) -> str:
        settings = self._settings
        parts = (
            *(base_model, settings.device, settings.ranks, settings.threads_per_rank),
            *(settings.precision, settings.quantisation, settings.activation_checkpointing),
            *(_version(package) for package in PACKAGES),
            machine(),
        )
        return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]

    def _measure(self, files: Path, folder: Path, supervisor: Supervisor) -> CalibrateReport | None:
        workspace = Workspace.create(folder)
        (workspace.inputs / BASE_MODEL).symlink_to(files)
        workspace.write_plan(CalibratePlan(compute=compute_of(self._settings)))
        # No compute: one rank is measured, as a plain process.
        child = self._launcher.describe("calibrate", workspace)
        log.info("measuring how this machine trains on a base model, %s", files.name)
        ends_at = time.monotonic() + LIMIT_S

        def follow() -> bool:
            if time.monotonic() > ends_at:
                kill(child)
            return True

        ended = supervisor.run(child, follow=follow, ask_to_stop=lambda: kill(child))
        if ended.by is EndedBy.STOP:
            raise StopAsked
        report = _read(workspace.out / "report.json")
        if report is None:
            log.warning("the measurement came to nothing: %s\n%s", ended.told, child.log_tail())
        else:
            log.info("measured on %s: %s", report.hardware, report.model_dump_json(exclude={"hardware"}))
        return report


def compute_of(settings: Settings, measured: CalibrateReport | None = None) -> Compute:
    """A worker's way of computing; what was neither set nor measured is the engine's default."""
    compute = Compute(
        world_size=settings.ranks,
        threads_per_rank=settings.threads_per_rank,
        device=settings.device,
        precision=settings.precision,
        quantisation=settings.quantisation,
        activation_checkpointing=settings.activation_checkpointing,
    )
    if measured is not None:
        found = {"token_budget": measured.token_budget, "peak_flops": measured.peak_flops}
        compute = compute.model_copy(update=found)
    if settings.token_budget is not None:
        compute = compute.model_copy(update={"token_budget": settings.token_budget})
    return compute


def machine() -> str:
    """What tells machines of different speed apart, without torch: processor and graphics cards."""
    wanted = ("model name", "flags", "CPU part", "Features")
    listed = PROCESSOR.read_text().splitlines() if PROCESSOR.is_file() else []
    processor = {line for line in listed if line.startswith(wanted)}
    cards = {line for path in GPUS.glob("*/information") for line in path.read_text().splitlines() if "Model" in line}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return "\n".join([platform.machine(), *sorted(processor), *sorted(cards), visible])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _read(path: Path) -> CalibrateReport | None:
    try:
        return CalibrateReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _keep(report: CalibrateReport, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(report.model_dump_json(indent=1) + "\n")
        unfinished.rename(path)
    except OSError as error:
        # It is measured again for the next job.
        log.warning("a measurement could not be kept: %s", error)
