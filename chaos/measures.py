"""What recovery cost, from the database and from what the engine noted of its steps."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlalchemy import Engine, text

# A lease that ran out, by its own last renewal, and when its job was next claimed.
_RECLAIMS = text("""
    SELECT extract(epoch FROM min(claimed.occurred_at) - (l.expires_at - make_interval(secs => :lease_s))) AS seconds
    FROM leases l
    JOIN audit_events lost ON lost.action = 'lease.lost' AND lost.refs @> ARRAY[l.id]
    JOIN audit_events claimed ON claimed.action = 'job.claimed' AND claimed.resource_id = lost.resource_id
        AND claimed.number > lost.number
    WHERE l.end_reason = 'expired'
    GROUP BY l.id
""")
# What was told under a lease that was lost, beyond the step that the next claim went on from.
_REDONE = text("""
    SELECT max((told.data->>'step')::int) - coalesce((claimed.details->>'resume_step')::int, 0) AS steps
    FROM audit_events lost
    JOIN audit_events claimed ON claimed.action = 'job.claimed' AND claimed.resource_id = lost.resource_id
        AND (claimed.details->>'epoch')::int = (lost.details->>'epoch')::int + 1
    JOIN job_events told ON told.job_id = lost.resource_id AND told.type = 'metrics'
        AND told.created_at < lost.occurred_at
    WHERE lost.action = 'lease.lost'
    GROUP BY lost.number, claimed.details
""")
_JOBS = text("""
    SELECT state || coalesce(' as ' || (error->>'code'), '') AS ended, count(*) AS jobs FROM jobs GROUP BY 1
""")
_VERSIONS = text("SELECT count(*) FROM adapter_versions")


def reclaim_seconds(engine: Engine, lease_s: float) -> list[float]:
    """From a lost worker's last renewal to the next claim of its job: longer than from its death."""
    with engine.connect() as connection:
        return [float(seconds) for seconds in connection.execute(_RECLAIMS, {"lease_s": lease_s}).scalars()]


def jobs_by_end(engine: Engine) -> Mapping[str, int]:
    """How many jobs ended how."""
    with engine.connect() as connection:
        return {row.ended: row.jobs for row in connection.execute(_JOBS)}


def versions(engine: Engine) -> int:
    """How many versions there are."""
    with engine.connect() as connection:
        return int(connection.execute(_VERSIONS).scalar_one())


def redone_steps_told(engine: Engine) -> list[int]:
    """For each lost lease: how many steps that its worker had told of, which it does every two seconds, were redone."""
    with engine.connect() as connection:
        return [max(0, int(steps)) for steps in connection.execute(_REDONE).scalars()]


def redone_steps(ledger: Path) -> Iterator[int]:
    """For each attempt that went on from a checkpoint or began anew: how many steps had been done before it already."""
    reached: Counter[str] = Counter()
    seen: set[tuple[str, int]] = set()
    if not ledger.exists():
        return
    for line in ledger.read_text().splitlines():
        record = json.loads(line)
        run, step = record["run"], record["step"]
        if (run, record["process"]) not in seen:
            seen.add((run, record["process"]))
            if reached[run]:
                yield max(0, reached[run] - step + 1)
        reached[run] = max(reached[run], step)
