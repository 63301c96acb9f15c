"""A job's states and how it may move between them."""

from enum import StrEnum

from domain.refusals import AlreadyFinished, Conflict


class JobState(StrEnum):
    """The client's states; `paused` stands beside queued and running."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


NEXT: dict[JobState, frozenset[JobState]] = {
    JobState.VALIDATING_FILES: frozenset({JobState.QUEUED, JobState.FAILED, JobState.CANCELLED, JobState.PAUSED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED, JobState.PAUSED}),
    # Back to queued when a lease ends without an outcome: released, or lost.
    JobState.RUNNING: frozenset(
        {JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.PAUSED}
    ),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
TERMINAL = frozenset(state for state, following in NEXT.items() if not following)

# A job claimed so often without a new checkpoint between is not tried again.
MAX_STALLS = 3
# Nor one that so many workers were lost on, or broke on, whatever progress it made between.
MAX_ATTEMPTS = 20


def check_transition(current: JobState, following: JobState) -> None:
    """Raise AlreadyFinished from a terminal state, Conflict where the move is not in the table."""
    if current in TERMINAL:
        raise AlreadyFinished(f"The job has already {_PAST[current]}.")
    if following not in NEXT[current]:
        raise Conflict(f"A job that is {current.value} cannot become {following.value}.")


_PAST = {JobState.SUCCEEDED: "succeeded", JobState.FAILED: "failed", JobState.CANCELLED: "been cancelled"}
