from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from domain.plans import Device, Precision
from runtime.processes import ChildProcess
from runtime.settings import Settings
from workers.engine_process import Launcher, Verb

FAKE_ENGINE = Path(__file__).parents[2] / "integration" / "workers" / "fake_engine.py"


class CountingLauncher(Launcher):
    """Starts the engine that only pretends, and remembers what for, and the processes."""

    verbs: list[Verb]
    children: list[ChildProcess]

    def describe(self, verb: Verb, *arguments: Any, **more: Any) -> ChildProcess:
        self.verbs.append(verb)
        self.children.append(super().describe(verb, *arguments, **more))
        return self.children[-1]


@pytest.fixture
def fake() -> Callable[..., CountingLauncher]:
    """What it does is said by words."""

    def made(*behaviour: str) -> CountingLauncher:
        launcher = CountingLauncher(program=(str(FAKE_ENGINE), *behaviour))
        object.__setattr__(launcher, "verbs", [])
        object.__setattr__(launcher, "children", [])
        return launcher

    return made


@pytest.fixture
def settings(tmp_path: Path, signing_key_file: Path) -> Settings:
    return Settings(
        database_url="postgresql+psycopg://nowhere",
        broker_url="redis://nowhere",
        s3_access_key="none",
        s3_secret_key="none",
        signing_key_file=signing_key_file,
        work_dir=tmp_path / "work",
        ranks=1,
        device=Device.CPU,
        precision=Precision.FP32,
    )
