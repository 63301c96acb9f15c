from datetime import date, timedelta
from decimal import Decimal

import pytest

from domain.usage import Stored, amount_of, gpu_seconds_of, storage_amount_of


def test_gpu_seconds_are_those_of_all_ranks_to_the_microsecond() -> None:
    held = timedelta(hours=30, microseconds=1)
    assert gpu_seconds_of(held, ranks=8) == Decimal("864000.000008")


@pytest.mark.parametrize(
    ("gpu_seconds", "price", "amount"),
    [
        ("3600", "2.5", "2.5"),
        ("1", "0.0036", "0.000001"),
        # A float's tenth is not a tenth: three of them are not 0.3.
        ("10800", "0.1", "0.3"),
        # A seventh of a million, and no cent lost on the way.
        ("514285.714286", "7", "1000.000000"),
        ("0", "100", "0"),
    ],
)
def test_an_amount_is_decimal(gpu_seconds: str, price: str, amount: str) -> None:
    assert amount_of(Decimal(gpu_seconds), Decimal(price)) == Decimal(amount)


def test_a_month_of_storage_costs_what_its_price_says_whatever_its_length() -> None:
    kept = Stored(file_bytes=10**9, version_bytes=2 * 10**9, checkpoint_bytes=0)
    # 3 GB at 8.40: 25.20 a month, 0.90 on each of 28 days, 0.84 on each of 30.
    price = Decimal("8.4")
    assert storage_amount_of(kept, price, date(2026, 2, 1)) == Decimal("0.9")
    assert storage_amount_of(kept, price, date(2026, 11, 25)) == Decimal("0.84")
    # 25.20 / 29 is 0.86896551…, rounded to a millionth.
    assert storage_amount_of(kept, price, date(2028, 2, 29)) == Decimal("0.868966")
