"""A worker under Celery as `workers.main` ends up as one, with the fake engine: argv is the role, and its words."""

import sys
from dataclasses import replace
from pathlib import Path

from workers import app, serve
from workers.engine_process import Launcher


def main(role: str, behaviour: list[str]) -> int:
    fake = Launcher(program=(str(Path(__file__).with_name("fake_engine.py")), *behaviour))
    app.worker = replace(app.worker, launcher=fake)
    return serve.serve(role)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
