"""What work and storage cost. Money is decimal, never a float."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum

_MICROSECOND = timedelta(microseconds=1)
SECONDS_PER_HOUR = 3600
BYTES_PER_GB = 10**9
# A microsecond; and of money so little that a GPU-second at 0.01 an hour is still told apart from nothing.
_SMALLEST = Decimal("0.000001")


class LineItem(StrEnum):
    """What is paid for."""

    GPU = "gpu"
    STORAGE = "storage"


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


@dataclass(frozen=True)
class Stored:
    """What a department keeps, in bytes: files that are not deleted, adapter versions, checkpoints."""

    file_bytes: int
    version_bytes: int
    checkpoint_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.file_bytes + self.version_bytes + self.checkpoint_bytes


def gpu_seconds_of(held: timedelta, *, ranks: int, shared_by: int = 1) -> Decimal:
    """The seconds of all ranks together, to the microsecond; a job's part where several share the ranks."""
    return (Decimal(held // _MICROSECOND) * ranks / shared_by / 1_000_000).quantize(_SMALLEST)


def amount_of(gpu_seconds: Decimal, price_per_gpu_hour: Decimal) -> Decimal:
    """What so many GPU-seconds cost."""
    return (gpu_seconds * price_per_gpu_hour / SECONDS_PER_HOUR).quantize(_SMALLEST)


def storage_amount_of(stored: Stored, price_per_gb_month: Decimal, day: date) -> Decimal:
    """What a day of so many bytes costs: its part of the calendar month it is in."""
    _weekday, days = monthrange(day.year, day.month)
    return (stored.total_bytes * price_per_gb_month / BYTES_PER_GB / days).quantize(_SMALLEST)
