"""What is different between two versions of an adapter: settings, rows, measurements, files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from domain.digests import Digest, Manifest


@dataclass(frozen=True)
class Difference:
    """A value by its dotted name, in one version and in the other; None where there is none."""

    name: str
    before: object
    after: object


class Change(StrEnum):
    """What became of a file."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    SAME = "same"


@dataclass(frozen=True)
class FileChange:
    """A file by its path, with its digest in one version and in the other."""

    path: str
    change: Change
    before: Digest | None
    after: Digest | None


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[Difference, ...]:
    """Values that are not equal, in the order of their names; objects are looked into, lists compared as a whole."""
    one, other = dict(_flat(before)), dict(_flat(after))
    names = sorted({*one, *other})
    return tuple(Difference(name, one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name))


def measurements(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[Difference, ...]:
    """Every number of either, equal or not, in the order of the names."""
    one, other = dict(_numbers(before)), dict(_numbers(after))
    return tuple(Difference(name, one.get(name), other.get(name)) for name in sorted({*one, *other}))


def file_changes(before: Manifest, after: Manifest) -> tuple[FileChange, ...]:
    """What became of each file, by path."""
    one, other = ({file.path: file.digest for file in manifest.files} for manifest in (before, after))
    return tuple(
        FileChange(path, _change(one.get(path), other.get(path)), one.get(path), other.get(path))
        for path in sorted({*one, *other})
    )


def _change(before: Digest | None, after: Digest | None) -> Change:
    if before is None:
        return Change.ADDED
    if after is None:
        return Change.REMOVED
    return Change.SAME if before == after else Change.CHANGED


def _flat(values: Mapping[str, object], within: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def _numbers(values: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    for name, value in _flat(values):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
