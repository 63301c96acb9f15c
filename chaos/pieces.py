"""The service's processes, started in the time of a fork: a thousand kills need a thousand starts.

A server process has imported everything; each piece is a fork of it that then runs its module as `python -m` would,
with an environment of its own. It dies with that server, and the server with us.
"""

import ctypes
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from socket import socket

PRELOADED = [
    "api.main", "boto3.s3.inject", "celery.app.amqp", "celery.app.control", "celery.app.log", "celery.apps.worker",
    "celery.backends.base", "celery.beat", "celery.bin.celery", "celery.bin.worker", "celery.concurrency.solo",
    "celery.events.receiver", "celery.fixups.django", "celery.loaders.app", "celery.worker.autoscale",
    "celery.worker.components", "celery.worker.consumer.delayed_delivery", "celery.worker.strategy", "chaos.sabotage",
    "encodings.idna", "kombu.transport.redis", "psycopg", "sqlalchemy.dialects.postgresql.psycopg",
    "uvicorn.lifespan.on", "uvicorn.loops.auto", "uvicorn.protocols.http.auto", "workers.main", "workers.sealer",
    "workers.sweeper", "workers.training", "workers.validation",
]  # fmt: skip
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_context = multiprocessing.get_context("forkserver")


@dataclass
class Piece:
    """One process of the service: described, started, started again."""

    name: str
    argv: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(repr=False)
    listener: socket | None = None
    _process: ForkServerProcess | None = field(default=None, init=False, repr=False)

    def start(self, **settings: str) -> None:
        """Start it, with some settings changed for this time."""
        changed = {f"TSUGIKI_{name.upper()}": value for name, value in settings.items()}
        environment = dict(self.environment) | changed
        self._process = _context.Process(
            target=_become, args=(list(self.argv), environment, str(self.log), self.listener), name=self.name
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the process that runs now, or ran last."""
        if self._process is None or self._process.pid is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs; a stopped process does."""
        return self._process is not None and self._process.is_alive()

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to it alone; whether it was there to get it."""
        if not self.alive:
            return False
        os.kill(self.pid, number)
        return True

    def stop(self, within_s: float) -> None:
        """Ask it to end, and kill it when it has not within the time."""
        if self.send(signal.SIGTERM) and self._process is not None:
            self._process.join(within_s)
        self.end()

    def end(self) -> None:
        """Kill it and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.join()


def preload() -> None:
    """Name what the server of forks imports; before the first start."""
    _context.set_forkserver_preload(PRELOADED)


def _become(argv: list[str], environment: dict[str, str], log: str, listener: socket | None) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    module, *words = argv
    if listener is not None:
        words += ["--fd", str(listener.fileno())]
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
