"""What happens at the points of `domain.failpoints`, as the setting `failpoints` says it. For trying faults out only.

`point=act`, several joined by `;`. An act is `kill`, `stop`, `raise` or `sleep:SECONDS`; `stop:SECONDS` has somebody
continue the process. `*N` after it is how many times it happens, `@P` how likely each time; `seed=N` makes that
likelihood repeatable. `claim.committed=kill;renew.before=sleep:3@0.1;seed=7`
"""

import logging
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from domain import failpoints
from domain.failpoints import FailPoint

log = logging.getLogger(__name__)

SEED = "seed"
_FORM = re.compile(
    r"(?P<act>[a-z]+)(?::(?P<seconds>\d+(?:\.\d+)?))?(?:\*(?P<times>[1-9]\d*))?(?:@(?P<probability>[01](?:\.\d+)?))?"
)


class Act(StrEnum):
    """What a process does at a point."""

    KILL = "kill"
    STOP = "stop"
    RAISE = "raise"
    SLEEP = "sleep"


class FailPointReached(Exception):  # noqa: N818 - named for the fact
    """What `raise` raises: an error that no code expects."""


@dataclass(frozen=True)
class Arming:
    """What happens at one point. `seconds` is how long a sleep or a stop lasts; a stop without it lasts for ever."""

    act: Act
    seconds: float | None = None
    times: int | None = None
    probability: float = 1.0


@dataclass(frozen=True)
class Armings:
    """All of a process."""

    at: Mapping[FailPoint, Arming]
    seed: int = 0


def parse(text: str) -> Armings:
    """Read the setting. Raises ValueError for a point that there is not, and for what no act can be."""
    at: dict[FailPoint, Arming] = {}
    seed = 0
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        name, _, wanted = entry.partition("=")
        if name == SEED:
            seed = int(wanted)
        else:
            at[FailPoint(name)] = _arming(wanted)
    return Armings(at, seed)


def _arming(text: str) -> Arming:
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is nothing that can happen at a failpoint")
    seconds, times = found["seconds"], found["times"]
    arming = Arming(
        act=Act(found["act"]),
        seconds=float(seconds) if seconds else None,
        times=int(times) if times else None,
        probability=float(found["probability"] or 1),
    )
    if (arming.act is Act.SLEEP and arming.seconds is None) or arming.probability > 1:
        raise ValueError(f"{text!r} is nothing that can happen at a failpoint")
    return arming


def checked_armings(text: str | None) -> str | None:
    """The setting as it is. Raises ValueError where `parse` does."""
    if text is not None:
        parse(text)
    return text


def install(text: str | None) -> None:
    """Arm this process; without a setting nothing is touched."""
    if text is not None:
        log.warning("failpoints are armed: %s", text)
        failpoints.arm(Armed(parse(text)).reached)


class Armed:
    """A process's failpoints at work. Points are passed by several threads."""

    def __init__(self, armings: Armings) -> None:
        self._at = armings.at
        self._left = {point: arming.times for point, arming in armings.at.items()}
        self._random, self._lock = random.Random(armings.seed), threading.Lock()  # noqa: S311 - repeatable, not secret

    def reached(self, point: FailPoint) -> None:
        """Do what is to be done at this point. Raises FailPointReached."""
        arming = self._at.get(point)
        if arming is None or not self._due(point, arming):
            return
        # Whoever counts what really happened reads this line: the process may not live to tell more.
        log.warning("failpoint %s: %s", point, arming.act)
        _ACTS[arming.act](arming)

    def _due(self, point: FailPoint, arming: Arming) -> bool:
        with self._lock:
            left = self._left[point]
            if left == 0 or self._random.random() >= arming.probability:
                return False
            self._left[point] = None if left is None else left - 1
            return True


def _kill(_arming: Arming) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(arming: Arming) -> None:
    if arming.seconds is not None:
        # A process of its own, as a stopped one cannot wake itself.
        wake = f"sleep {arming.seconds}; kill -CONT {os.getpid()}"
        subprocess.Popen(["/bin/sh", "-c", wake], start_new_session=True, stdin=subprocess.DEVNULL)
    os.kill(os.getpid(), signal.SIGSTOP)


def _raise(_arming: Arming) -> None:
    raise FailPointReached


def _sleep(arming: Arming) -> None:
    time.sleep(arming.seconds or 0)


_ACTS: Mapping[Act, Callable[[Arming], None]] = {
    Act.KILL: _kill,
    Act.STOP: _stop,
    Act.RAISE: _raise,
    Act.SLEEP: _sleep,
}
