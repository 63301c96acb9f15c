"""The one engine process that waits between jobs."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from domain.plans import Quantisation
from domain.warm import ORDER, Order, WarmPlan
from runtime.settings import Settings
from workers.calibration import compute_of
from workers.engine_process import Workspace
from workers.warm import WarmEngine

WITHIN_S = 20


@pytest.fixture
def keep(settings: Settings) -> Iterator[Callable[..., WarmEngine]]:
    made: list[WarmEngine] = []

    def warm_engine(launcher: Any, **changes: object) -> WarmEngine:
        made.append(WarmEngine(settings.model_copy(update=changes), launcher))
        return made[-1]

    yield warm_engine
    for engine in made:
        engine.close()


def test_one_process_waits_however_often_it_is_asked_for(settings: Settings, keep: Any, fake: Any) -> None:
    launcher = fake()
    engine = keep(launcher)
    engine.start()
    engine.start()
    assert launcher.verbs == ["warm"]
    waiting = engine.take(compute_of(settings))
    assert waiting
    assert not waiting.child.ended()
    # It is one job's.
    assert engine.take(compute_of(settings)) is None
    waiting.child.reap()


def test_a_process_waits_with_the_base_kept_as_jobs_will_want_it(settings: Settings, keep: Any, fake: Any) -> None:
    changes = {"quantisation": Quantisation.NF4, "activation_checkpointing": True}
    engine = keep(fake(), **changes)
    engine.start()
    waiting = engine.take(compute_of(settings.model_copy(update=changes)))
    plan = WarmPlan.model_validate_json(waiting.workspace.plan.read_bytes())
    assert plan.compute == compute_of(settings).model_copy(update=changes)
    waiting.child.reap()


def test_an_order_names_everything_a_process_of_its_own_would_be_given(
    settings: Settings, keep: Any, fake: Any, tmp_path: Path
) -> None:
    engine = keep(fake())
    engine.start()
    waiting = engine.take(compute_of(settings))
    work = Workspace.create(tmp_path / "job")
    waiting.order(work)
    order = Order.model_validate_json((waiting.workspace.inputs / ORDER).read_bytes())
    assert order == Order(plan=work.plan, inputs=work.inputs, out=work.out)
    # No plan is there: the process obeyed and failed, and its log can be read.
    assert waiting.child.ended(WITHIN_S)
    assert waiting.child.reap() == 1
    assert "plan.json" in waiting.child.log_tail()


def test_the_next_process_holds_the_base_model_of_the_last_job(
    settings: Settings, keep: Any, fake: Any, tmp_path: Path
) -> None:
    launcher = fake()
    engine = keep(launcher)
    engine.start()
    (tmp_path / "base").mkdir()
    engine.base_model = tmp_path / "base"
    engine.start()
    # The one without a base model has gone.
    assert launcher.verbs == ["warm", "warm"]
    waiting = engine.take(compute_of(settings))
    assert (waiting.workspace.inputs / "base_model").resolve() == tmp_path / "base"
    waiting.child.reap()


@pytest.mark.parametrize("change", [{"world_size": 2}, {"threads_per_rank": 2}, {"collective_timeout_s": 5}])
def test_a_process_that_does_not_suit_a_plan_makes_room_for_one_that_does(
    change: dict[str, int], settings: Settings, keep: Any, fake: Any
) -> None:
    launcher = fake()
    engine = keep(launcher)
    engine.start()
    assert engine.take(compute_of(settings).model_copy(update=change)) is None
    assert not psutil.pid_exists(launcher.children[0].pid)


def test_a_process_that_has_died_is_not_taken_and_another_is_started(settings: Settings, keep: Any, fake: Any) -> None:
    launcher = fake("abort_warm")
    engine = keep(launcher)
    for _ in range(2):
        engine.start()
        assert launcher.children[-1].ended(WITHIN_S)
    assert launcher.verbs == ["warm"] * 2
    assert engine.take(compute_of(settings)) is None


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (met := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return met


def test_closing_ends_the_process_and_leaves_nothing(settings: Settings, keep: Any, fake: Any) -> None:
    launcher = fake()
    engine = keep(launcher)
    engine.start()
    assert not launcher.children[0].ended()
    engine.close()
    assert not psutil.pid_exists(launcher.children[0].pid)
    assert [path for path in (settings.work_dir / "runs").iterdir() if path.is_dir()] == []
    engine.close()


def test_what_a_process_left_goes_when_the_next_one_is_started(settings: Settings, keep: Any, fake: Any) -> None:
    engine = keep(fake())
    engine.start()
    waiting = engine.take(compute_of(settings))
    waiting.child.reap()
    engine.start()
    assert not waiting.workspace.folder.exists()


def test_none_waits_where_that_is_switched_off(settings: Settings, keep: Any, fake: Any) -> None:
    launcher = fake()
    engine = keep(launcher, prewarm=False)
    engine.start()
    assert engine.take(compute_of(settings)) is None
    assert launcher.verbs == []


def test_a_worker_that_cannot_start_one_does_without(settings: Settings, keep: Any, fake: Any) -> None:
    settings.work_dir.parent.mkdir(exist_ok=True)
    settings.work_dir.touch()
    engine = keep(fake())
    engine.start()
    assert engine.take(compute_of(settings)) is None


def test_a_process_knows_no_more_of_the_worker_than_others(
    keep: Any, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSUGIKI_S3_SECRET_KEY", "secret")
    launcher = fake()
    engine = keep(launcher)
    engine.start()
    # It shows none while it becomes setpriv, a shell and its program in turn.
    environment = wait_for(psutil.Process(launcher.children[0].pid).environ)
    assert environment["HOME"] != os.environ["HOME"]
    assert "TSUGIKI_S3_SECRET_KEY" not in environment
