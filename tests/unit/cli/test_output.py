import pytest

from cli.output import duration, plain, share, size, when


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (269_100_000, "269.1 MB"), (2_500_000_000, "2.5 GB"), (None, "-")],
)
def test_bytes_are_said_in_decimal_units(size_bytes: int | None, shown: str) -> None:
    assert size(size_bytes) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3720, "1 h 02 min"), (None, "-")]
)
def test_durations_are_said_in_two_units(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_share_is_a_percentage() -> None:
    assert share(0.825) == "82.5%"


def test_a_moment_is_in_utc() -> None:
    # `date -u -d @1795564800`
    assert when(1_795_564_800) == "2026-11-25 00:00:00Z"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"), (True, "yes"), ([], "-"), (["a", 1], "a, 1"), ({"latest": 3}, "latest=3"),
        ("red\x1b[31m\r\n\u202e", "red\ufffd[31m\ufffd\ufffd\ufffd"),
    ],
)  # fmt: skip
def test_values_are_one_line_without_control_characters(value: object, shown: str) -> None:
    assert plain(value) == shown
