"""How confidential rows are, and how many people must agree before what learned from them is served."""

from collections.abc import Iterable, Mapping
from enum import StrEnum


class DataClass(StrEnum):
    """From what everybody may know to what few may, in this order."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    RESTRICTED = "restricted"

    @property
    def strictness(self) -> int:
        """A place in the order: of two classes the stricter has the higher one."""
        return _ORDER.index(self)


_ORDER = tuple(DataClass)

# Of files, where neither the upload nor its department says more.
ORDINARY = DataClass.INTERNAL

# People who must approve a version, none of whom made it; the database's function of that name says the same.
REQUIRED_APPROVALS: Mapping[DataClass, int] = {
    DataClass.PUBLIC: 1,
    DataClass.INTERNAL: 1,
    DataClass.CONFIDENTIAL: 1,
    DataClass.RESTRICTED: 2,
}


def strictest(classes: Iterable[DataClass]) -> DataClass:
    """What is made of several files is as confidential as the most confidential of them."""
    return max(classes, key=lambda found: found.strictness, default=ORDINARY)
