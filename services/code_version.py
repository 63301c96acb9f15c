"""Which code made something: the release, and a digest of the source that is installed."""

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

# What decides what an adapter becomes: the engine, and the plans it is given.
_PACKAGES = ("domain", "engine", "services", "workers")
_SHOWN_DIGITS = 16


@cache
def code_version() -> str:
    """`0.1.0+sha256.0123456789abcdef`: equal where release and source are equal, whatever machine they run on."""
    root = Path(__file__).resolve().parent.parent
    sha256 = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            sha256.update(f"{path.relative_to(root).as_posix()}\0".encode())
            sha256.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{metadata.version('tsugiki')}+sha256.{sha256.hexdigest()[:_SHOWN_DIGITS]}"
