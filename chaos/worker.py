"""A worker as `workers.serve` runs it, but with the short engine: argv is the role, then words for the engine.

`real-engine` leaves it the one that trains. `without:NAME` takes a protection of `chaos.sabotage` away, as a control of
what the checker finds then.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path

from chaos import sabotage
from chaos.words import REAL_ENGINE, WITHOUT
from workers import app, serve, validation
from workers.engine_process import Launcher


def main(role: str, words: list[str]) -> int:
    """Serve until a signal ends it."""
    sabotage.remove([word.removeprefix(WITHOUT) for word in words if word.startswith(WITHOUT)])
    if REAL_ENGINE not in words:
        _shorten(words)
    return serve.serve(role)


def _shorten(words: list[str]) -> None:
    engine = (str(Path(__file__).with_name("short_engine.py")), *(word for word in words if word.startswith("--")))
    # Without the site packages, of which it needs none, it starts in a third of the time.
    launcher = Launcher(program=("-I", "-S", *engine))
    app.worker = dataclasses.replace(app.worker, launcher=launcher)
    sabotage.replace(app, "validate", partial(validation.validate, launcher=launcher))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
