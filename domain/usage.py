"""What work costs: GPU-seconds and their price. Money is decimal, never a float."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

_MICROSECOND = timedelta(microseconds=1)
_SECONDS_PER_HOUR = 3600
# A microsecond; and of money so little that a GPU-second at 0.01 an hour is still told apart from nothing.
_SMALLEST = Decimal("0.000001")


@dataclass(frozen=True)
class Rate:
    """What a lease is charged by from its beginning: how many devices it takes, which, and an hour's price of one.

    A rank counts as one device; on CPUs its seconds are counted alike. device is None where it is not known. shared_by
    is the number of jobs of an engine batch, each of which has a lease on the same devices.
    """

    ranks: int = 1
    shared_by: int = 1
    device: str | None = None
    price_per_gpu_hour: Decimal = Decimal(0)


UNCHARGED = Rate()


def gpu_seconds_of(held: timedelta, *, ranks: int, shared_by: int = 1) -> Decimal:
    """The seconds of all ranks together, to the microsecond; a job's part where several share the ranks."""
    return (Decimal(held // _MICROSECOND) * ranks / shared_by / 1_000_000).quantize(_SMALLEST)


def amount_of(gpu_seconds: Decimal, price_per_gpu_hour: Decimal) -> Decimal:
    """What so many GPU-seconds cost."""
    return (gpu_seconds * price_per_gpu_hour / _SECONDS_PER_HOUR).quantize(_SMALLEST)
