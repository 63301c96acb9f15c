"""A base model is measured once on a machine, and no job fails by it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from domain.plans import Compute, Device, Precision, Quantisation
from runtime.settings import Settings
from workers import calibration
from workers.calibration import Calibrations
from workers.engine_process import Workspace
from workers.patience import StopAsked
from workers.supervisor import Supervisor

DIGEST, OTHER_DIGEST = ("sha256:" + digit * 64 for digit in "01")
# What the pretended engine reports.
MEASURED = (384, 5e11)


class Held:
    """A lease that does not end."""

    all_asked = all_cancelled = False

    def check(self) -> None: ...

    @contextmanager
    def guard(self, _kill: Callable[[], None]) -> Iterator[None]:
        yield


class Attempts:
    """Ask for computes, as a worker's attempts at jobs do."""

    def __init__(self, settings: Settings, launcher: Any, tmp_path: Path) -> None:
        self.stop = threading.Event()
        fence: Any = Held()
        self._supervisor = Supervisor(settings, fence, self.stop)
        self._calibrations = Calibrations(settings, launcher)
        self._folders = (tmp_path / "jobs" / str(id(self)) / str(number) for number in count())
        self._files = tmp_path / "base_model"

    def compute(self, base_model: str = DIGEST) -> Compute:
        return self._calibrations.compute_for(base_model, self._files, next(self._folders), self._supervisor)


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Callable[..., Attempts]:
    return lambda launcher, **changes: Attempts(settings.model_copy(update=changes), launcher, tmp_path)


def found(compute: Compute) -> tuple[int, float | None]:
    return compute.token_budget, compute.peak_flops


def test_what_was_measured_stands_in_the_compute(worker: Any, fake: Any) -> None:
    compute = worker(fake()).compute()
    assert compute == Compute(
        world_size=1, threads_per_rank=1, device=Device.CPU, precision=Precision.FP32,
        token_budget=MEASURED[0], peak_flops=MEASURED[1],
    )  # fmt: skip


@pytest.mark.parametrize("setting", [{"quantisation": Quantisation.NF4}, {"activation_checkpointing": True}])
def test_what_saves_memory_stands_in_the_compute_and_in_what_is_measured(
    setting: dict[str, object], worker: Any, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Any] = []
    write_plan = Workspace.write_plan
    monkeypatch.setattr(Workspace, "write_plan", lambda self, plan: plans.append(plan) or write_plan(self, plan))
    plain, saving = worker(fake()).compute(), worker(fake(), **setting).compute()
    assert saving == plain.model_copy(update=setting)
    assert [plan.compute.model_dump(include=set(setting)) for plan in plans] == [
        plain.model_dump(include=set(setting)), setting,
    ]  # fmt: skip


def test_a_budget_that_is_set_is_kept_and_the_peak_is_measured_all_the_same(worker: Any, fake: Any) -> None:
    assert found(worker(fake(), token_budget=99).compute()) == (99, MEASURED[1])


def test_a_base_model_is_measured_once_also_by_later_workers(worker: Any, fake: Any) -> None:
    launcher = fake()
    first, later = worker(launcher), worker(launcher)
    computes = [first.compute(), first.compute(), later.compute()]
    assert [found(compute) for compute in computes] == [MEASURED] * 3
    assert launcher.verbs == ["calibrate"]


@pytest.mark.parametrize(
    "changed",
    [
        *("base model", "precision", "quantisation", "activation_checkpointing", "threads_per_rank", "ranks", "device"),
        *("torch", "tsugiki", "processor", "GPUs"),
    ],
)
def test_whatever_may_change_a_speed_has_it_measured_anew(
    changed: str, worker: Any, fake: Any, request: pytest.FixtureRequest
) -> None:
    launcher = fake()
    worker(launcher).compute()
    settings = {
        "precision": Precision.BF16, "quantisation": Quantisation.INT8, "activation_checkpointing": True,
        "threads_per_rank": 2, "ranks": 2, "device": Device.AUTO,
    }  # fmt: skip
    change_machine(changed, request.getfixturevalue("monkeypatch"), request.getfixturevalue("tmp_path"))
    later = worker(launcher, **{name: value for name, value in settings.items() if name == changed})
    later.compute(OTHER_DIGEST if changed == "base model" else DIGEST)
    assert launcher.verbs == ["calibrate"] * 2


def change_machine(changed: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    version = calibration.version
    monkeypatch.setattr(calibration, "version", lambda name: "9" if name == changed else version(name))
    if changed == "processor":
        (folder / "cpuinfo").write_text("model name\t: Another\n")
        monkeypatch.setattr(calibration, "PROCESSOR", folder / "cpuinfo")
    elif changed == "GPUs":
        (folder / "gpus" / "0000").mkdir(parents=True)
        (folder / "gpus" / "0000" / "information").write_text("Model: \t\t A card\nIRQ: 5\n")
        monkeypatch.setattr(calibration, "GPUS", folder / "gpus")


@pytest.mark.parametrize("behaviour", ["abort_measuring", "mute_measuring"])
def test_a_measurement_that_fails_leaves_the_defaults_and_is_not_tried_again(
    behaviour: str, worker: Any, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "LIMIT_S", 1.0)
    launcher, default = fake(behaviour), Compute()
    attempts = worker(launcher)
    assert found(attempts.compute()) == found(attempts.compute()) == (default.token_budget, default.peak_flops)
    assert launcher.verbs == ["calibrate"]


def test_a_damaged_file_is_measured_again(worker: Any, fake: Any, settings: Settings) -> None:
    launcher = fake()
    attempts = worker(launcher)
    attempts.compute()
    (kept,) = (settings.work_dir / "calibrations").iterdir()
    kept.write_text("{")
    assert found(attempts.compute()) == MEASURED
    assert launcher.verbs == ["calibrate"] * 2


def test_a_worker_that_is_to_stop_does_not_wait_for_a_measurement(worker: Any, fake: Any) -> None:
    attempts = worker(fake("mute_measuring"))
    attempts.stop.set()
    with pytest.raises(StopAsked):
        attempts.compute()


def test_a_folder_that_cannot_be_written_costs_only_the_next_measurement(
    worker: Any, fake: Any, settings: Settings
) -> None:
    settings.work_dir.mkdir()
    (settings.work_dir / "calibrations").touch()
    launcher = fake()
    attempts = worker(launcher)
    assert [found(attempts.compute()) for _ in range(2)] == [MEASURED] * 2
    assert launcher.verbs == ["calibrate"] * 2
