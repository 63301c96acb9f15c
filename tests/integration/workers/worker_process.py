"""A worker without Celery, to be killed and stopped. It runs the jobs there are; argv has words for the fake engine.

The word `unfenced` takes the fence away, as a control of the tests that show what it does; `together` has it take
several small jobs at once, and `group=FOLDER` makes it and its children a control group's.
"""

import os
import sys
import threading
from pathlib import Path

from sqlalchemy.orm import Session

from models_db.jobs import Job
from runtime import logs, wiring
from runtime.settings import load
from services import leases
from services.claims import Claim
from workers.engine_process import Launcher
from workers.fence import Fence
from workers.training import Worker


def main(behaviour: list[str]) -> None:
    settings = load()
    if "together" in behaviour:
        settings = settings.model_copy(update={"batch_jobs": 3})
    logs.configure("INFO")
    for word in behaviour:
        if word.startswith("group="):
            (Path(word.removeprefix("group=")) / "cgroup.procs").write_text(str(os.getpid()))
    if "unfenced" in behaviour:
        remove_fence()
    fake = (str(Path(__file__).with_name("fake_engine.py")), *behaviour)
    worker = Worker(
        wiring.build(settings), "process", threading.Event(), Launcher(program=fake) if behaviour else Launcher()
    )
    while worker.run_next():
        pass


def remove_fence() -> None:
    def hold(session: Session, held: Claim) -> Job:
        return session.get_one(Job, held.job, with_for_update=True)

    leases.hold = hold
    Fence._lose = lambda _fence: None  # noqa: SLF001 - sabotage


if __name__ == "__main__":
    main(sys.argv[1:])
