"""Every message of the broker is lost, again and again, while hundreds of jobs wait: how long until one is claimed?

With each FLUSHALL all train workers are killed and started again. One that works needs no message to find its next job;
one that begins waits for one.
"""

import time
from dataclasses import dataclass

import redis
from sqlalchemy import TextClause, text

from chaos.checker import Finding
from chaos.installation import TRAIN, Installation
from chaos.results import Spread
from chaos.workload import Workload

POLL_S = 0.05
# For the last job to end, after the last flush.
DRAINED_WITHIN_S = 900.0
_QUEUED = text("SELECT count(*) FROM jobs WHERE state = 'queued'")
_CLAIMS = text("SELECT count(*) FROM audit_events WHERE action = 'job.claimed'")


@dataclass(frozen=True)
class Flushed:
    """How long it took from each flush to the next claim, and from the first flush until all jobs had ended."""

    queued: int
    to_claim_s: Spread | None
    drained_s: float
    findings: list[Finding]

    def table(self) -> str:
        """For people, as Markdown."""
        rows = [
            ("jobs queued at the first flush", f"{self.queued:,}"),
            ("seconds from a flush to the next claim, p50 / p95 / most", f"{self.to_claim_s}"),
            ("seconds until all had ended", f"{self.drained_s:.0f}"),
            ("promises broken", str(len({finding.promise for finding in self.findings})) if self.findings else "none"),
        ]
        return "\n".join(["| what | number |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def flush(installation: Installation, workload: Workload, *, jobs: int, times: int) -> Flushed:
    """Queue so many jobs without a train worker, then flush so often while they are worked on."""
    trainers = installation.of_role(TRAIN)
    for piece in trainers:
        piece.end()
    for _ in range(jobs):
        workload.submit()
    while (queued := _count(installation, _QUEUED)) < len(workload.accepted):
        time.sleep(POLL_S)
    begun = time.monotonic()
    gaps = [_flush_once(installation) for _ in range(times)]
    while installation.checker.unfinished() and time.monotonic() - begun < DRAINED_WITHIN_S:
        time.sleep(POLL_S)
    drained_s = time.monotonic() - begun
    return Flushed(queued, Spread.of(gaps), drained_s, installation.checker.check(workload.expected))


def _flush_once(installation: Installation) -> float:
    for piece in installation.of_role(TRAIN):
        piece.end()
    with redis.Redis.from_url(installation.settings.broker_url.get_secret_value()) as broker:
        broker.flushall()
    flushed_at, before = time.monotonic(), _count(installation, _CLAIMS)
    for piece in installation.of_role(TRAIN):
        piece.start()
    while _count(installation, _CLAIMS) == before:
        time.sleep(POLL_S)
    return time.monotonic() - flushed_at


def _count(installation: Installation, statement: TextClause) -> int:
    with installation.checker.engine.connect() as connection:
        return int(connection.execute(statement).scalar_one())
