from datetime import UTC, datetime, timedelta

import pytest

from domain.retention import expires_at, notice

FINISHED = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("warned_after", "ttl", "ends_after"),
    [
        (None, 30, 30),
        # On time, a week before.
        (23, 30, 30),
        (25, 30, 32),
        # The life was shortened when the job had long finished.
        (100, 30, 107),
        # A life of ten days leaves half of it for the warning.
        (5, 10, 10),
        (20, 10, 25),
    ],
)
def test_a_late_warning_puts_the_end_off(warned_after: float | None, ttl: float, ends_after: float) -> None:
    warned_at = None if warned_after is None else FINISHED + warned_after * DAY
    assert expires_at(FINISHED, warned_at, ttl * DAY) == FINISHED + ends_after * DAY


@pytest.mark.parametrize(("ttl", "before"), [(30, 7), (14, 7), (10, 5), (1, 0.5)])
def test_the_warning_comes_a_week_before_or_at_half_time(ttl: float, before: float) -> None:
    assert notice(ttl * DAY) == before * DAY
