"""Every message of the broker is lost, again and again, while hundreds of jobs wait: how long until they are run?

With each FLUSHALL all train workers end and are started again. One that works needs no message to find its next job;
one that begins waits for one.
"""

import time
from dataclasses import dataclass

import redis
from sqlalchemy import text

from chaos.checker import Finding
from chaos.installation import TRAIN, Installation
from chaos.results import Spread
from chaos.workload import Workload

POLL_S = 0.05
# A worker that is asked to end gives its jobs back.
ENDS_WITHIN_S = 30.0
# What is promised is 60 s; what takes longer is a finding, and the next flush comes.
PROMISED_S, GIVEN_UP_AFTER_S = 60.0, 180.0
LATE = f"every worker has a job within {PROMISED_S:g} s of a FLUSHALL"
# For the last job to end, after the last flush.
DRAINED_WITHIN_S = 1800.0
_QUEUED = "SELECT count(*) FROM jobs WHERE state = 'queued'"
_NEWEST = "SELECT coalesce(max(number), 0) FROM audit_events"
_CLAIMERS = """
    SELECT count(DISTINCT details->>'worker') FROM audit_events WHERE action = 'job.claimed' AND number > :since
"""


@dataclass(frozen=True)
class Flushed:
    """How long it took from each flush until a worker, and until every worker had a job.

    drained_s: from the last flush until all had ended.
    """

    queued: int
    left: int
    first_s: Spread | None
    all_s: Spread | None
    drained_s: float
    findings: list[Finding]

    def table(self) -> str:
        """For people, as Markdown."""
        rows = [
            ("jobs queued at the first flush, at the last", f"{self.queued:,}, {self.left:,}"),
            ("seconds from a flush to the first claim, p50 / p95 / most", f"{self.first_s}"),
            ("seconds until every worker had a job, p50 / p95 / most", f"{self.all_s}"),
            ("seconds from the last flush until all had ended", f"{self.drained_s:.0f}"),
            ("promises broken", str(len({finding.promise for finding in self.findings})) if self.findings else "none"),
        ]
        return "\n".join(["| what | number |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def flush(installation: Installation, workload: Workload, *, jobs: int, times: int) -> Flushed:
    """Queue so many jobs without a train worker, then flush so often while they are worked on."""
    for piece in installation.of_role(TRAIN):
        piece.end()
    for _ in range(jobs):
        workload.submit()
    while (queued := _count(installation, _QUEUED)) < len(workload.accepted):
        time.sleep(POLL_S)
    gaps = [_flush_once(installation) for _ in range(times)]
    left = _count(installation, _QUEUED)
    begun, checker = time.monotonic(), installation.checker
    while checker.unfinished() and time.monotonic() - begun < DRAINED_WITHIN_S:
        time.sleep(POLL_S)
    drained_s = time.monotonic() - begun
    # Events of the last jobs are still to be told.
    while checker.under_way() and time.monotonic() - begun < DRAINED_WITHIN_S:
        time.sleep(POLL_S)
    late = [Finding(LATE, f"{all_s:.1f} s") for _, all_s in gaps if all_s > PROMISED_S]
    findings = [*late, *checker.check(workload.expected)]
    first, last = ([gap[place] for gap in gaps] for place in (0, 1))
    return Flushed(queued, left, Spread.of(first), Spread.of(last), drained_s, findings)


def _flush_once(installation: Installation) -> tuple[float, float]:
    """Seconds to the first claim, and until every worker has claimed."""
    workers = installation.of_role(TRAIN)
    for piece in workers:
        piece.stop(ENDS_WITHIN_S)
    with redis.Redis.from_url(installation.settings.broker_url.get_secret_value()) as broker:
        broker.flushall()
    flushed_at, since = time.monotonic(), _count(installation, _NEWEST)
    for piece in workers:
        piece.start()
    first_s = _until_claimed(installation, 1, since, flushed_at)
    return first_s, _until_claimed(installation, len(workers), since, flushed_at)


def _until_claimed(installation: Installation, workers: int, since: int, flushed_at: float) -> float:
    while (gone_s := time.monotonic() - flushed_at) < GIVEN_UP_AFTER_S:
        if _count(installation, _CLAIMERS, since=since) >= workers:
            break
        time.sleep(POLL_S)
    return gone_s


def _count(installation: Installation, statement: str, **parameters: int) -> int:
    with installation.checker.engine.connect() as connection:
        return int(connection.execute(text(statement), parameters).scalar_one())
