"""The Celery application: a doorbell. A message is a row's id and says that there is work; the row says what.

Acknowledged early, one at a time, no results: the lease in the database owns recovery, not the broker. With late
acknowledgement a killed worker loses and doubles messages, and a task longer than the visibility timeout starts again.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from domain.estimates import EstimateState
from domain.jobs import JobState
from runtime.settings import Settings
from services.doorbell import ErasingState, Nudge, OutboxState

log = logging.getLogger(__name__)

TRAIN_QUEUE, VALIDATE_QUEUE, SWEEP_QUEUE = "train", "validate", "sweep"
TRAIN_TASK, VALIDATE_TASK, SWEEP_TASK = "tsugiki.train", "tsugiki.validate", "tsugiki.sweep"
COUNT_TASK, DELIVER_TASK, ERASE_TASK = "tsugiki.count", "tsugiki.deliver", "tsugiki.erase"
_RINGS: Mapping[JobState | EstimateState | OutboxState | ErasingState, tuple[str, str]] = {
    JobState.VALIDATING_FILES: (VALIDATE_TASK, VALIDATE_QUEUE),
    JobState.QUEUED: (TRAIN_TASK, TRAIN_QUEUE),
    EstimateState.PENDING: (COUNT_TASK, VALIDATE_QUEUE),
    # To the sweeper, which would look by itself when its time is there.
    OutboxState.ANNOUNCED: (DELIVER_TASK, SWEEP_QUEUE),
    ErasingState.CONFIRMED: (ERASE_TASK, SWEEP_QUEUE),
}


def celery_app(settings: Settings) -> Celery:
    """The application of API, workers and beat alike. Nothing connects yet."""
    app = Celery("tsugiki", broker=settings.broker_url.get_secret_value(), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        task_default_queue=TRAIN_QUEUE,
        # No limit: our workers take one message at a time anyway. With one, a message whose acknowledgement was lost
        # with the connection counts as held for ever, and the worker never asks for another.
        worker_prefetch_multiplier=0,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_connect_timeout": 2, "socket_timeout": 10, "socket_keepalive": True},
        beat_schedule={
            "sweep": {
                "task": SWEEP_TASK,
                "schedule": settings.sweep_every_s,
                # A sweep that could not run in time is not worth running: the next one is due.
                "options": {"queue": SWEEP_QUEUE, "expires": settings.sweep_every_s},
            }
        },
    )
    return app


def ring(app: Celery, nudge: Nudge) -> None:
    """Send a nudge, once. A broker that is down costs time, never work: the sweeper rings again."""
    if nudge.state not in _RINGS:
        return
    task, queue = _RINGS[nudge.state]
    try:
        with _connected(app) as connection:
            app.send_task(task, args=[str(nudge.subject)], queue=queue, retry=False, connection=connection)
    except (OperationalError, OSError) as error:
        log.warning("The broker is down (%s); the sweeper will ring for %s.", type(error).__name__, nudge.subject)


def ring_again(app: Celery, nudges: Sequence[Nudge]) -> None:
    """Ring for what still waits, at queues that are empty: a message that lies there says the same already."""
    try:
        with _connected(app) as connection:
            waiting = connection.default_channel.client  # type: ignore[attr-defined]  # of the Redis transport
            empty = {queue for _task, queue in _RINGS.values() if waiting.llen(queue) == 0}
    except (OperationalError, OSError) as error:
        log.warning("The broker is down (%s); the next sweep rings.", type(error).__name__)
        return
    for nudge in nudges:
        if _RINGS[nudge.state][1] in empty:
            ring(app, nudge)


def answers(app: Celery) -> bool:
    """Whether the broker takes a connection now."""
    try:
        with _connected(app):
            return True
    except (OperationalError, OSError):
        return False


@contextmanager
def _connected(app: Celery) -> Iterator[Connection]:
    """A connection tried once. One of the pool is retried by the Redis client for 6 s, while a caller waits."""
    with app.connection_for_write(connect_timeout=2) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
        yield connection
