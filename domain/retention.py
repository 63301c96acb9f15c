"""How long the checkpoints of a job are kept, and when its department is told that they will go."""

from datetime import datetime, timedelta

# While a job is not finished: the newest to go on from, and the one before it for when that turns out to be damaged.
KEPT_CHECKPOINTS = 2

_NOTICE = timedelta(days=7)


def notice(ttl: timedelta) -> timedelta:
    """The time between the warning and the end; half of a life that is shorter than two notices."""
    return min(_NOTICE, ttl / 2)


def expires_at(finished_at: datetime, warned_at: datetime | None, ttl: timedelta) -> datetime:
    """When a finished job's checkpoints are erased.

    None go without a warning: one that came late, because nobody swept or the life was shortened, puts the end off.
    """
    due = finished_at + ttl
    return due if warned_at is None else max(due, warned_at + notice(ttl))
